"""The job that `enqueue` returns and callbacks receive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, NamedTuple

if TYPE_CHECKING:
    # Checkers know this module even where it is not installed.
    from typing_extensions import TypeVar

    R_co = TypeVar("R_co", covariant=True, default=Any)
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


class Job(_Fields, Generic[R_co]):
    """A call of a function, enqueued in Kafka: a namedtuple. To a type checker, `Job[int]` is one
    whose function returns an int.

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

    __slots__ = ()
