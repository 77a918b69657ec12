"""Calls that are right: no type checker may find fault with any."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from functions import add, crawl, fetch, mail, queue, resize, tick
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session

from embedkq import Job, call

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: object, kind: object) -> object:
        return value


def calls() -> None:
    """The ten."""
    assert_type(queue.enqueue(add, 1, b=2), Job[int])
    assert_type(queue.enqueue(resize, "a.png", sharp=True), Job[str])
    assert_type(queue.using(timeout=5, key="k").enqueue(fetch, "here"), Job[bytes])
    assert_type(queue.enqueue(queue.enqueue(add, 1, 2)), Job[int])
    assert_type(queue.enqueue(mail, "me"), Job[bool])
    assert_type(mail.delay("me", text="hello"), Job[bool])
    assert_type(crawl.delay("here"), Job[list[str]])
    assert_type(queue.enqueue_many([(resize, ("a.png",)), (resize, ("b.png",))]), list[Job[str]])
    assert_type(queue.enqueue_many(call(fetch, url) for url in ("a", "b")), list[Job[bytes]])
    assert_type(
        queue.enqueue_many([call(add, 1, b=2), call(add, a=1, b=2)]),
        list[Job[int]],
    )


def more_calls(paths: list[str]) -> None:
    """Other forms of these."""
    assert_type(mail("me"), bool)
    assert_type(queue.enqueue_many((add, (number, 2)) for number in range(3)), list[Job[int]])
    assert_type(queue.enqueue_many((fetch, (path,)) for path in paths), list[Job[bytes]])
    assert_type(queue.enqueue_many([(add, (1, 2), {}), (add, (1,), {"b": 2})]), list[Job[int]])
    assert_type(queue.enqueue_many([tick, tick]), list[Job[None]])
    queue.enqueue_many([call(add, 1, 2), call(mail, "me"), call(tick)])
    queue.enqueue_many(queue.enqueue_many([(divmod, (1, 2))]))
    queue.enqueue(print, 1, 2, sep="")
    queue.enqueue(sum, [1, 2])
    queue.enqueue(mail.__name__.upper)


def after_commits(
    session: Session, scoped: scoped_session[Session], asynchronous: AsyncSession
) -> None:
    """Those that wait for a commit."""
    assert_type(queue.on_commit(session).enqueue(add, 1, b=2), Job[int])
    assert_type(queue.on_commit(scoped).enqueue(add, 1, b=2), Job[int])
    assert_type(queue.on_commit(asynchronous).enqueue(add, 1, b=2), Job[int])
    assert_type(queue.on_commit(using="other", robust=True).enqueue(fetch, "here"), Job[bytes])
    assert_type(queue.using(key="k").on_commit().enqueue_many([(add, (1, 2))]), list[Job[int]])
    assert_type(mail.delay.on_commit(session)("me", text="hello"), Job[bool])
    assert_type(crawl.delay.on_commit()("here"), Job[list[str]])


async def from_a_loop() -> None:
    job = await asyncio.to_thread(queue.enqueue, add, 1, 2)
    assert_type(await crawl("here"), list[str])
    print(job.id)


def callback(
    status: str, job: Job, result: Any, exception: Exception | None, traceback: str | None
) -> None:
    """A `Job` without a parameter is one of any result."""
    known: dict[str, int] = {job.id: job.timestamp}
    job_id, timestamp, *_ = job
    other: Job[int] = job._replace(id="other")
    print(known, job_id, timestamp, other, job == other)


def is_job(value: object) -> bool:
    return isinstance(value, Job)
