"""A backend for Django's tasks: `django.tasks` of Django 6, or the package django-tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from traceback import format_exception
from typing import Any

from django.core import checks
from django.utils import timezone
from django.utils.module_loading import import_string

from embedkq import Queue, current_job
from embedkq.django import project
from embedkq.job import this_worker

try:
    from django.tasks import base, signals
    from django.tasks.backends.base import BaseTaskBackend
    from django.utils.json import normalize_json
except ImportError:
    from django_tasks import base, signals
    from django_tasks.backends.base import BaseTaskBackend
    from django_tasks.utils import normalize_json


class TasksBackend(BaseTaskBackend):  # type: ignore[misc]  # Django has no types
    """Enqueues tasks as jobs.

    The task queue "default" is the project's topic, any other one the topic of its name. OPTIONS
    are options of `Queue`, in place of those that the settings have.
    """

    supports_defer = False
    supports_async_task = True
    supports_get_result = False
    supports_priority = False

    def __init__(self, alias: str, params: dict[str, Any]) -> None:
        super().__init__(alias, params)
        self._queues: dict[str, Queue] = {}

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        """Put a task on its topic; returns once all replicas have it.

        Raises:
            TypeError, ValueError: an argument is nothing that JSON has.
            What `Queue.enqueue` raises.
        """
        self.validate_task(task)
        result = _result_of(task, self.alias, normalize_json(args), normalize_json(kwargs))
        how = {"backend": self.alias, "queue_name": task.queue_name}
        job = self._queue_of(task.queue_name).enqueue(
            run_task, task.module_path, result.args, result.kwargs, how, str(result.enqueued_at)
        )
        result = replace(result, id=job.id)
        signals.task_enqueued.send(type(self), task_result=result)
        return result

    def check(self, **kwargs: Any) -> list[Any]:
        """Django's system check: whether OPTIONS can work."""
        try:
            project.current().make_queue(self.options).close()
        except (TypeError, ValueError) as error:
            return [checks.Error(f"TASKS[{self.alias!r}]: {error}", id="embedkq.E002")]
        return list(super().check(**kwargs) or ())

    def _queue_of(self, name: str) -> Queue:
        is_default = name == base.DEFAULT_TASK_QUEUE_NAME
        if is_default and not self.options:
            return project.current().queue
        if name not in self._queues:
            topic = {} if is_default else {"topic": name}
            self._queues[name] = project.current().make_queue({**self.options, **topic})
        return self._queues[name]


def run_task(
    path: str, args: list[Any], kwargs: dict[str, Any], how: Mapping[str, str], enqueued_at: str
) -> Any:
    """The job of a task: run the function with Django's signals around it. In a child process.

    Args:
        path: where the task is, with dots. Nothing but a task runs.
        how: its backend and queue, which `using` may have changed.
        enqueued_at: in ISO 8601.
    """
    task = import_string(path)
    if not isinstance(task, base.Task):
        raise TypeError(f"{path!r} is not a task but {task!r}")
    if (task.backend, task.queue_name) != (how["backend"], how["queue_name"]):
        task = task.using(**how)
    result = _running(task, args, kwargs, datetime.fromisoformat(enqueued_at))
    sender = type(task.get_backend())
    signals.task_started.send(sender, task_result=result)
    context = (base.TaskContext(task_result=result),) if task.takes_context else ()
    try:
        value = normalize_json(task.call(*context, *result.args, **result.kwargs))
    except BaseException as error:
        failure = base.TaskError(
            exception_class_path=f"{type(error).__module__}.{type(error).__qualname__}",
            traceback="".join(format_exception(error)),
        )
        _end(result, base.TaskResultStatus.FAILED, sender, errors=[failure])
        raise
    _end(result, base.TaskResultStatus.SUCCESSFUL, sender, _return_value=value)
    return value


def _result_of(task: Any, alias: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return base.TaskResult(
        task=task,
        id="",
        status=base.TaskResultStatus.READY,
        enqueued_at=timezone.now(),
        started_at=None,
        last_attempted_at=None,
        finished_at=None,
        args=args,
        kwargs=kwargs,
        backend=alias,
        errors=[],
        worker_ids=[],
    )


def _running(task: Any, args: list[Any], kwargs: dict[str, Any], enqueued_at: datetime) -> Any:
    now, job = timezone.now(), current_job()
    return replace(
        _result_of(task, task.backend, args, kwargs),
        id=job.id,
        status=base.TaskResultStatus.RUNNING,
        enqueued_at=enqueued_at,
        started_at=now,
        last_attempted_at=now,
        worker_ids=[this_worker()] * job.attempt,
    )


def _end(result: Any, status: Any, sender: type, **values: Any) -> None:
    for name, value in {**values, "status": status, "finished_at": timezone.now()}.items():
        object.__setattr__(result, name, value)  # as Django's own backends do
    signals.task_finished.send(sender, task_result=result)
