"""Runs Python's exit hooks in a child. A child cannot exit normally, because its stack continues in
the fork server's code."""

from __future__ import annotations

import threading
import time


def run_exit_hooks(join_seconds: float) -> None:
    """Join the non-daemon threads and then run the `atexit` functions, as Python does at exit.

    Args:
        join_seconds: how long to wait for the threads; Python waits forever. The functions run even
            if a thread has not ended.
    """
    # Imported here so that hosts do not pay 8 ms to import multiprocessing.
    from embedkq._ipc.multiprocessing_private import run_exit_functions, run_threads_exit_hooks

    run_threads_exit_hooks()
    deadline = time.monotonic() + join_seconds
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
    run_exit_functions()
