"""The job as callers and callbacks see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Job(NamedTuple):
    """One function call on its way through Kafka.

    Attributes:
        id: UUID as a string.
        timestamp: Unix time in milliseconds at which the job was enqueued.
        topic: the Kafka topic that it was sent to.
        func: the function to call. None, like args and kwargs, where the payload could not be
            decoded in this process.
        args: positional arguments.
        kwargs: keyword arguments.
        timeout: the job's own limit in seconds; None for no limit of its own.
        key: the record's key in bytes; jobs with the same key run one after another. None for no
            key.
    """

    id: str | None = None
    timestamp: int | None = None
    topic: str | None = None
    func: Callable[..., Any] | None = None
    args: tuple[Any, ...] | None = None
    kwargs: Mapping[str, Any] | None = None
    timeout: float | None = None
    key: bytes | None = None
