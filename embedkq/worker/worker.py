"""Worker: what an application holds, and its owner's thread calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from embedkq import _options
from embedkq._child.process import in_child
from embedkq._options.names import known_options_only
from embedkq._safe_logging import SafeLogger
from embedkq.errors import WorkerError
from embedkq.worker.between_threads.shortage import cure_for, is_shortage
from embedkq.worker.environment import check_environment, is_loop_running
from embedkq.worker.handle import Handle
from embedkq.worker.lifecycle import State
from embedkq.worker.settings import Settings

if TYPE_CHECKING:
    from embedkq._formats.plain_record import Decoder
    from embedkq._formats.signing import Secret
    from embedkq.worker.owner_thread.dispatcher import Callback
    from embedkq.worker.runtime import Runtime

logger = SafeLogger("embedkq.worker")

W = TypeVar("W", bound="Worker")

_AT_ONCE = 0.001
"""Seconds that running jobs get where an exception that is no `Exception` ends the `with` block."""


@known_options_only
class Worker(Handle):
    """Takes jobs from a Kafka topic and runs each in a child process under a hard limit.

    The thread that calls `start()`, `start_background()` or enters the `with` block owns the
    worker: every callback runs there. Making a worker connects to nothing and starts nothing.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: topic to take jobs from.
        timeout: limit of every job in seconds, in place of the job's own; None for the job's own.
        callback: called with (status, job, result, exception, traceback) for each job; see the
            guide's page on the worker.
        job_size: bytes of the largest record expected.
        cafile, certfile, keyfile, crlfile: TLS files; giving any means TLS.
        proc_ttl: jobs after which a child process is replaced (the first ones sooner, one after
            another); 0 or None for never.
        offset_policy: where a group without committed offset begins, "earliest" or "latest".
        group: consumer group; the topic's name if None.
        processes: how many jobs run at once.
        handoff: makes the owner run a function soon (`root.after_idle`, `GLib.idle_add`,
            `reactor.callFromThread`).
        initializer, initargs: called in each child before its first job.
        decode_timeout: seconds that a child may take to unpickle a job, which imports its modules;
            None for no limit.
        stop_timeout: seconds that `stop()` and leaving the `with` block give to running jobs before
            these are killed; None for ever.
        revoke_timeout: seconds that running jobs get when their partition goes to another worker.
        dead_letter_topic: where every record goes that cannot be run, and every job that failed,
            timed out or crashed; None for nowhere.
        retries: how often a job that failed, timed out or crashed runs again, unless it says so
            itself; its callback is called at the end.
        backoff: seconds before the first of these runs, twice as many before each further one, a
            part of them by chance.
        retry_on: exceptions after which there is another run, as classes or dotted names; None for
            all.
        max_crashes: how often the worker's own process may go down over one job before that is not
            run any more; None for no limit.
        secret: take only records that a Queue with this secret (or one of these) has signed; see
            `Queue`.
        max_age: seconds after which a job that was enqueued is not run any more; None for never.
        allow: patterns of functions that may run, such as ["my_app.jobs.*"]; None for all.
        kafka: further options of kafka-python's KafkaConsumer.
        handler: called in a child with one argument for each record of the topic, which any program
            may have written. The job that the callback receives has it as `func`.
        decode: what the handler's argument is: "record" (or None) the `Record`, "bytes" its value,
            "json" or `json.loads` its value as JSON, a function what that makes of the value, in
            the child. Without a value it is None, except for "record".

    Raises:
        TypeError, ValueError: an argument cannot work; the message names it.
        EncodeError: the initializer or its arguments, the handler or its decoder cannot be pickled.
    """

    def __init__(
        self,
        hosts: str = "localhost:9092",
        topic: str = "default",
        timeout: float | None = None,
        callback: Callback | None = None,
        job_size: int = 1_000_000,
        cafile: str | None = None,
        certfile: str | None = None,
        keyfile: str | None = None,
        crlfile: str | None = None,
        proc_ttl: int | None = 5000,
        offset_policy: str = "earliest",
        *,
        group: str | None = None,
        processes: int = 1,
        handoff: Callable[[Callable[[], None]], Any] | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: Iterable[Any] = (),
        decode_timeout: float | None = 300.0,
        stop_timeout: float | None = 30.0,
        revoke_timeout: float = 10.0,
        dead_letter_topic: str | None = None,
        retries: int = 0,
        backoff: float = 1.0,
        retry_on: Iterable[type[BaseException] | str] | None = None,
        max_crashes: int | None = 3,
        secret: Secret | Sequence[Secret] | None = None,
        max_age: float | None = None,
        allow: Sequence[str] | None = None,
        kafka: Mapping[str, Any] | None = None,
        handler: Callable[[Any], Any] | None = None,
        decode: Decoder | None = None,
    ) -> None:
        super().__init__(Settings(locals()))

    # Starting. The calling thread becomes the owner.

    def start(self, burst: bool = False, max_jobs: int | None = None, *, wait: bool = True) -> None:
        """Run in the foreground: callbacks fire on this thread until the worker is stopped.

        Args:
            burst: stop once what the topic held at the start is done.
            max_jobs: stop after this many callbacks, or outcomes without a callback.
            wait: whether a broker has to answer within 10 s; with False it may be away at the
                start, and is tried until it is there.

        Raises:
            BrokerUnavailable: no broker answered within 10 s, and `wait` is True.
            WorkerFailed, EmbedkqError: the worker has ended by itself.
        """
        if is_loop_running():
            raise WorkerError(
                "start() would block the asyncio loop that runs on this thread: use `async with"
                " worker:`"
            )
        runtime = self._begin(burst, max_jobs, keep_trying=not wait)
        if runtime is None:
            return
        try:
            while not self.state.ended:
                runtime.dispatcher.mailbox.wait(runtime.deadline.patience)
                runtime.dispatcher.dispatch()
                runtime.leave_if_overdue()
        except BaseException:
            self._end_now(runtime)
            raise
        self._raise_if_failed()

    def start_background(
        self: W, burst: bool = False, max_jobs: int | None = None, *, wait: bool = True
    ) -> W:
        """Run on background threads; returns the worker once the broker has answered.

        With `wait=False` it returns at once, also on a running asyncio loop. Where Kafka is away at
        the start, as it may be when a whole machine boots, the worker stays in state `starting`,
        unhealthy, and tries until Kafka is there; `stop()` ends that as usual.

        Callbacks fire whenever the owner calls `run_callbacks`, `drain` or `stop`; by themselves
        where the owner runs an asyncio loop or `handoff` is set.

        Raises:
            BrokerUnavailable: no broker answered within 10 s, and `wait` is True.
        """
        runtime = self._begin(burst, max_jobs, keep_trying=not wait)
        if runtime is not None and wait:
            try:
                runtime.await_connection()
            except BaseException:
                self._error_told = True
                self._end_now(runtime)
                raise
        return self

    def __enter__(self: W) -> W:
        return self.start_background()

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self._error_told = self._error_told or kind is not None
        try:
            if kind is None or issubclass(kind, Exception):
                self.stop()
        finally:
            # nobody can stop it later: not where the block was left by KeyboardInterrupt, nor where
            # a callback raises that now
            if self._runtime is not None and not self.state.ended:
                self._end_now(self._runtime)

    async def __aenter__(self: W) -> W:
        from embedkq.worker import asyncio_waits

        runtime = self._begin(False, None, keep_trying=False)
        if runtime is not None:
            try:
                await asyncio_waits.until_connected(runtime)
            except BaseException:
                self._error_told = True
                await asyncio_waits.end_now(runtime)
                raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        self._error_told = self._error_told or kind is not None
        await self.astop(None if kind is None or issubclass(kind, Exception) else _AT_ONCE)

    def _begin(self, burst: bool, max_jobs: int | None, *, keep_trying: bool) -> Runtime | None:
        if in_child():
            if self.state is not State.INERT:
                self._lifecycle.move(State.INERT)
            logger.debug("%r stays inert: this is a child process of embedkq", self)
            return None
        if max_jobs is not None:
            _options.check_count("max_jobs", max_jobs, 1)
        if not self.state.ended:
            raise WorkerError(f"{self!r} is {self.state} already: stop it before starting it again")
        check_environment()
        try:
            from embedkq.worker.wiring import (
                build_runtime,
            )  # here, since most of it is of no use before a start

            runtime = build_runtime(self._settings, self._lifecycle, max_jobs)
        except OSError as error:
            if not is_shortage(error):
                raise
            raise WorkerError(f"{self!r} cannot start: {cure_for(error)}") from error
        self._lifecycle.move(State.STARTING)
        self._error_told = False
        self._runtime = runtime
        logger.info("Starting %r ...", self)
        runtime.start(keep_trying)
        if burst:
            runtime.milestone(runtime.request_stop)
        return runtime

    # For the owner.

    def run_callbacks(self, timeout: float | None = 0) -> int:
        """Fire the callbacks that wait at the call; how many. Owner's thread.

        Args:
            timeout: seconds to wait for the first one; None for ever.

        Raises:
            WrongThread, InsideCallback: called elsewhere.
            WorkerFailed, EmbedkqError: the worker has ended by itself (raised once).
        """
        runtime = self._runtime_of_owner("run_callbacks")
        if runtime is None:
            return 0
        if not self.state.ended:
            runtime.dispatcher.mailbox.wait(timeout)
        fired = runtime.dispatcher.dispatch(len(runtime.dispatcher.mailbox))
        self._raise_if_failed()
        return fired

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all that the assigned partitions hold now is done, firing callbacks; whether
        it is. Owner's thread.

        Args:
            timeout: seconds to wait at most; None for ever.

        Raises:
            WrongThread, InsideCallback: called elsewhere.
            WorkerFailed, EmbedkqError: the worker has ended by itself (raised once).
        """
        runtime = self._runtime_of_owner("drain")
        if runtime is None or self.state.ended:
            self._raise_if_failed()
            return self.state is State.INERT
        milestone = runtime.milestone(runtime.dispatcher.mailbox.wake)
        done = self._fire_until(runtime, lambda: milestone.reached, timeout, "drain")
        self._raise_if_failed()
        return done

    def stop(self, timeout: float | None = None) -> bool:
        """Finish what runs, fire its callbacks, commit, leave the group; True if all was finished
        and committed. Owner's thread.

        It returns within `timeout` + 1 seconds, whatever Kafka and the worker's own threads do, and
        no child process outlives it. What cannot be ended in that time is left to daemon threads,
        and a warning says so. Only a callback that this call has begun is waited for: nobody can
        end it.

        Args:
            timeout: seconds for what runs to finish, after which it is killed, without callback and
                commit; None for `stop_timeout`.

        Raises:
            WrongThread, InsideCallback: called elsewhere.
            WorkerFailed, EmbedkqError: the worker has ended by itself (raised once).
        """
        runtime = self._runtime_of_owner("stop")
        if runtime is None:
            return True
        allowed = self._settings.stop_timeout if timeout is None else timeout
        runtime.stop_within(allowed)
        if allowed == 0 or not self._fire_until(runtime, lambda: self.state.ended, allowed, "stop"):
            if runtime.dispatcher.busy and allowed != 0:
                return False
            self._end_now(runtime)
        self._raise_if_failed()
        return self.state is State.STOPPED and runtime.finished

    async def adrain(self, timeout: float | None = None) -> bool:
        """`drain` for an asyncio loop: the loop keeps running, and runs the callbacks."""
        from embedkq.worker import asyncio_waits

        runtime = self._runtime_of_owner("adrain")
        if runtime is None or self.state.ended:
            self._raise_if_failed()
            return self.state is State.INERT
        done = await asyncio_waits.until_done(runtime, timeout)
        self._raise_if_failed()
        return done

    async def astop(self, timeout: float | None = None) -> bool:
        """`stop` for an asyncio loop: the loop keeps running, and runs the callbacks."""
        from embedkq.worker import asyncio_waits

        runtime = self._runtime_of_owner("astop")
        if runtime is None:
            return True
        allowed = self._settings.stop_timeout if timeout is None else timeout
        runtime.stop_within(allowed)
        if not await asyncio_waits.until_over(runtime, allowed):
            await asyncio_waits.end_now(runtime)
        self._raise_if_failed()
        return self.state is State.STOPPED and runtime.finished
