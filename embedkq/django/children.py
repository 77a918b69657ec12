"""Django in a child process: set up before the first job, connections looked after around each.

A child is not forked from the host but from a bare interpreter, so it inherits no connection.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from embedkq._child import job_call


def set_up_child(settings_module: str, initializer: Callable[[], Any] | None) -> None:
    """Initializer of a child: set Django up, then call the project's own initializer, if there is
    one."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", settings_module)
    import django

    django.setup()
    job_call.set_job_context(_as_a_request)
    if initializer is not None:
        initializer()


@contextlib.contextmanager
def _as_a_request() -> Iterator[None]:
    """What Django's signal handlers do at the start and the end of a request."""
    from django.db import close_old_connections, reset_queries

    reset_queries()
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()
        _close_those_of_asyncio(close_old_connections)


def _close_those_of_asyncio(close_old_connections: Callable[[], None]) -> None:
    # Connections belong to threads, and `async def` uses them on a thread of asgiref's. That does
    # this before what the next job asks of it, so nothing here waits for it.
    if threading.active_count() > 1:
        from asgiref.sync import SyncToAsync

        SyncToAsync.single_thread_executor.submit(close_old_connections)
