"""Queue: puts function calls on a Kafka topic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from embedkq import _options
from embedkq._brokerless import InPlaceOfProducer, TakesJobs
from embedkq._enqueue import Coro, Enqueues, P, R
from embedkq._job_options import UNCHANGED, JobOptions
from embedkq._options.names import known_options_only
from embedkq._options.option import QUEUE
from embedkq._options.takers import checked
from embedkq.errors import QueueIncomplete
from embedkq.job import Job

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from embedkq._formats.signing import Secret
    from embedkq._job_options import JobSettings
    from embedkq._on_commit import OnCommit, Session

C_co = TypeVar("C_co", covariant=True)
R_co = TypeVar("R_co", covariant=True)

_LARGEST_JOB = 1_000_000


class _Uses(Enqueues):
    """What `Queue` and `BoundQueue` share."""

    _queue: Queue

    def using(
        self,
        timeout: float | None = UNCHANGED,
        key: str | bytes | None = UNCHANGED,
        partition: int | None = UNCHANGED,
        retries: int | None = UNCHANGED,
        backoff: float | None = UNCHANGED,
        headers: Mapping[str, str] | None = UNCHANGED,
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
            headers: names and values that the job carries, in place of those set before; None for
                none. A job reads them with `current_job()`, other programs as headers of the
                record. At most 32, with 8 KiB; a name must not begin with "embedkq".

        Raises:
            TypeError, ValueError: a setting cannot work.
        """
        own = self._own
        return BoundQueue(
            self._queue,
            JobOptions(
                own.timeout if timeout is UNCHANGED else _options.check_timeout(timeout),
                own.key if key is UNCHANGED else _options.check_key(key),
                own.partition if partition is UNCHANGED else _options.check_partition(partition),
                own.retries if retries is UNCHANGED else _options.check_retries(retries),
                own.backoff if backoff is UNCHANGED else _options.check_backoff(backoff),
                own.headers if headers is UNCHANGED else _options.check_headers(headers),
            ),
        )

    def on_commit(
        self, session: Session | None = None, *, using: str | None = None, robust: bool = False
    ) -> OnCommit:
        """The same queue for jobs that may run only once a database transaction has committed.
        After a rollback, also of the savepoint around the call, none of them is enqueued.

        It is no outbox: a process that dies between commit and `enqueue` loses the job.

        Args:
            session: of SQLAlchemy; None: Django's transaction.
            using: Django's alias of the database.
            robust: if Kafka does not acknowledge a job after the commit, log the job at ERROR.
                Otherwise what commits raises `EnqueueFailed`.

        Raises:
            TypeError, ValueError: there is no such session, or no Django.
        """
        from embedkq._on_commit import OnCommit, deferring  # here, since few programs need it

        return OnCommit(self._queue, self._own, deferring(session, using), robust)


class BoundQueue(_Uses):
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
        settings = self._own._asdict()
        headers = {name: value.decode() for name, value in settings.pop("headers")[1:]}
        if headers:
            settings["headers"] = headers
        own = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        return f"{self._queue!r}.using({own})"


@known_options_only
class Queue(_Uses, TakesJobs):
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
        serializer: how calls are written: "pickle", or "json" for functions of modules and
            arguments that JSON has. Workers run JSON jobs only with `allow`.
        kafka: further options of kafka-python's KafkaProducer.
        eager: run each job at once on the calling thread, without Kafka, limits and retries;
            `enqueue` raises what the job raises. For tests and development.

    Raises:
        TypeError, ValueError: an argument cannot work; the message names it.
    """

    _incomplete: tuple[str, ...] = ()
    """What a copy that came in a pickle lacks."""

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
        serializer: str = "pickle",
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
        self._is_json = accepted["serializer"] == "json"
        self._signer = _options.make_signer(secret)
        self._queue = self
        self._connection = Producer(self._hosts, self._job_size, config)
        self._set_eager(accepted["eager"])
        self._left_behind = tuple(
            ["its secret"] * (secret is not None)
            + ["its TLS or login options"] * _options.is_protected(config)
        )

    def __repr__(self) -> str:
        return f"Queue(topic={self._topic})"

    def __reduce__(self) -> Any:
        state = {
            "job_size": None if self._job_size == _LARGEST_JOB else self._job_size,
            "retries": self._own.retries,
            "backoff": self._own.backoff,
            "serializer": "json" if self._is_json else None,
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
            if name in ("job_size", "retries", "backoff", "serializer", "eager")
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
    def job(self, function: Callable[P, Coro[R]], /) -> JobFunction[P, Coro[R], R]: ...

    @overload
    def job(self, function: Callable[P, R], /) -> JobFunction[P, R, R]: ...

    @overload
    def job(self, /, **settings: Unpack[JobSettings]) -> JobDecorator: ...

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


class Delay(Generic[P, R_co]):
    """`function.delay(...)`: enqueues the function on the queue whose decorator it carries."""

    def __init__(self, queue: BoundQueue, function: Callable[..., Any]) -> None:
        self._queue = queue
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Job[R_co]:
        return self._queue.enqueue(self._function, *args, **kwargs)

    def on_commit(
        self, session: Session | None = None, *, using: str | None = None, robust: bool = False
    ) -> Callable[P, Job[R_co]]:
        """What enqueues the function once a transaction has committed; see `Queue.on_commit`."""
        enqueue = self._queue.on_commit(session, using=using, robust=robust).enqueue
        return partial(enqueue, self._function)


class JobFunction(Protocol[P, C_co, R_co]):
    """What `Queue.job` makes of a function, to a type checker: the function with a `delay`. A call
    returns `C_co`, its job `R_co`: of an `async def` these differ."""

    __name__: str
    __qualname__: str

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C_co: ...

    @property
    def delay(self) -> Delay[P, R_co]:
        """Enqueues the function."""
        ...


class JobDecorator(Protocol):
    """What `Queue.job` with settings returns, to a type checker."""

    @overload
    def __call__(self, function: Callable[P, Coro[R]], /) -> JobFunction[P, Coro[R], R]: ...

    @overload
    def __call__(self, function: Callable[P, R], /) -> JobFunction[P, R, R]: ...
