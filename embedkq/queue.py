"""Queue: puts function calls on a Kafka topic."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar, overload

from embedkq import _options
from embedkq._brokerless import InPlaceOfProducer, TakesJobs
from embedkq._job_options import UNCHANGED, JobOptions
from embedkq._options.declared import checked
from embedkq._options.names import known_options_only
from embedkq._options.option import QUEUE
from embedkq._safe_logging import INFO, SafeLogger, safe_repr
from embedkq.errors import EnqueueFailed, JobTooLarge, QueueIncomplete
from embedkq.job import Job

if TYPE_CHECKING:
    from embedkq._formats.signing import Secret

logger = SafeLogger("embedkq.queue")

F = TypeVar("F", bound=Callable[..., Any])
Call = "Job | Callable[..., Any] | tuple[Any, ...]"

_WINDOW = 5_000
_WINDOW_BYTES = 8 * 1024 * 1024
_LOGGED_CHARACTERS = 1024
_LARGEST_JOB = 1_000_000


class _Enqueues:
    """What `Queue` and `Queue.using(...)` share."""

    _queue: Queue
    _own: JobOptions

    def enqueue(self, func: Callable[..., Any] | Job, /, *args: Any, **kwargs: Any) -> Job:
        """Put a call on the topic; returns once all replicas have it. Any thread.

        In asyncio: `await asyncio.to_thread(queue.enqueue, func, ...)`.

        Args:
            func: importable, a function of `__main__`, or a `Job` to put back: same call, key and
                limit, new id and timestamp.
            args, kwargs: what to call it with.

        Raises:
            TypeError: `func` is not callable.
            EncodeError: the function or an argument cannot be pickled.
            JobTooLarge: larger than `job_size`, or than the broker takes.
            BrokerUnavailable: no acknowledgement within 10 s; `maybe_sent` says whether it may
                have arrived all the same.
            BrokerRefused: the broker does not allow it.
        """
        job, message = self._prepare(func, args, kwargs)
        self._queue._producer([job]).send(message)
        _log(job)
        return job

    def enqueue_many(self, calls: Iterable[Any]) -> list[Job]:
        """Put many calls on the topic, pipelined; returns once all replicas have all of them. Any
        thread.

        Args:
            calls: of each the function, or a tuple (function, args), or (function, args, kwargs),
                or a `Job`.

        Raises:
            EnqueueFailed: says which were acknowledged and which not; `__cause__` is the first
                reason.
            TypeError, EncodeError, JobTooLarge: a call cannot be sent; those before it may have
                been, up to 5,000 or 8 MiB at a time.
        """
        iterator = iter(calls)
        acknowledged: list[Job] = []
        while window := self._prepare_some(iterator):
            producer = self._queue._producer([job for job, _ in window])
            failures = producer.send_all([message for _, message in window])
            acknowledged += [job for index, (job, _) in enumerate(window) if index not in failures]
            if failures:
                failed = [window[index][0] for index in sorted(failures)]
                raise EnqueueFailed(acknowledged, failed) from failures[min(failures)]
        for job in acknowledged:
            _log(job)
        return acknowledged

    def using(
        self,
        timeout: float | None = UNCHANGED,
        key: str | bytes | None = UNCHANGED,
        partition: int | None = UNCHANGED,
        retries: int | None = UNCHANGED,
        backoff: float | None = UNCHANGED,
    ) -> BoundQueue:
        """The same queue with other settings for the jobs enqueued through what this returns.

        Args:
            timeout: limit of the job in seconds; None for none.
            key: jobs with the same key run one after another, in order; strings are UTF-8.
            partition: number of the partition to send to; not together with a key.
            retries: how often the job runs again after it failed; None: as often as the worker
                says.
            backoff: seconds before the first of these runs, twice as many before each further one;
                None: as the worker says.

        Raises:
            TypeError, ValueError: a setting cannot work.
        """
        return BoundQueue(
            self._queue,
            JobOptions(
                self._own.timeout if timeout is UNCHANGED else _options.check_timeout(timeout),
                self._own.key if key is UNCHANGED else _options.check_key(key),
                (
                    self._own.partition
                    if partition is UNCHANGED
                    else _options.check_partition(partition)
                ),
                self._own.retries if retries is UNCHANGED else _options.check_retries(retries),
                self._own.backoff if backoff is UNCHANGED else _options.check_backoff(backoff),
            ),
        )

    def _prepare(
        self, func: Callable[..., Any] | Job, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Job, Any]:
        from embedkq import codec
        from embedkq._clients.producer import Message
        from embedkq._formats import (
            headers,
        )  # here, like the producer: an app that only makes a queue starts sooner

        self._queue._refuse_if_incomplete()
        timeout, key = self._own.timeout, self._own.key
        if isinstance(func, Job):
            func, args, kwargs, timeout, key = self._call_of(func, args, kwargs)
        if not callable(func):
            raise TypeError(
                f"a job is a callable with its arguments, or a Job to put back, not {func!r}"
            )
        payload = codec.encode_call(func, args, dict(kwargs))
        job_id, timestamp = str(uuid.uuid4()), int(time.time() * 1000)
        record_headers = headers.headers_of(
            job_id, timestamp, timeout, self._own.retries, self._own.backoff
        )
        if (signer := self._queue._signer) is not None:
            record_headers = signer.sign(self._queue.topic, key, record_headers, payload)
        message = Message(self._queue.topic, payload, key, record_headers, self._own.partition)
        if message.size > self._queue.job_size:
            raise JobTooLarge(message.size, self._queue.job_size)
        return Job(job_id, timestamp, self._queue.topic, func, args, kwargs, timeout, key), message

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


class BoundQueue(_Enqueues):
    """A queue with its own settings for jobs; made by `Queue.using`. Immutable, any thread."""

    def __init__(self, queue: Queue, own: JobOptions) -> None:
        if own.key is not None and own.partition is not None:
            raise ValueError(
                f"key={own.key!r} and partition={own.partition!r}: a key chooses its partition;"
                " give one of them"
            )
        self._queue = queue
        self._own = own

    def __repr__(self) -> str:
        own = ", ".join(f"{name}={value!r}" for name, value in self._own._asdict().items())
        return f"{self._queue!r}.using({own})"


class Queue(_Enqueues, TakesJobs):
    """Puts function calls on a Kafka topic. Any thread, and any process after a fork; connects with
    the first job.

    It pickles without its secret, its TLS files and the options in `kafka`, so that no password
    gets into a payload. A copy of a queue with a secret, TLS or a password refuses to enqueue
    (`QueueIncomplete`): it would send in the clear, or unsigned.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: topic to put jobs on.
        timeout: limit of each job in seconds; None for none.
        job_size: bytes that a record may have, payload, key and headers together.
        cafile, certfile, keyfile, crlfile: TLS files; giving any means TLS.
        secret: sign each record, so that workers with the same secret take no others: text of 16
            bytes or more, or a `pathlib.Path` of a file that holds it. Of several the first signs.
        retries, backoff: how often a job runs again after it failed, and seconds before the first
            time; None: as the worker says.
        kafka: further options of kafka-python's KafkaProducer.
        eager: run each job at once on the calling thread, without Kafka, limits and retries;
            `enqueue` raises what the job raises. For tests and development.

    Raises:
        TypeError, ValueError: an argument cannot work; the message names it.
    """

    @known_options_only
    def __init__(
        self,
        hosts: str = "localhost:9092",
        topic: str = "default",
        timeout: float | None = None,
        job_size: int = _LARGEST_JOB,
        cafile: str | None = None,
        certfile: str | None = None,
        keyfile: str | None = None,
        crlfile: str | None = None,
        *,
        secret: Secret | Sequence[Secret] | None = None,
        retries: int | None = None,
        backoff: float | None = None,
        kafka: Mapping[str, Any] | None = None,
        eager: bool = False,
    ) -> None:
        accepted = checked(QUEUE, locals())
        from embedkq._clients.producer import KNOWN_OPTIONS, OWNED_OPTIONS, Producer

        self._hosts: str = accepted["hosts"]
        self._topic: str = accepted["topic"]
        self._job_size: int = accepted["job_size"]
        self._own = JobOptions(
            **{name: accepted[name] for name in ("timeout", "retries", "backoff")}
        )
        files = _options.TLSFiles(cafile, certfile, keyfile, crlfile)
        config = _options.client_config(
            files, kafka, owned=OWNED_OPTIONS, known=KNOWN_OPTIONS, owner=QUEUE
        )
        self._signer = _options.make_signer(secret)
        self._queue = self
        self._connection = Producer(self._hosts, self._job_size, config)
        self._set_eager(accepted["eager"])
        self._left_behind = tuple(
            ["its secret"] * (secret is not None)
            + ["its TLS or login options"] * _options.is_protected(config)
        )
        self._incomplete: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Queue(topic={self._topic})"

    def __reduce__(self) -> Any:
        state = {
            "job_size": None if self._job_size == _LARGEST_JOB else self._job_size,
            "retries": self._own.retries,
            "backoff": self._own.backoff,
            "eager": self.eager or None,
            "incomplete": self._incomplete or self._left_behind,
        }
        kept = {name: value for name, value in state.items() if value not in (None, ())}
        made = Queue, (self._hosts, self._topic, self._own.timeout)
        return (*made, kept) if kept else made

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        settings = {
            name: value
            for name, value in state.items()
            if name in ("job_size", "retries", "backoff", "eager")
        }
        self.__init__(self._hosts, self._topic, self._own.timeout, **settings)  # type: ignore[misc]
        self._incomplete = tuple(state.get("incomplete", ()))

    def _refuse_if_incomplete(self) -> None:
        if self._incomplete:
            raise QueueIncomplete(
                f"{self!r} came here in a pickle, without {' and '.join(self._incomplete)}, and so"
                " cannot enqueue as the original does: make the Queue in a module, and have the"
                " job import it from there"
            )

    @property
    def hosts(self) -> str:
        """Kafka brokers, comma separated."""
        return self._hosts

    @property
    def topic(self) -> str:
        """Topic that jobs are put on."""
        return self._topic

    @property
    def timeout(self) -> float | None:
        """Limit of each job in seconds, or None."""
        return self._own.timeout

    @property
    def job_size(self) -> int:
        """Bytes that a record may have."""
        return self._job_size

    @overload
    def job(self, function: F, /) -> F: ...

    @overload
    def job(
        self,
        /,
        *,
        timeout: float | None = UNCHANGED,
        key: str | bytes | None = UNCHANGED,
        partition: int | None = UNCHANGED,
        retries: int | None = UNCHANGED,
        backoff: float | None = UNCHANGED,
    ) -> Callable[[F], F]: ...

    def job(self, function: Any = None, /, **settings: Any) -> Any:
        """Decorator: gives a function a method `delay(*args, **kwargs)` that enqueues it; the
        function itself stays as it is.

        Bare, or with the settings of `using`.
        """
        bound = self.using(**settings)

        def decorate(function: Any) -> Any:
            if not callable(function):
                raise TypeError(f"what `job` decorates must be callable, not {function!r}")
            function.delay = Delay(bound, function)
            return function

        return decorate if function is None else decorate(function)

    def close(self) -> None:
        """Wait for what is being sent, at most 10 s, and close; at exit this happens by itself. Any
        thread; twice does no harm."""
        self._connection.close()

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _producer(self, jobs: Sequence[Job]) -> Any:
        if (taker := self._taker()) is None:
            return self._connection
        self._connection.check_open()
        return InPlaceOfProducer(taker, jobs)


class Delay:
    """`function.delay(...)`: enqueues the function on the queue whose decorator it carries."""

    def __init__(self, queue: BoundQueue, function: Callable[..., Any]) -> None:
        self._queue = queue
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Job:
        return self._queue.enqueue(self._function, *args, **kwargs)


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


def _log(job: Job) -> None:
    if logger.is_enabled_for(INFO):
        text = safe_repr(job)
        logger.info(
            "Enqueued: %s",
            text if len(text) <= _LOGGED_CHARACTERS else text[: _LOGGED_CHARACTERS - 3] + "...",
        )
