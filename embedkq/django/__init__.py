"""embedkq in a Django project: a queue and a worker made from the project's settings, jobs that
have Django set up, `manage.py kq`, and a backend for Django's tasks.

This package is the only user of Django, but for `Queue.on_commit`.

    INSTALLED_APPS = [..., "embedkq.django"]
    EMBEDKQ_HOSTS = "kafka1:9092,kafka2:9092"
    EMBEDKQ_TOPIC = "shop"

    from embedkq.django import queue
    queue().on_commit().enqueue(resize, "a.png")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkq import Queue, Worker
    from embedkq.django.tasks import TasksBackend as TasksBackend

__all__ = ["TasksBackend", "queue", "start", "stop", "worker", "worker_options"]


def queue() -> Queue:
    """The project's queue. Any thread; connects to nothing before the first job.

    Raises:
        TypeError, ValueError: a setting cannot work; the message names it.
    """
    from embedkq.django.project import current

    return current().queue


def worker() -> Worker:
    """The project's worker, which runs only where something has started it. Raises as `queue`."""
    from embedkq.django.project import current

    return current().owned.worker


def worker_options() -> dict[str, Any]:
    """The options of the project's worker beside hosts and topic, for a test's fixture
    `kq_worker_options`: that worker then runs jobs and callbacks as the project's own."""
    from embedkq.django.project import current

    options = current().worker_options()
    return {name: options[name] for name in options if name not in ("hosts", "topic")}


def start() -> None:
    """Start the worker on a background thread that owns it, unless it runs in this process already.

    With the setting EMBEDKQ_WORKER the first request of a process does this. Not in a module and
    not in `AppConfig.ready`, which run in Gunicorn's master and the reloader's parent too. Any
    thread.
    """
    from embedkq.django.project import current

    current().start_once()


def stop(timeout: float | None = 4.0) -> bool:
    """Let what runs finish, for at most `timeout` seconds; whether it has. For the server's exit
    hook. Any thread."""
    from embedkq.django.project import current

    return current().owned.stop(timeout)


def __getattr__(name: str) -> Any:
    if name == "TasksBackend":  # not above, since older versions of Django have no tasks
        from embedkq.django.tasks import TasksBackend

        return TasksBackend
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
