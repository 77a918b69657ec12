"""Worker: what an application holds, and its owner's thread calls."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from embedkq import options
from embedkq.child.process import in_child
from embedkq.errors import WorkerError
from embedkq.safe_logging import SafeLogger
from embedkq.signing import Secret
from embedkq.worker.guards import is_loop_running, refuse_where_it_cannot_work
from embedkq.worker.handle import Handle
from embedkq.worker.lifecycle import State
from embedkq.worker.settings import Settings
from embedkq.worker.shortage import cure_for, is_shortage

if TYPE_CHECKING:
    from embedkq.worker.engine import Engine
    from embedkq.worker.owner import Callback

logger = SafeLogger("embedkq.worker")

W = TypeVar("W", bound="Worker")

_AT_ONCE = 0.001
"""Seconds that running jobs get where an exception that is no `Exception` ends the `with` block."""


class Worker(Handle):
    """Takes jobs from a Kafka topic and runs each in a child process under a hard limit.

    The thread that calls `start()`, `start_background()` or enters the `with` block owns the worker: every callback runs there.
    Making a worker connects to nothing and starts nothing.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: topic to take jobs from.
        timeout: limit of every job in seconds, in place of the job's own; None for the job's own.
        callback: called with (status, job, result, exception, traceback) for each job; see the guide's page on the worker.
        job_size: bytes of the largest record expected.
        cafile, certfile, keyfile, crlfile: TLS files; giving any means TLS.
        proc_ttl: jobs after which a child process is replaced (the first ones sooner, one after another); 0 or None for never.
        offset_policy: where a group without committed offset begins, "earliest" or "latest".
        group: consumer group; the topic's name if None.
        processes: how many jobs run at once.
        handoff: makes the owner run a function soon (`root.after_idle`, `GLib.idle_add`, `reactor.callFromThread`).
        initializer, initargs: called in each child before its first job.
        decode_timeout: seconds that a child may take to unpickle a job, which imports its modules; None for no limit.
        stop_timeout: seconds that `stop()` and leaving the `with` block give to running jobs before these are killed; None for ever.
        revoke_timeout: seconds that running jobs get when their partition goes to another worker.
        dead_letter_topic: where every record goes that cannot be run, and every job that failed, timed out or crashed; None for nowhere.
        retries: how often a job that failed, timed out or crashed runs again, unless it says so itself; its callback is called at the end.
        backoff: seconds before the first of these runs, twice as many before each further one, a part of them by chance.
        retry_on: exceptions after which there is another run, as classes or dotted names; None for all.
        max_crashes: how often the worker's own process may go down over one job before that is not run any more; None for no limit.
        secret: take only records that a Queue with this secret (or one of these) has signed; see `Queue`.
        max_age: seconds after which a job that was enqueued is not run any more; None for never.
        allow: patterns of functions that may run, such as ["my_app.jobs.*"]; None for all.
        kafka: further options of kafka-python's KafkaConsumer.

    Raises:
        TypeError, ValueError: an argument cannot work; the message names it.
        EncodeError: the initializer or its arguments cannot be pickled.
    """

    def __init__(
        self, hosts: str = "localhost:9092", topic: str = "default", timeout: float | None = None,
        callback: Callback | None = None, job_size: int = 1_000_000, cafile: str | None = None, certfile: str | None = None,
        keyfile: str | None = None, crlfile: str | None = None, proc_ttl: int | None = 5000, offset_policy: str = "earliest",
        *, group: str | None = None, processes: int = 1, handoff: Callable[[Callable[[], None]], Any] | None = None,
        initializer: Callable[..., Any] | None = None, initargs: Iterable[Any] = (), decode_timeout: float | None = 300.0,
        stop_timeout: float | None = 30.0, revoke_timeout: float = 10.0, dead_letter_topic: str | None = None, retries: int = 0,
        backoff: float = 1.0, retry_on: Iterable[type[BaseException] | str] | None = None, max_crashes: int | None = 3,
        secret: Secret | Sequence[Secret] | None = None, max_age: float | None = None, allow: Sequence[str] | None = None,
        kafka: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(Settings(
            hosts, topic, timeout, callback, job_size, cafile, certfile, keyfile, crlfile, proc_ttl, offset_policy, group,
            processes, handoff, initializer, initargs, decode_timeout, stop_timeout, revoke_timeout, dead_letter_topic, retries,
            backoff, retry_on, max_crashes, secret, max_age, allow, kafka,
        ))

    # Starting. The calling thread becomes the owner.

    def start(self, burst: bool = False, max_jobs: int | None = None, *, wait: bool = True) -> None:
        """Run in the foreground: callbacks fire on this thread until the worker is stopped.

        Args:
            burst: stop once what the topic held at the start is done.
            max_jobs: stop after so many callbacks (outcomes, without a callback).
            wait: whether a broker has to answer within 10 s; with False it may be away at the start, and is tried until it is there.

        Raises:
            BrokerUnavailable: no broker answered within 10 s, and `wait` is True.
            WorkerFailed, EmbedkqError: the worker has ended by itself.
        """
        if is_loop_running():
            raise WorkerError("start() would block the asyncio loop that runs on this thread: use `async with worker:`")
        engine = self._begin(burst, max_jobs, keep_trying=not wait)
        if engine is None:
            return
        try:
            while not self.state.ended:
                engine.owner.mailbox.wait(engine.deadline.patience)
                engine.owner.fire()
                engine.leave_if_overdue()
        except BaseException:
            self._end_now(engine)
            raise
        self._raise_if_failed()

    def start_background(self: W, burst: bool = False, max_jobs: int | None = None, *, wait: bool = True) -> W:
        """Run on threads of its own; returns the worker once the broker has answered.

        With `wait=False` it returns at once, also on a running asyncio loop. Where Kafka is away at the start, as it may be when a whole
        machine boots, the worker stays in state `starting`, unhealthy, and tries until Kafka is there; `stop()` ends that as usual.

        Callbacks fire whenever the owner calls `run_callbacks`, `drain` or `stop`; by themselves where the owner runs an asyncio
        loop or `handoff` is set.

        Raises:
            BrokerUnavailable: no broker answered within 10 s, and `wait` is True.
        """
        engine = self._begin(burst, max_jobs, keep_trying=not wait)
        if engine is not None and wait:
            try:
                engine.await_connection()
            except BaseException:
                self._error_told = True
                self._end_now(engine)
                raise
        return self

    def __enter__(self: W) -> W:
        return self.start_background()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._error_told = self._error_told or kind is not None
        try:
            if kind is None or issubclass(kind, Exception):
                self.stop()
        finally:  # nobody can stop it later: not where the block was left by KeyboardInterrupt, nor where a callback raises that now
            if self._engine is not None and not self.state.ended:
                self._end_now(self._engine)

    async def __aenter__(self: W) -> W:
        from embedkq.worker import asynchronous

        engine = self._begin(False, None, keep_trying=False)
        if engine is not None:
            try:
                await asynchronous.until_connected(engine)
            except BaseException:
                self._error_told = True
                await asynchronous.end_now(engine)
                raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._error_told = self._error_told or kind is not None
        await self.astop(None if kind is None or issubclass(kind, Exception) else _AT_ONCE)

    def _begin(self, burst: bool, max_jobs: int | None, *, keep_trying: bool) -> Engine | None:
        if in_child():
            if self.state is not State.INERT:
                self._lifecycle.move(State.INERT)
            logger.debug("%r stays inert: this is a child process of embedkq", self)
            return None
        if max_jobs is not None:
            options.check_count("max_jobs", max_jobs, 1)
        if not self.state.ended:
            raise WorkerError(f"{self!r} is {self.state} already: stop it before starting it again")
        refuse_where_it_cannot_work()
        try:
            from embedkq.worker.assembly import make_engine  # here, since most of it is of no use before a start

            engine = make_engine(self._settings, self._lifecycle, max_jobs)
        except OSError as error:
            if not is_shortage(error):
                raise
            raise WorkerError(f"{self!r} cannot start: {cure_for(error)}") from error
        self._lifecycle.move(State.STARTING)
        self._error_told = False
        self._engine = engine
        logger.info("Starting %r ...", self)
        engine.start(keep_trying)
        if burst:
            engine.milestone(engine.request_stop)
        return engine

    # For the owner.

    def run_callbacks(self, timeout: float | None = 0) -> int:
        """Fire the callbacks that wait at the call; how many. Owner's thread.

        Args:
            timeout: seconds to wait for the first one; None for ever.

        Raises:
            WrongThread, InsideCallback: called elsewhere.
            WorkerFailed, EmbedkqError: the worker has ended by itself (told once).
        """
        engine = self._engine_of_owner("run_callbacks")
        if engine is None:
            return 0
        if not self.state.ended:
            engine.owner.mailbox.wait(timeout)
        fired = engine.owner.fire(len(engine.owner.mailbox))
        self._raise_if_failed()
        return fired

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all that the assigned partitions hold now is done, firing callbacks; whether it is. Owner's thread.

        Args:
            timeout: seconds to wait at most; None for ever.

        Raises:
            WrongThread, InsideCallback: called elsewhere.
            WorkerFailed, EmbedkqError: the worker has ended by itself (told once).
        """
        engine = self._engine_of_owner("drain")
        if engine is None or self.state.ended:
            self._raise_if_failed()
            return self.state is State.INERT
        milestone = engine.milestone(engine.owner.mailbox.wake)
        done = self._fire_until(engine, lambda: milestone.reached, timeout, "drain")
        self._raise_if_failed()
        return done

    def stop(self, timeout: float | None = None) -> bool:
        """Finish what runs, fire its callbacks, commit, leave the group; True if all was finished and committed. Owner's thread.

        It returns within `timeout` + 1 seconds, whatever Kafka and the worker's own threads do, and no child process outlives it. What
        cannot be ended in that time is left to daemon threads, and a warning says so. Only a callback that this call has begun is
        waited for: nobody can end it.

        Args:
            timeout: seconds for what runs to finish, after which it is killed, without callback and commit; None for `stop_timeout`.

        Raises:
            WrongThread, InsideCallback: called elsewhere.
            WorkerFailed, EmbedkqError: the worker has ended by itself (told once).
        """
        engine = self._engine_of_owner("stop")
        if engine is None:
            return True
        allowed = self._settings.stop_timeout if timeout is None else timeout
        engine.stop_within(allowed)
        if allowed == 0 or not self._fire_until(engine, lambda: self.state.ended, allowed, "stop"):
            if engine.owner.busy and allowed != 0:
                return False
            self._end_now(engine)
        self._raise_if_failed()
        return self.state is State.STOPPED and engine.finished

    async def adrain(self, timeout: float | None = None) -> bool:
        """`drain` for an asyncio loop, which goes on meanwhile and fires the callbacks."""
        from embedkq.worker import asynchronous

        engine = self._engine_of_owner("adrain")
        if engine is None or self.state.ended:
            self._raise_if_failed()
            return self.state is State.INERT
        done = await asynchronous.until_done(engine, timeout)
        self._raise_if_failed()
        return done

    async def astop(self, timeout: float | None = None) -> bool:
        """`stop` for an asyncio loop, which goes on meanwhile and fires the callbacks."""
        from embedkq.worker import asynchronous

        engine = self._engine_of_owner("astop")
        if engine is None:
            return True
        allowed = self._settings.stop_timeout if timeout is None else timeout
        engine.stop_within(allowed)
        if not await asynchronous.until_over(engine, allowed):
            await asynchronous.end_now(engine)
        self._raise_if_failed()
        return self.state is State.STOPPED and engine.finished
