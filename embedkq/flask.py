"""A Flask extension: queue, worker, callbacks and jobs inside the app's context.

The only user of Flask.

::

    kq = EmbedKQ()

    @kq.callback
    def on_end(status, job, result, exception, traceback): ...

    def create_app():
        app = Flask(__name__)
        app.config["EMBEDKQ_HOSTS"] = "kafka1:9092,kafka2:9092"
        app.config["EMBEDKQ_APP"] = "shop:create_app"
        kq.init_app(app)
        return app
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import click
import flask

from embedkq import Queue, Worker, _configuration
from embedkq._brokerless import surround
from embedkq._child import job_call
from embedkq._enqueue import EnqueuesOne
from embedkq._importing import import_functions, initializer_of
from embedkq._safe_logging import SafeLogger
from embedkq.job import Job
from embedkq.worker.owned import OwnedWorker
from embedkq.worker.owner_thread.dispatcher import Callback

logger = SafeLogger("embedkq.flask")

_EXTENSION = "embedkq"


class EmbedKQ(EnqueuesOne):
    """One queue and one worker for each app that it is initialised with.

    The worker starts by itself with the first request of a process, so never in Gunicorn's master
    or the reloader's parent, on an owning thread of its own; `start()` starts it earlier, say from
    Gunicorn's `post_worker_init`. Configuration, read by `init_app`:

    - EMBEDKQ_HOSTS, EMBEDKQ_SECRET and so on: the options of `Queue` and `Worker`, in capitals.
      TIMEOUT is the queue's, RETRIES and BACKOFF are the worker's; EMBEDKQ_WORKER_TIMEOUT,
      EMBEDKQ_QUEUE_RETRIES and their like are for one of the two.
    - EMBEDKQ_KAFKA: dict of further options of kafka-python; its producer and its consumer each get
      those that they know.
    - EMBEDKQ_WORKER: False for an app that only enqueues. Default True.
    - EMBEDKQ_EAGER: True runs each job, and the callback after it, at once in the request, without
      Kafka and worker. For tests and development.
    - EMBEDKQ_APP: where a child process finds the app, as `flask --app` takes it ("shop",
      "shop:create_app"): jobs then run inside its context. Without it they run without one.
    - EMBEDKQ_INITIALIZER: function to call in each child process before its first job, itself or as
      "MODULE:FUNCTION"; after EMBEDKQ_APP.
    - EMBEDKQ_HEALTH_URL: path of the health view, say "/health/jobs". Without it there is none.

    Args:
        app: initialise it at once.
        callback: as `Worker` takes it; called inside the app's context.
    """

    def __init__(self, app: flask.Flask | None = None, callback: Callback | None = None) -> None:
        self._callback = callback
        if app is not None:
            self.init_app(app)

    def callback(self, function: Callback) -> Callback:
        """Decorator: call this function after each job, inside the app's context. Before the worker
        starts."""
        self._callback = function
        return function

    def init_app(self, app: flask.Flask) -> None:
        """Read the app's configuration; connects to nothing and starts nothing.

        Raises:
            TypeError, ValueError: a setting cannot work; the message names it.
            WorkerError: a worker cannot run in this process, for example because gevent has patched
                it. An app that only enqueues sets EMBEDKQ_WORKER to False.
        """
        state = _AppState(app, lambda: self._callback)
        app.extensions[_EXTENSION] = state
        if state.runs_worker:
            app.before_request(state.start_once)
        if state.health_url:
            app.register_blueprint(_health_blueprint(state.health_url))
        app.cli.add_command(_Commands(app))

    @property
    def queue(self) -> Queue:
        """The current app's queue."""
        return _state().queue

    @property
    def worker(self) -> Worker:
        """The current app's worker."""
        return _state().worker

    def worker_options(self, app: flask.Flask) -> dict[str, Any]:
        """The options of the app's worker beside hosts and topic, for a test's fixture
        `kq_worker_options`: that worker then runs jobs and callbacks as the app's own."""
        options = _state(app).worker_options
        return {name: options[name] for name in options if name not in ("hosts", "topic")}

    def _enqueue(
        self, func: Callable[..., Any] | Job, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Job:
        return self.queue._enqueue(func, args, kwargs)

    def start(self, app: flask.Flask | None = None) -> None:
        """Start the worker on a background thread that owns it, unless it runs here already.

        Any thread.

        Raises:
            WorkerError: a worker cannot run in this process.
        """
        _state(app).start_once()

    def stop(self, timeout: float | None = 4.0, app: flask.Flask | None = None) -> bool:
        """Let what runs finish, for at most `timeout` seconds; whether it has. For the server's
        exit hook. Any thread."""
        return _state(app).owned.stop(timeout)


class _AppState:
    """What the extension keeps for one app."""

    def __init__(self, app: flask.Flask, callback: Callable[[], Callback | None]) -> None:
        _configuration.check_names(app.config, _configuration.known_names(), "app.config")
        self._app = app
        self._callback = callback
        own = _configuration.extension_options(app.config)
        self.health_url = own["health_url"]
        of_queue = _configuration.queue_options(app.config)
        self.queue = Queue(**of_queue)
        self._is_eager = bool(of_queue.get("eager"))
        self.runs_worker = bool(own["worker"]) and not self._is_eager
        if self._is_eager:
            surround(self.queue, self._call, app.app_context if own["app"] else None)
        self._app_path = own["app"]
        self.worker_options = self._options_with({})
        self.worker = self.make_worker({})
        self.owned = OwnedWorker(self.worker, app.name, logger)
        if self.runs_worker:
            self.owned.check()

    def make_worker(self, others: Mapping[str, Any]) -> Worker:
        """A worker with other options than the configuration has."""
        return Worker(**self._options_with(others))

    def _options_with(self, others: Mapping[str, Any]) -> dict[str, Any]:
        configured = _configuration.worker_options(self._app.config)
        options = {"callback": self._call, **configured, **others}
        import_functions(options)
        set_up = (self._app_path, initializer_of(options.pop("initializer", None)))
        if any(set_up):
            options |= {"initializer": set_up_child, "initargs": set_up}
        return options

    def start_once(self) -> None:
        if not self._is_eager:
            self.owned.start_once()

    def _call(self, status: str, job: Job, result: Any, exception: Any, traceback: Any) -> None:
        function = self._callback()
        if function is not None:
            with self._app.app_context():
                function(status, job, result, exception, traceback)


def set_up_child(where: str | None, initializer: Callable[[], Any] | None) -> None:
    """Initializer of a child: enter the app, then call the app's own initializer, as far as there
    are any."""
    if where:
        enter_app(where)
    if initializer is not None:
        initializer()


def enter_app(where: str) -> None:
    """In a child: build the app, and run each job inside its context."""
    from flask.cli import ScriptInfo

    app = ScriptInfo(app_import_path=where, set_debug_flag=False).load_app()

    def context() -> AbstractContextManager[Any]:
        return app.app_context()

    job_call.set_job_context(context)


def _state(app: flask.Flask | None = None) -> _AppState:
    app = app or flask.current_app
    try:
        state: _AppState = app.extensions[_EXTENSION]
    except KeyError:
        raise RuntimeError(
            f"app {app.name!r} does not know embedkq: call kq.init_app(app) first"
        ) from None
    return state


def _health_blueprint(url: str) -> flask.Blueprint:
    blueprint = flask.Blueprint("embedkq", __name__)

    @blueprint.get(url)
    def health() -> tuple[dict[str, Any], int]:
        now = _state().worker.health()
        return now.as_dict(), 200 if now.healthy else 503

    return blueprint


class _Commands(click.Group):
    """`flask kq`: the commands of `kq`, with the app's configuration, in its context."""

    def __init__(self, app: flask.Flask) -> None:
        super().__init__("kq", help="Run this app's jobs, or look at them.")
        self._app = app

    @cached_property
    def _kq(self) -> click.Group:
        try:
            from embedkq.cli.hosted import commands_with
        except ModuleNotFoundError as error:
            if error.name != "rich":
                raise
            raise click.ClickException(
                "flask kq needs the package rich: pip install 'embedkq[cli]'"
            ) from None
        config = self._app.config
        return commands_with(
            _configuration.queue_options(config),
            _configuration.worker_options(config),
            _state(self._app).make_worker,
        )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Of `flask kq --help`."""
        return self._kq.list_commands(ctx)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command of this name."""
        return self._kq.get_command(ctx, name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        self._kq.check_environment(ctx)  # type: ignore[attr-defined]
        with self._app.app_context():
            return super().invoke(ctx)
