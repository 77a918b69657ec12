"""Checks before the start whether a worker can run in this process."""

from __future__ import annotations

import os
import sys

from embedkq.errors import WorkerError

_MUST_BE_REAL = (
    "threading",
    "thread",
    "os",
    "select",
    "selectors",
    "socket",
    "subprocess",
    "time",
    "queue",
    "signal",
)


def check_environment() -> None:
    """Check this process and its platform.

    Raises:
        WorkerError: a worker cannot run here. The message says what to change.
    """
    if os.name != "posix":
        raise WorkerError("a Worker needs Linux or macOS (on Windows: WSL); a Queue works here")
    # here, because the import is slow and most processes that import a worker do not start one
    import multiprocessing

    if multiprocessing.current_process().daemon:
        raise WorkerError(
            f"this is {multiprocessing.current_process().name!r}, a daemonic multiprocessing"
            " process, which cannot have children: start this process with daemon=False, or start"
            " the worker in its parent"
        )
    _refuse_green_threads()
    _refuse_uwsgi_without_threads()
    from embedkq._ipc import multiprocessing_private
    from embedkq.worker.pool import pebble_private
    from embedkq.worker.pool.python_executable import find_python

    multiprocessing_private.check()
    pebble_private.check()
    find_python()


def is_loop_running() -> bool:
    """Whether the calling thread runs an asyncio loop."""
    asyncio = sys.modules.get("asyncio")  # if asyncio was never imported, no loop runs
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _refuse_green_threads() -> None:
    for library, module in (("gevent", "gevent.monkey"), ("eventlet", "eventlet.patcher")):
        monkey = sys.modules.get(module)
        check = getattr(monkey, "is_module_patched", None) or getattr(
            monkey, "is_monkey_patched", None
        )
        replaced = [name for name in _MUST_BE_REAL if check is not None and check(name)]
        if replaced:
            raise WorkerError(
                f"{library} has replaced this process's {', '.join(replaced)}, and a worker needs"
                " the original modules: run the app with real threads (gunicorn -k gthread), or"
                " run the worker in a separate process with `kq worker`"
            )


def _refuse_uwsgi_without_threads() -> None:
    uwsgi_options = getattr(
        sys.modules.get("uwsgi"), "opt", None
    )  # the module exists only inside uWSGI
    if uwsgi_options is not None and not {"enable-threads", "threads"} & set(uwsgi_options):
        raise WorkerError(
            "uWSGI runs no Python threads here, and a worker needs two: start uWSGI with"
            " --enable-threads"
        )
