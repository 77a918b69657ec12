"""How Python ends, in a process that may not end that way: what is above a child in its stack is
its fork server."""

from __future__ import annotations

import threading
import time


def run_exit_hooks(join_seconds: float) -> None:
    """Run what was registered with `atexit`, after the threads that are no daemons, as Python does
    when it ends.

    Args:
        join_seconds: how long those threads are waited for; Python would for ever. The hooks run
            also if one has not ended.
    """
    # Here, since a host that never ends this way need not import multiprocessing for it: 8 ms.
    from embedkq._ipc.multiprocessing_private import run_exit_functions, run_threads_exit_hooks

    run_threads_exit_hooks()
    deadline = time.monotonic() + join_seconds
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
    run_exit_functions()
