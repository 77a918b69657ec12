"""Worker: takes jobs from a topic, runs them in child processes, fires callbacks on the thread that owns it."""
from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, TypeVar

from embedkq import codec, options
from embedkq.child.process import in_child
from embedkq.errors import WorkerError
from embedkq.worker.consumer import OWNED_OPTIONS, Consumer
from embedkq.worker.engine import Engine, raise_failure
from embedkq.worker.exchange import Exchange
from embedkq.worker.lifecycle import Lifecycle, State
from embedkq.worker.loop import Loop
from embedkq.worker.owner import Callback, HandoffOwner, LoopOwner, Owner, is_coroutine_function
from embedkq.worker.pool import JobPool

logger = logging.getLogger("embedkq.worker")

W = TypeVar("W", bound="Worker")
_REVOKE_SECONDS = 10.0


class Worker:
    """Takes jobs from a Kafka topic and runs each in a child process under a hard limit.

    The thread that calls `start()`, `start_background()` or enters the `with` block owns the worker: every callback runs there.
    Making a worker connects to nothing and starts nothing.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: topic to take jobs from.
        timeout: limit of every job in seconds, in place of the job's own; None for the job's own.
        callback: called with (status, job, result, exception, traceback) for each job; see README.
        job_size: bytes of the largest record expected.
        cafile, certfile, keyfile, crlfile: TLS files; giving any means TLS.
        proc_ttl: jobs after which a child process is replaced; 0 or None for never.
        offset_policy: where a group without committed offset begins, "earliest" or "latest".
        group: consumer group; the topic's name if None.
        processes: how many jobs run at once.
        handoff: makes the owner run a function soon (`root.after_idle`, `GLib.idle_add`, `reactor.callFromThread`).
        initializer, initargs: called in each child before its first job.
        stop_timeout: seconds that `stop()` and leaving the `with` block give to running jobs before these are killed; None for ever.
        kafka: further options of kafka-python's KafkaConsumer.

    Raises:
        TypeError, ValueError: an argument cannot work; the message names it.
        EncodeError: the initializer or its arguments cannot be pickled.
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
        stop_timeout: float | None = 30.0,
        revoke_timeout: float = _REVOKE_SECONDS,
        kafka: Mapping[str, Any] | None = None,
    ) -> None:
        self._hosts = options.check_hosts(hosts)
        self._topic = options.check_topic(topic)
        self._timeout = options.check_timeout(timeout)
        self._callback = None if callback is None else options.check_callback(callback)
        self._job_size = options.check_job_size(job_size)
        self._proc_ttl = options.check_count("proc_ttl", proc_ttl or 0, 0) or None
        self._offset_policy = options.check_offset_policy(offset_policy)
        self._group = self._topic if group is None else options.check_group(group)
        self._processes = options.check_count("processes", processes, 1)
        if handoff is not None and not callable(handoff):
            raise TypeError(f"handoff must be a callable that has the owner run a function, not {handoff!r}")
        self._handoff = handoff
        self._initializer = b"" if initializer is None else codec.encode_call(initializer, tuple(initargs), {})
        self._stop_timeout = options.check_timeout(stop_timeout, "stop_timeout")
        self._revoke_timeout = options.check_timeout(revoke_timeout, "revoke_timeout") or _REVOKE_SECONDS
        self._client_options = options.client_config(
            hosts, cafile, certfile, keyfile, crlfile, kafka, owned=OWNED_OPTIONS, owner="Worker"
        )
        self._lifecycle = Lifecycle()
        self._engine: Engine | None = None
        self._error_told = False

    def __repr__(self) -> str:
        return f"Worker(topic={self._topic})"

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} belongs to its process and cannot be pickled: refer to it inside the function that needs it")

    @property
    def hosts(self) -> str:
        """Kafka brokers, comma separated."""
        return self._hosts

    @property
    def topic(self) -> str:
        """Topic that jobs are taken from."""
        return self._topic

    @property
    def group(self) -> str:
        """Consumer group."""
        return self._group

    @property
    def timeout(self) -> float | None:
        """Limit of every job in seconds, or None for the job's own."""
        return self._timeout

    @property
    def state(self) -> State:
        """Where the worker is in its life; compares equal to a string such as "running". Any thread."""
        return self._lifecycle.state

    @property
    def error(self) -> BaseException | None:
        """Why the worker has failed, or None. Any thread."""
        return self._lifecycle.error

    # Starting. The calling thread becomes the owner.

    def start(self, burst: bool = False, max_jobs: int | None = None) -> None:
        """Run in the foreground: callbacks fire on this thread until the worker is stopped.

        Args:
            burst: stop once what the topic held at the start is done.
            max_jobs: stop after so many callbacks (outcomes, without a callback).

        Raises:
            BrokerUnavailable: no broker answered within 10 s.
            WorkerFailed, EmbedkqError: the worker has ended by itself.
        """
        if _is_loop_running():
            raise WorkerError("start() would block the asyncio loop that runs on this thread: use `async with worker:`")
        engine = self._begin(burst, max_jobs)
        if engine is None:
            return
        try:
            while not self.state.ended:
                engine.owner.mailbox.wait(None)
                engine.owner.fire()
        except BaseException:
            self._end_now(engine)
            raise
        self._raise_if_failed()

    def start_background(self: W, burst: bool = False, max_jobs: int | None = None) -> W:
        """Run on threads of its own; returns the worker once the broker has answered.

        Callbacks fire whenever the owner calls `run_callbacks`, `drain` or `stop`; by themselves where the owner runs an asyncio
        loop or `handoff` is set.

        Raises:
            BrokerUnavailable: no broker answered within 10 s.
        """
        engine = self._begin(burst, max_jobs)
        if engine is not None:
            try:
                engine.await_connection()
            except BaseException:
                self._end_now(engine)
                self._error_told = True
                raise
        return self

    def __enter__(self: W) -> W:
        return self.start_background()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._error_told = True
            self.stop(0.001)
        else:
            self._error_told = self._error_told or kind is not None
            self.stop()

    async def __aenter__(self: W) -> W:
        engine = self._begin(False, None)
        if engine is not None:
            try:
                await asyncio.get_running_loop().run_in_executor(None, engine.await_connection)
            except BaseException:
                self._end_now(engine)
                self._error_told = True
                raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._error_told = self._error_told or kind is not None
        await self.astop(None if kind is None or issubclass(kind, Exception) else 0.001)

    def _begin(self, burst: bool, max_jobs: int | None) -> Engine | None:
        if in_child():
            if self.state is not State.INERT:
                self._lifecycle.move(State.INERT)
            logger.debug("%r stays inert: this is a child process of embedkq", self)
            return None
        if max_jobs is not None:
            options.check_count("max_jobs", max_jobs, 1)
        if not self.state.ended:
            raise WorkerError(f"{self!r} is {self.state} already: stop it before starting it again")
        engine = self._make_engine(max_jobs)
        self._lifecycle.move(State.STARTING)
        self._error_told = False
        self._engine = engine
        logger.info("Starting %r ...", self)
        engine.start()
        if burst:
            engine.milestone(engine.request_stop)
        return engine

    def _make_engine(self, max_jobs: int | None) -> Engine:
        exchange = Exchange()
        owner = self._make_owner(exchange)

        def make_loop() -> Loop:
            return Loop(
                exchange,
                topic=self._topic,
                timeout=self._timeout,
                callbacks=None if self._callback is None else owner.mailbox,
                make_pool=lambda selector: JobPool(
                    self._processes, selector, proc_ttl=self._proc_ttl, initializer=self._initializer
                ),
                max_jobs=max_jobs,
            )

        consumer = Consumer(
            exchange, hosts=self._hosts, topic=self._topic, group=self._group, offset_policy=self._offset_policy,
            job_size=self._job_size, revoke_timeout=self._revoke_timeout, options=self._client_options,
        )
        return Engine(self._topic, self._lifecycle, exchange, owner, make_loop, consumer)

    def _make_owner(self, exchange: Exchange) -> Owner:
        if self._handoff is not None:
            return HandoffOwner(self._callback, self._topic, exchange.inbox, self._handoff)
        if _is_loop_running():
            return LoopOwner(self._callback, self._topic, exchange.inbox, asyncio.get_running_loop())
        if self._callback is not None and is_coroutine_function(self._callback):
            raise WorkerError("the callback is `async def`: start the worker from within a running asyncio loop")
        return Owner(self._callback, self._topic, exchange.inbox)

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
        done = self._fire_until(engine, lambda: milestone.reached, timeout)
        self._raise_if_failed()
        return done

    def stop(self, timeout: float | None = None) -> bool:
        """Finish what runs, fire its callbacks, commit, leave the group; True if all was finished. Owner's thread.

        Args:
            timeout: seconds for what runs to finish, after which it is killed, without callback and commit; None for `stop_timeout`.

        Raises:
            WrongThread, InsideCallback: called elsewhere.
            WorkerFailed, EmbedkqError: the worker has ended by itself (told once).
        """
        engine = self._engine_of_owner("stop")
        if engine is None:
            return True
        engine.request_stop()
        if not self._fire_until(engine, lambda: self.state.ended, self._stop_timeout if timeout is None else timeout):
            if engine.owner.busy:
                return False
            engine.killed = True
            self._end_now(engine)
        self._raise_if_failed()
        return self.state is State.STOPPED and not engine.killed

    async def adrain(self, timeout: float | None = None) -> bool:
        """`drain` for an asyncio loop, which goes on meanwhile and fires the callbacks."""
        engine = self._engine_of_owner("adrain")
        if engine is None or self.state.ended:
            self._raise_if_failed()
            return self.state is State.INERT
        loop, reached = asyncio.get_running_loop(), asyncio.Event()
        milestone = engine.milestone(lambda: loop.call_soon_threadsafe(reached.set) and None)
        ended = loop.run_in_executor(None, self._lifecycle.wait, _has_ended, timeout)
        waiting = asyncio.ensure_future(reached.wait())
        await asyncio.wait({waiting, ended}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        self._raise_if_failed()
        return milestone.reached

    async def astop(self, timeout: float | None = None) -> bool:
        """`stop` for an asyncio loop, which goes on meanwhile and fires the callbacks."""
        engine = self._engine_of_owner("astop")
        if engine is None:
            return True
        engine.request_stop()
        loop = asyncio.get_running_loop()
        allowed = self._stop_timeout if timeout is None else timeout
        if not await loop.run_in_executor(None, self._lifecycle.wait, _has_ended, allowed):
            engine.killed = True
            engine.request_stop(now=True)
            await loop.run_in_executor(None, self._lifecycle.wait, _has_ended, None)
        self._raise_if_failed()
        return self.state is State.STOPPED and not engine.killed

    def fileno(self) -> int:
        """Descriptor that is readable while callbacks wait, for `select` and event loops. Any thread, once started."""
        if self._engine is None:
            raise WorkerError(f"{self!r} has not been started: there is nothing to wait for")
        return self._engine.owner.mailbox.fileno()

    # For everybody.

    def request_stop(self, now: bool = False) -> None:
        """Ask the worker to stop: it takes no more jobs, finishes what runs, commits and leaves. Never blocks.

        Any thread, a signal handler, a callback. The owner goes on firing callbacks until the worker has stopped.

        Args:
            now: kill what runs, without callback and commit.
        """
        if self._engine is not None:
            self._engine.request_stop(now)

    def wait(self, timeout: float | None = None) -> bool:
        """Until the worker has stopped, or for `timeout` seconds; whether it has. Any thread but the owner's."""
        return self._lifecycle.wait(_has_ended, timeout)

    def _engine_of_owner(self, method: str) -> Engine | None:
        if self._engine is not None:
            self._engine.owner.check(method)
        return self._engine

    def _fire_until(self, engine: Engine, reached: Callable[[], bool], timeout: float | None) -> bool:
        """Fire callbacks until something is reached or the worker has ended; whether it is reached."""
        deadline = None if timeout is None else time.monotonic() + timeout
        mailbox = engine.owner.mailbox
        while True:
            engine.owner.fire()
            if reached():
                return True
            rest = None if deadline is None else deadline - time.monotonic()
            if self.state.ended or engine.owner.busy or (rest is not None and rest <= 0):
                return False
            mailbox.wait(rest)

    def _end_now(self, engine: Engine) -> None:
        engine.request_stop(now=True)
        self._lifecycle.wait(_has_ended, None)

    def _raise_if_failed(self) -> None:
        error = self.error
        if error is not None and not self._error_told:
            self._error_told = True
            raise_failure(error)


def _has_ended(state: State) -> bool:
    return state.ended


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


__all__ = ["Worker"]
