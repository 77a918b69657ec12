"""Settings of a queue's jobs, as `Queue.using` sets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypedDict


class _Unchanged:
    def __repr__(self) -> str:
        return "unchanged"


UNCHANGED: Any = _Unchanged()


class JobSettings(TypedDict, total=False):
    """The parameters of `Queue.using`, for type checkers where `Queue.job` takes them too."""

    timeout: float | None
    key: str | bytes | None
    partition: int | None
    retries: int | None
    backoff: float | None
    headers: Mapping[str, str] | None


class JobOptions(NamedTuple):
    """Settings of a queue's jobs; None if not set. `headers` are as a record has them."""

    timeout: float | None = None
    key: bytes | None = None
    partition: int | None = None
    retries: int | None = None
    backoff: float | None = None
    headers: tuple[tuple[str, bytes], ...] = ()
