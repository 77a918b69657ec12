"""The job that `enqueue` returns and callbacks receive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Job(NamedTuple):
    """A call of a function, enqueued in Kafka.

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

    id: str | None = None
    timestamp: int | None = None
    topic: str | None = None
    func: Callable[..., Any] | None = None
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None
    timeout: float | None = None
    key: bytes | None = None
