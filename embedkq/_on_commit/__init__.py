"""Enqueues after a database transaction has committed: `queue.on_commit(...)`. The thread of the
transaction.

A call is encoded at once: what cannot travel is refused while the transaction can still be rolled
back, and what the job receives is what the arguments were then. Its record is sent after the
commit. Between the two a process can die, and then the job is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from embedkq._brokerless import NOWHERE, Place
from embedkq._enqueue import Enqueues
from embedkq._on_commit.sending import Defer, Waiting

if TYPE_CHECKING:
    from embedkq._enqueue import Target
    from embedkq._job_options import JobOptions
    from embedkq.job import Job


class Session(Protocol):
    """A session of SQLAlchemy: a `Session`, an `AsyncSession`, or a scoped one of either."""

    def expire_all(self) -> None:
        """Something that all of them have."""


class OnCommit(Enqueues):
    """Enqueues after the commit; made by `Queue.on_commit`.

    `enqueue` and `enqueue_many` check and encode the calls at once, and raise what they raise for
    that. Kafka receives the jobs after the commit, and none after a rollback. Of the returned jobs
    the ids are known at once, `partition` and `offset` after the commit.
    """

    _told = "To be enqueued after the commit:"

    def __init__(self, queue: Target, own: JobOptions, defer: Defer, robust: bool) -> None:
        self._queue = queue
        self._own = own
        self._defer = defer
        self._robust = robust

    def _producer(self, jobs: Sequence[Job]) -> Any:
        return _AfterCommit(self._queue, jobs, self._defer, self._robust)


class _AfterCommit(NamedTuple):
    """Has a producer's methods, and has these messages wait."""

    queue: Target
    jobs: Sequence[Job]
    defer: Defer
    robust: bool

    def send(self, message: Any) -> Place:
        """As `Producer.send`, but that its place is not known yet."""
        return self.send_and_locate((message,))[1][0]

    def send_and_locate(
        self, messages: Sequence[Any]
    ) -> tuple[dict[int, Exception], Sequence[Place]]:
        """As `Producer.send_and_locate`, but that the places are not known yet."""
        self.defer(
            [
                Waiting(self.queue, job, message, self.robust)
                for job, message in zip(self.jobs, messages, strict=True)
            ]
        )
        return {}, [NOWHERE] * len(messages)


def deferring(session: Session | None, using: str | None) -> Defer:
    """What has jobs wait for the commit of SQLAlchemy's session, or else of Django's database.

    Raises:
        TypeError, ValueError: neither is one.
    """
    if session is None:
        from embedkq._on_commit import django

        return django.deferring(using)
    if using is not None:
        raise ValueError(
            f"on_commit({session!r}, using={using!r}): `using` names a database of Django, for"
            " which there is no session; give one of them"
        )
    from embedkq._on_commit import sqlalchemy

    return sqlalchemy.deferring(session)
