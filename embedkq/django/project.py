"""What the project's settings make: its queue and its worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import close_old_connections

from embedkq import Queue, _configuration
from embedkq._brokerless import surround
from embedkq._importing import function_by_name, import_functions, initializer_of
from embedkq._options.option import PREFIX
from embedkq._safe_logging import SafeLogger
from embedkq.django.children import set_up_child
from embedkq.job import Job

if TYPE_CHECKING:
    from embedkq import Worker
    from embedkq.worker.owned import OwnedWorker

logger = SafeLogger("embedkq.django")

_CALLBACK = f"{PREFIX}CALLBACK"
_OF_FLASK = {f"{PREFIX}APP", f"{PREFIX}HEALTH_URL"}
"""Children find the project by DJANGO_SETTINGS_MODULE, and views by its URLs."""


def known_names() -> frozenset[str]:
    """All settings of a project."""
    return (_configuration.known_names() - _OF_FLASK) | {_CALLBACK}


def check_names() -> None:
    """Refuse settings that begin with EMBEDKQ_ and are none.

    Raises:
        ValueError: the message names the nearest one.
    """
    _configuration.check_names(configuration(), known_names(), "the settings module")


def configuration() -> dict[str, Any]:
    """The settings that begin with EMBEDKQ_."""
    return {name: getattr(settings, name) for name in dir(settings) if name.startswith(PREFIX)}


class Project:
    """What the settings make. Connects to nothing and starts nothing.

    - EMBEDKQ_HOSTS, EMBEDKQ_SECRET and so on: the options of `Queue` and `Worker`, as the Flask
      extension has them.
    - EMBEDKQ_CALLBACK: function to call after each job, itself or as "MODULE:FUNCTION".
    - EMBEDKQ_WORKER: True has each process that serves requests run jobs. Default False: the test
      client's requests would start it too, with the database that is no test's.
    """

    def __init__(self) -> None:
        check_names()
        self._config = configuration()
        self.queue = self.make_queue({})
        self.runs_worker = bool(self._config.get(f"{PREFIX}WORKER")) and not self.queue.eager
        self._owned: OwnedWorker | None = None

    def make_queue(self, options: Mapping[str, Any]) -> Queue:
        """A queue with other options than the settings have."""
        made = Queue(**{**_configuration.queue_options(self._config), **options})
        surround(made, self._call_back, None)
        return made

    @property
    def owned(self) -> OwnedWorker:
        """The worker of the settings, for a process that serves requests. Raises as
        `worker_options`."""
        with _making:
            if self._owned is None:
                from embedkq.worker.owned import OwnedWorker  # here, since Windows has none

                self._owned = OwnedWorker(self.make_worker({}), "the project", logger)
            return self._owned

    def make_worker(self, options: Mapping[str, Any]) -> Worker:
        """A worker with other options than the settings have. Raises as `worker_options`."""
        from embedkq import Worker

        return Worker(**self.worker_options(options))

    def worker_options(self, others: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The arguments of the worker.

        Args:
            others: in place of those of the settings.

        Raises:
            ValueError: a function is not where a setting says.
            ImproperlyConfigured: child processes could not find the settings.
        """
        options = {**_configuration.worker_options(self._config), **(others or {})}
        import_functions(options)
        initializer = initializer_of(options.pop("initializer", None))
        callback = options.pop("callback", None) or self._callback
        return {
            **options,
            "initializer": set_up_child,
            "initargs": (_settings_module(), initializer),
            "callback": _with_fresh_connections(callback) if callback is not None else None,
        }

    def start_once(self) -> None:
        """Start the worker on a thread of its own, unless it runs here already."""
        if not self.queue.eager:
            self.owned.start_once()

    def check(self) -> None:
        """Make everything, to see whether it can be made; raises what it raises."""
        self.make_queue({}).close()
        self.make_worker({})

    @cached_property
    def _callback(self) -> Callable[..., Any] | None:
        given = self._config.get(_CALLBACK)
        return function_by_name(given, _CALLBACK) if isinstance(given, str) else given

    def _call_back(self, status: str, job: Job, result: Any, exception: Any, text: Any) -> None:
        # After an eager job, so within the caller's transaction: its connection stays as it is.
        if self._callback is not None:
            self._callback(status, job, result, exception, text)


_making = threading.RLock()
_current: Project | None = None


def current() -> Project:
    """The project, as the settings are now. Any thread. Raises as `Queue`."""
    global _current
    with _making:
        if _current is None:
            _current = Project()
        return _current


def forget() -> None:
    """The settings have changed."""
    global _current
    _current = None


def _settings_module() -> str:
    try:
        return os.environ["DJANGO_SETTINGS_MODULE"]
    except KeyError:
        raise ImproperlyConfigured(
            "a worker needs DJANGO_SETTINGS_MODULE: its child processes find the settings by it"
        ) from None


def _with_fresh_connections(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Around each callback what Django does around each request: the thread of a worker lives long,
    and databases drop connections."""

    def called(status: str, job: Job, result: Any, exception: Any, traceback: Any) -> None:
        close_old_connections()
        try:
            callback(status, job, result, exception, traceback)
        finally:
            close_old_connections()

    return called
