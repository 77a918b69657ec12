"""What the jobs of a queue have of their own, as `Queue.using` gives it."""

from __future__ import annotations

from typing import Any, NamedTuple


class _Unchanged:
    def __repr__(self) -> str:
        return "unchanged"


UNCHANGED: Any = _Unchanged()


class JobOptions(NamedTuple):
    """What the jobs of a queue have of their own; None for nothing."""

    timeout: float | None = None
    key: bytes | None = None
    partition: int | None = None
    retries: int | None = None
    backoff: float | None = None
