"""The job that `enqueue` returns and callbacks receive."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn

if TYPE_CHECKING:
    from datetime import datetime

    # Checkers know this module even where it is not installed.
    from typing_extensions import TypeVar

    R_co = TypeVar("R_co", covariant=True, default=Any)
    R = TypeVar("R")
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)


class _Fields(NamedTuple):
    # The first three are None only in a job that somebody makes without them.
    id: str = None  # type: ignore[assignment]
    timestamp: int = None  # type: ignore[assignment]
    topic: str = None  # type: ignore[assignment]
    func: Callable[..., Any] | None = None
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None
    timeout: float | None = None
    key: bytes | None = None


Facts = tuple[Any, ...]
"""What is known of a job beside its fields, as far as it is known, in this order: partition and
offset of its record (-1: Kafka did not say); the headers that it was enqueued with; how often it
was begun; `time.monotonic_ns()` at which its last attempt started and ended, or 0; seconds to add
to `time.monotonic()` for Unix time; the worker that ran it."""
_PARTITION, _OFFSET, _HEADERS, _ATTEMPTS, _STARTED, _ENDED, _CLOCK, _WORKER = range(8)


class Job(_Fields, Generic[R_co]):
    """A call of a function, enqueued in Kafka: a namedtuple. To a type checker, `Job[int]` is one
    whose function returns an int.

    Beside these fields a job has properties. They take no part in comparison, and what `_replace`,
    `copy` or a pickle makes has the fields only.

    Attributes:
        id: UUID as a string.
        timestamp: when the job was enqueued, in Unix milliseconds.
        topic: the Kafka topic of the job.
        func: the function to call. None, like args and kwargs, if this process could not decode the
            payload.
        args: positional arguments.
        kwargs: keyword arguments.
        timeout: the job's own time limit in seconds; None if it has none.
        key: the record's key in bytes, or None. Jobs with the same key run one after another.
    """

    _facts: Facts = ()

    @property
    def enqueued(self) -> datetime | None:
        """When the job was enqueued, with a time zone (UTC): `timestamp` as a datetime."""
        return None if self.timestamp is None else moment(self.timestamp / 1000)

    @property
    def started(self) -> datetime | None:
        """When its last attempt began, with a time zone (UTC). None before the callback, and if
        that attempt did not get to call the function."""
        return self._at(_STARTED)

    @property
    def ended(self) -> datetime | None:
        """When its last attempt ended, with a time zone (UTC). None before the callback, and if the
        job was not run."""
        return self._at(_ENDED)

    @property
    def attempts(self) -> int | None:
        """How many attempts there were, in other workers too. None before the callback."""
        attempts: int | None = self._fact(_ATTEMPTS)
        return attempts

    @property
    def partition(self) -> int | None:
        """Number of the partition that has its record. None if no `enqueue` or callback has passed
        the job, or Kafka did not acknowledge it."""
        partition: int | None = self._fact(_PARTITION)
        return partition

    @property
    def offset(self) -> int | None:
        """Offset of its record in the partition. None as `partition`, and if Kafka has acknowledged
        a repeated transmission without it."""
        offset = self._fact(_OFFSET)
        return None if offset is None or offset < 0 else offset

    @property
    def worker(self) -> str | None:
        """Host name and process id of the worker, such as "web-1:4711". None before the
        callback."""
        worker: str | None = self._fact(_WORKER)
        return worker

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers that it was enqueued with; empty if there are none."""
        return self._fact(_HEADERS) or {}

    def _fact(self, index: int) -> Any:
        return self._facts[index] if index < len(self._facts) else None

    def _at(self, index: int) -> datetime | None:
        nanoseconds = self._fact(index)
        return moment(nanoseconds / 1e9 + self._fact(_CLOCK)) if nanoseconds else None

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Job cannot be changed: {name!r} cannot be set")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Job cannot be changed: {name!r} cannot be deleted")

    def __getstate__(self) -> None:
        """A pickle has the fields only, as those that older versions write and read."""


def know(job: Job[R], facts: Facts) -> Job[R]:
    """The same job, with what is known of it. Only for who has made it."""
    job.__dict__["_facts"] = facts
    return job


def this_worker() -> str:
    """The name of a worker in this process, for `Job.worker`."""
    import socket  # here, since few processes need it

    return f"{socket.gethostname()}:{os.getpid()}"


def moment(seconds: float) -> datetime | None:
    """Unix time as a datetime in UTC; None if it is none that a datetime can have, since anybody
    may have written it."""
    from datetime import datetime, timezone  # here, since few processes need it

    try:
        return datetime.fromtimestamp(seconds, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
