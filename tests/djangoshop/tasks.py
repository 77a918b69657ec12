"""Tasks of Django's framework: that of Django 6, or else the package django-tasks."""

from __future__ import annotations

from typing import Any

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task


@task
def ship(name: str, boxes: int = 1) -> list[Any]:
    from djangoshop.models import Order

    Order.objects.filter(name=name).update(state="shipped")
    return [name, boxes]


@task
async def ship_async(name: str) -> int:
    from djangoshop.models import Order

    return await Order.objects.filter(name=name).aupdate(state="shipped")


@task(takes_context=True)
def tell(context: Any, word: str) -> list[Any]:
    result = context.task_result
    return [word, context.attempt, result.id, str(result.status), result.task.queue_name]


@task(takes_context=True)
def fail_once(context: Any) -> int:
    if context.attempt == 1:
        raise OSError("the first attempt fails")
    return int(context.attempt)


@task
def give_a_set() -> set[int]:
    return {1}


@task(queue_name="other", backend="default")
def elsewhere() -> str:
    return "elsewhere"


@task(backend="limited")
def limited() -> None:
    pass


not_a_task = len
