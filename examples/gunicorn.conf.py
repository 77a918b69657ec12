"""Gunicorn's settings for flask_app.py: each of its worker processes runs an embedkq worker on a
thread of its own.

Needs, run, see: flask_app.py. Both hooks are called in the worker process, so this also holds with
`--preload`.
"""

from __future__ import annotations

from typing import Any


def post_worker_init(worker: Any) -> None:
    """The app has been loaded."""
    from flask_app import start_worker

    start_worker()


def worker_exit(server: Any, worker: Any) -> None:
    """No request runs any more; the process is about to leave."""
    from flask_app import stop_worker

    stop_worker()
