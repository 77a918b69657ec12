"""What `Queue` and `Queue.using(...)` share: calls become records, and go to Kafka. Any thread.

The overloads let type checkers hold each call against its function's signature.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeAlias, TypeVar, overload

from embedkq._options import check_headers
from embedkq._safe_logging import INFO, SafeLogger, safe_repr
from embedkq.errors import EnqueueFailed, JobTooLarge
from embedkq.job import Job, know

if TYPE_CHECKING:
    from embedkq._formats.signing import Signer
    from embedkq._job_options import JobOptions

logger = SafeLogger("embedkq.queue")

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
D = TypeVar("D")
E = TypeVar("E")

Coro: TypeAlias = Coroutine[Any, Any, R]
Whole: TypeAlias = tuple[Callable[..., R], Sequence[Any], Mapping[str, Any]]
Of1: TypeAlias = tuple[Callable[[A], R], tuple[A]]
Of2: TypeAlias = tuple[Callable[[A, B], R], tuple[A, B]]
Of3: TypeAlias = tuple[Callable[[A, B, C], R], tuple[A, B, C]]
Of4: TypeAlias = tuple[Callable[[A, B, C, D], R], tuple[A, B, C, D]]
Of5: TypeAlias = tuple[Callable[[A, B, C, D, E], R], tuple[A, B, C, D, E]]
"""A function with so many arguments. (A `TypeVarTuple` would not know of default values.)"""

_WINDOW = 5_000
_WINDOW_BYTES = 8 * 1024 * 1024
_LOGGED_CHARACTERS = 1024


def call(
    func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs
) -> tuple[Callable[..., R], tuple[Any, ...], dict[str, Any]]:
    """A call for `enqueue_many`, as the tuple (function, args, kwargs). Type checkers hold it
    against the function's signature."""
    return func, args, kwargs


class Target(Protocol):
    """What is used of a `Queue` to send a job."""

    _signer: Signer | None
    _is_json: bool

    @property
    def topic(self) -> str:
        """Topic that jobs are put on."""

    @property
    def timeout(self) -> float | None:
        """Limit of each job in seconds, or None."""

    @property
    def job_size(self) -> int:
        """Bytes that a record may have."""

    def _producer(self, jobs: Sequence[Job]) -> Any: ...

    def _refuse_if_incomplete(self) -> None: ...


class EnqueuesOne:
    """The method that enqueues one call."""

    @overload
    def enqueue(self, func: Job[R], /) -> Job[R]: ...

    @overload
    def enqueue(
        self, func: Callable[P, Coro[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Job[R]: ...

    @overload
    def enqueue(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Job[R]: ...

    def enqueue(self, func: Callable[..., Any] | Job, /, *args: Any, **kwargs: Any) -> Job:
        """Put a call on the topic; returns once all replicas have it. Any thread.

        In asyncio: `await asyncio.to_thread(queue.enqueue, func, ...)`.

        Args:
            func: importable, a function of `__main__`, or a `Job` to put back: same call, key,
                limit and headers, new id and timestamp.
            args, kwargs: what to call it with.

        Raises:
            TypeError: `func` is not callable.
            EncodeError: the function or an argument cannot be pickled, or written as JSON.
            JobTooLarge: larger than `job_size`, or than the broker takes.
            BrokerUnavailable: no acknowledgement within 10 s; `maybe_sent` says whether it may
                have arrived all the same.
            BrokerRefused: the broker does not allow it.
        """
        return self._enqueue(func, args, kwargs)

    def _enqueue(
        self, func: Callable[..., Any] | Job, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Job:
        raise NotImplementedError


class Enqueues(EnqueuesOne):
    """The methods that enqueue."""

    _queue: Target
    _own: JobOptions
    _told = "Enqueued:"

    def _producer(self, jobs: Sequence[Job]) -> Any:
        return self._queue._producer(jobs)

    def _enqueue(
        self, func: Callable[..., Any] | Job, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Job:
        job, message = self._prepare(func, args, kwargs)
        place = self._producer([job]).send(message)
        log(job, self._told)
        return placed(job, place)

    @overload
    def enqueue_many(self, calls: Iterable[Job[R]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Whole[Coro[R]]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Callable[[], Coro[R]]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(
        self, calls: Iterable[tuple[Callable[[], Coro[R]], tuple[()]]]
    ) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Of1[A, Coro[R]]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Of2[A, B, Coro[R]]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Of3[A, B, C, Coro[R]]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Of4[A, B, C, D, Coro[R]]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Of5[A, B, C, D, E, Coro[R]]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Whole[R]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Callable[[], R]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[tuple[Callable[[], R], tuple[()]]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Of1[A, R]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Of2[A, B, R]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Of3[A, B, C, R]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Of4[A, B, C, D, R]]) -> list[Job[R]]: ...

    @overload
    def enqueue_many(self, calls: Iterable[Of5[A, B, C, D, E, R]]) -> list[Job[R]]: ...

    def enqueue_many(self, calls: Iterable[Any]) -> list[Job]:
        """Put many calls on the topic, pipelined; returns once all replicas have all of them. Any
        thread.

        Args:
            calls: of each the function, or a tuple (function, args), or (function, args, kwargs),
                such as `call` makes, or a `Job`.

        Raises:
            EnqueueFailed: says which were acknowledged and which not; `__cause__` is the first
                reason.
            TypeError, EncodeError, JobTooLarge: a call cannot be sent; those before it may have
                been, up to 5,000 or 8 MiB at a time.
        """
        iterator = iter(calls)
        acknowledged: list[Job] = []
        while window := self._prepare_some(iterator):
            producer = self._producer([job for job, _ in window])
            failures, places = producer.send_and_locate([message for _, message in window])
            acknowledged += [
                placed(job, places[index])
                for index, (job, _) in enumerate(window)
                if index not in failures
            ]
            if failures:
                failed = [window[index][0] for index in sorted(failures)]
                raise EnqueueFailed(acknowledged, failed) from failures[min(failures)]
        for job in acknowledged:
            log(job, self._told)
        return acknowledged

    def _prepare(
        self, func: Callable[..., Any] | Job, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Job, Any]:
        from embedkq import codec
        from embedkq._clients.producer import Message
        from embedkq._formats import (
            headers,
            json_job,
        )  # here, like the producer: an app that only makes a queue starts sooner

        self._queue._refuse_if_incomplete()
        timeout, key, own_headers = self._own.timeout, self._own.key, self._own.headers
        if isinstance(func, Job):
            own_headers = own_headers or check_headers(func.headers)
            func, args, kwargs, timeout, key = self._call_of(func, args, kwargs)
        if not callable(func):
            raise TypeError(
                f"a job is a callable with its arguments, or a Job to put back, not {func!r}"
            )
        is_json = self._queue._is_json
        encode = json_job.encode if is_json else codec.encode_call
        payload = encode(func, args, dict(kwargs))
        job_id, timestamp = str(uuid.uuid4()), int(time.time() * 1000)
        record_headers = headers.headers_of(
            job_id, timestamp, timeout, self._own.retries, self._own.backoff, is_json
        )
        if own_headers:
            record_headers += own_headers
        if (signer := self._queue._signer) is not None:
            record_headers = signer.sign(self._queue.topic, key, record_headers, payload)
        message = Message(self._queue.topic, payload, key, record_headers, self._own.partition)
        if message.size > self._queue.job_size:
            raise JobTooLarge(message.size, self._queue.job_size)
        job: Job = Job(job_id, timestamp, self._queue.topic, func, args, kwargs, timeout, key)
        if own_headers:
            from embedkq._formats import user_headers

            know(job, (None, None, user_headers.decode(own_headers)))
        return job, message

    def _prepare_some(self, calls: Iterator[Any]) -> list[tuple[Job, Any]]:
        some, size = [], 0
        for call in islice(calls, _WINDOW):
            some.append(self._prepare(*_split(call)))
            size += len(some[-1][1].value)
            if size >= _WINDOW_BYTES:
                break
        return some

    def _call_of(
        self, job: Job, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, Any, Any, Any, Any]:
        if args or kwargs:
            raise TypeError(
                "a Job that is put back keeps its arguments: enqueue(job.func, ...) calls it with"
                " others"
            )
        if job.func is None:
            raise TypeError(f"Job {job.id} could not be decoded here, so it cannot be put back")
        key = job.key if self._own.key is None and self._own.partition is None else self._own.key
        timeout = job.timeout if self._own.timeout is self._queue.timeout else self._own.timeout
        return job.func, tuple(job.args or ()), dict(job.kwargs or {}), timeout, key


def _split(call: Any) -> tuple[Any, tuple[Any, ...], Mapping[str, Any]]:
    if isinstance(call, Job) or not isinstance(call, tuple):
        return call, (), {}
    if 1 <= len(call) <= 3 and isinstance(call[-1], Mapping if len(call) == 3 else object):
        func, args, kwargs = (
            (*call, (), {})[0],
            call[1] if len(call) > 1 else (),
            call[2] if len(call) > 2 else {},
        )
        if isinstance(args, (tuple, list)):
            return func, tuple(args), kwargs
    raise TypeError(
        "a call to enqueue is a function, (function, args), (function, args, kwargs) or a Job, not"
        f" {call!r}"
    )


def placed(job: Job, place: tuple[int | None, int | None]) -> Job:
    """The same job, with partition and offset of its record."""
    return know(job, (*place, job.headers) if job._facts else place)


def log(job: Job, told: str = "Enqueued:") -> None:
    """Log at INFO what became of a job."""
    if logger.is_enabled_for(INFO):
        logger.info("%s %s", told, shown(job))


def shown(job: Job) -> str:
    """The job as the log shows it, of a bounded length."""
    text = safe_repr(job)
    return text if len(text) <= _LOGGED_CHARACTERS else text[: _LOGGED_CHARACTERS - 3] + "..."
