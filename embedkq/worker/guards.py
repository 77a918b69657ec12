"""Where a worker cannot work, said at the start instead of found out later."""
from __future__ import annotations

import os
import sys

from embedkq.errors import WorkerError


def refuse_where_it_cannot_work() -> None:
    """Look at this process and its platform.

    Raises:
        WorkerError: a worker cannot run here; the message names the cure.
    """
    if os.name != "posix":
        raise WorkerError("a Worker needs Linux or macOS (on Windows: WSL); a Queue works here")
    import multiprocessing  # here, since it takes its time, and most that import a worker do not start one

    if multiprocessing.current_process().daemon:
        raise WorkerError(
            f"this is {multiprocessing.current_process().name!r}, a daemonic multiprocessing process, which may not have children: "
            "start it with daemon=False, or start the worker in its parent"
        )
    patched = _patched_by()
    if patched:
        raise WorkerError(
            f"{patched} has replaced this process's threads by green ones, which one blocking call stops all together: "
            "run the app with real threads (gunicorn -k gthread), or run the worker apart with `kq worker`"
        )


def is_loop_running() -> bool:
    """Whether the calling thread runs an asyncio loop."""
    asyncio = sys.modules.get("asyncio")  # where nobody has imported it, none runs
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _patched_by() -> str | None:
    for library, module in (("gevent", "gevent.monkey"), ("eventlet", "eventlet.patcher")):
        monkey = sys.modules.get(module)
        check = getattr(monkey, "is_module_patched", None) or getattr(monkey, "is_monkey_patched", None)
        if check is not None and (check("threading") or check("thread")):
            return library
    return None
