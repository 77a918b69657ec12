"""One run of a worker, from its start to its end; the steps of each, in their order:

Start
1. `Worker` checks options and surroundings and has `wiring` build all parts, on the owner's thread:
   what is wrong with them raises there, and nothing runs yet.
2. `start` starts both threads and returns: the application does not wait for Kafka.
3. The control thread makes its loop, and with it the child processes (`_make_loop_when_possible`).
   The consumer thread connects meanwhile; `await_connection` waits for it and raises its error.
4. The first turn after the connection makes the worker `running`. The group is joined later.

Turn, on the control thread (`_work`)
1. `ControlLoop.turn` waits for messages and child processes for at most a second, settles jobs that
   have ended, starts others, and publishes what may be committed.
2. `ProgressWatch.look` logs when the worker makes no progress. Both threads call it, since one of
   them may be stuck.
3. `_handle_stop` acts on a stop. `request_stop` does not: a signal handler may call it, and only
   the control thread uses the loop.

Stop
1. `request_stop` sets a flag and wakes the threads that wait. Any thread may call it.
2. `ControlLoop.stop` drops the jobs that have not started: they are the next worker's.
3. Running jobs end, their callbacks are called and their dead letters written. At the limit of
   `stop_within` running jobs are killed; `request_stop(now=True)` waits for nothing of this.
4. `_leave` first asks the consumer thread to commit and to leave, because its poll takes up to half
   a second. What it commits is final, since no job is running. The child processes end meanwhile.
5. `_end` logs why the worker failed, or what it leaves behind.
6. `_be_over` moves the state, ends callbacks and wakes the threads that wait. It comes last, so
   that they find everything ended.
A thread that has waited until the deadline does step 6 itself (`_leave_behind`): it leaves the
worker's threads behind, kills the child processes, and starts a thread that logs what is left.
"""

from __future__ import annotations

import atexit
import sys
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from embedkq._clients.consumer import CONNECT_SECONDS
from embedkq._safe_logging import SafeLogger
from embedkq.errors import BrokerUnavailable, EmbedkqError, WorkerError
from embedkq.worker import progress_watch
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.between_threads.shortage import RETRY_SECONDS, cure_for, is_shortage
from embedkq.worker.consumer_thread.consumer_thread import ConsumerThread
from embedkq.worker.control_thread.control_loop import ControlLoop
from embedkq.worker.lifecycle import Lifecycle, State
from embedkq.worker.owner_thread.dispatcher import CallbackDispatcher

logger = SafeLogger("embedkq.worker")

_LEAVE_SECONDS, _LOOK_SECONDS = 15.0, 0.02
_TELL_SECONDS = 0.05

_runtimes: weakref.WeakSet[Runtime] = weakref.WeakSet()


class Milestone:
    """Something that the owner waits for and another thread brings about. The owner waits in one
    place only, its mailbox or its asyncio loop, and `then` wakes it there."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.reached = False
        self._then = then

    def set(self) -> None:
        """It is reached. Any thread."""
        self.reached = True
        self._then()


class Runtime:
    """One run of a worker, from its start to its end; a worker that is started again gets a new
    one."""

    def __init__(
        self,
        topic: str,
        lifecycle: Lifecycle,
        shared: SharedState,
        dispatcher: CallbackDispatcher,
        make_loop: Callable[[], ControlLoop],
        consumer: ConsumerThread,
    ) -> None:
        self.dispatcher = dispatcher
        self.consumer = consumer
        self.loop: ControlLoop | None = None
        self.killed = False
        """Whether anything was cut short."""
        self.over = False
        """Whether this run has ended: nothing of it runs, or what still runs was left behind."""
        self.finished = False
        """Whether, once it is over, all that it had begun is done and committed."""
        self.deadline = shared.deadline
        self.last_turn = time.monotonic()
        """`time.monotonic()` at which the control thread last began a turn."""
        self._watch = progress_watch.ProgressWatch(self.standstill)
        consumer.on_turn = self._watch.look
        self.watchers: set[Callable[[], None]] = set()
        """Called on the control thread once it is over; who adds one looks at `over`
        afterwards."""
        self._topic = topic
        self._lifecycle = lifecycle
        self._shared = shared
        self._make_loop = make_loop
        self._stop_asked = self._told = False
        self._ending = threading.Lock()
        self._threads = {
            name: threading.Thread(target=run, name=f"embedkq-{name}-{topic}", daemon=True)
            for name, run in (("worker", self._work), ("consumer", consumer.run))
        }

    def start(self, keep_trying: bool = False) -> None:
        """Start both threads; returns at once. `keep_trying`: a broker that is away at the start is
        waited for."""
        _runtimes.add(self)
        self.consumer.keeps_trying = keep_trying
        self.consumer.connected.add_done_callback(lambda _: self._shared.inbox.wake())
        for thread in self._threads.values():
            thread.start()

    def request_stop(self, now: bool = False) -> None:
        """Begin to stop: at once what runs is killed with `now`. Any thread, also a signal handler;
        never blocks."""
        if now:
            self.deadline.kill_now()
        self._stop_asked = self.consumer.assignment.stopping = True
        self._shared.inbox.wake()
        if now:
            self.dispatcher.mailbox.end_wait()  # it waits no longer than the deadline from now on

    def stop_within(self, seconds: float | None) -> None:
        """Begin to stop; jobs that still run after this many seconds are killed. Any thread."""
        self.deadline.set(seconds)
        self.request_stop()

    def leave_if_overdue(self) -> None:
        """Leave the worker behind if the deadline has passed: it is over then, whatever its threads
        do. Any thread but its own."""
        if self.deadline.patience == 0 and not self.over:
            self._leave_behind()

    def await_end(self) -> None:
        """Until it is over, or was left behind at its deadline; after `request_stop(now=True)`. Any
        thread but its own."""
        self._lifecycle.wait(_has_ended, self.deadline.patience)
        self.leave_if_overdue()

    def milestone(self, then: Callable[[], None]) -> Milestone:
        """Reached once all that the assigned partitions hold now is done. Any thread."""
        milestone = Milestone(then)
        self.consumer.request_end_offsets(milestone)
        return milestone

    def await_connection(self, seconds: float = CONNECT_SECONDS) -> None:
        """Until the broker has answered; not on threads of the worker.

        Raises:
            BrokerUnavailable: it has not, within 10 s.
            EmbedkqError: it refuses.
        """
        try:
            self.consumer.connected.result(seconds)
        except FutureTimeoutError:
            raise BrokerUnavailable(
                self.consumer.hosts, f"no answer within {CONNECT_SECONDS:g} s"
            ) from None

    def standstill(self, now: float) -> list[str]:
        """Why the worker makes no progress at this moment; empty if it does. Any thread; takes no
        lock."""
        consumer, loop = self.consumer, self.loop
        waits = [
            (self.last_turn, "the control thread has made no turn"),
            (consumer.last_turn, "the consumer thread has made no turn"),
            (consumer.broker.away_since, f"Kafka at {consumer.hosts} has not answered"),
            (consumer.committer.refused_since, "Kafka has refused every commit"),
        ]
        if loop is not None:
            waits += [
                (loop.pool.weak_since, "child processes have been missing"),
                (
                    loop.completer.waiting_since,
                    "callbacks have waited for the owner, which must call run_callbacks(),",
                ),
                (loop.completer.letters_away_since, "dead letters could not be written"),
            ]
        longest = progress_watch.NO_PROGRESS_SECONDS
        return [
            f"{text} for {now - since:.0f} s"
            for since, text in waits
            if since is not None and now - since > longest
        ]

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of what the parent uses."""
        _runtimes.discard(self)
        for mailbox in (self._shared.inbox, self.dispatcher.mailbox):
            mailbox.close_after_fork()
        if self.loop is not None:
            self.loop.close_after_fork()
        self.consumer.close_after_fork()

    # The control thread.

    def _work(self) -> None:
        error: BaseException | None = None
        self._shared.host_cpu.leave_out_this_thread()
        try:
            self.loop = self._make_loop_when_possible()
            while not self.over and self.loop.turn():
                self.last_turn = time.monotonic()
                self._watch.look(self.last_turn)
                self._handle_stop()
        except BaseException as caught:  # noqa: BLE001  (kept as the worker's error, raised to the owner)
            error = caught
        try:
            self._leave()
        except BaseException as caught:  # noqa: BLE001
            error = error or caught
        self._end(error)

    def _make_loop_when_possible(self) -> ControlLoop:
        logged = False
        while True:
            try:
                return self._make_loop()
            except OSError as error:
                if not is_shortage(error):
                    raise
                if self._stop_asked:
                    raise WorkerError(f"the worker could not start: {cure_for(error)}") from error
                if not logged:
                    logger.warning("The worker waits to start: %s.", cure_for(error))
                logged = True
            time.sleep(self.deadline.left(RETRY_SECONDS))

    def _handle_stop(self) -> None:
        connected = self.consumer.connected
        if connected.done():
            if (refusal := connected.exception()) is not None:
                raise refusal
            self._move(State.STARTING, State.RUNNING)
        if self._stop_asked and self.loop is not None:
            self._move(State.RUNNING, State.STOPPING)
            self.loop.stop()
            if self.deadline.killing:
                self.killed |= self.loop.abandon()
            elif (
                self.deadline.hurries
            ):  # who has set the limit may be inside a callback, which is waited for
                self.killed |= self.loop.kill_jobs()

    def _move(self, state: State, to: State) -> None:
        with self._ending:
            if not self.over:
                self._lifecycle.move_from(state, to)

    def _leave(self) -> None:
        self.deadline.begin_leaving()
        self._shared.hurry()
        # The consumer is asked first, since its poll takes up to half a second to end; it commits
        # what the loop has published last, which no later event can change: nothing runs any more,
        # or what runs has been given up. The children end meanwhile.
        self.consumer.stop()
        if self.loop is not None:
            self.loop.close()
        until = time.monotonic() + _LEAVE_SECONDS + self._shared.session_seconds
        while self._consumer_leaves and (seconds := self.deadline.left(until - time.monotonic())):
            self._threads["consumer"].join(min(seconds, _LOOK_SECONDS))

    @property
    def _consumer_leaves(self) -> bool:
        # Else it still looks for a broker, for up to 10 s, and has nothing to leave.
        return self.consumer.connected.done() and self._threads["consumer"].is_alive()

    def _end(self, error: BaseException | None) -> None:
        finished = False
        try:
            if error is not None:
                logger.error(
                    "The worker has failed: %s",
                    error,
                    exc_info=None if isinstance(error, EmbedkqError) else error,
                )
            elif not self.over and (self._consumer_leaves or not self.consumer.has_committed_all):
                self._tell_left([self._threads["consumer"]] if self._consumer_leaves else [])
            finished = not self.killed and self.consumer.has_committed_all
        finally:
            self._be_over(finished, State.STOPPED if error is None else State.FAILED, error)

    def _be_over(self, finished: bool, state: State, error: BaseException | None = None) -> bool:
        """End this run; False if it had ended before. Any thread."""
        with self._ending:
            if self.over:
                return False
            self.over, self.finished = True, finished
            _runtimes.discard(self)
            self.dispatcher.end()
            self._lifecycle.move(state, error)
        # and no handoff, which may block: no further callback is due
        self.dispatcher.mailbox.end_wait()
        for watcher in list(self.watchers):
            watcher()
        return True

    # Any thread but its own.

    def _leave_behind(self) -> None:
        """End it without its threads, which wait for something that does not come. No child
        outlives it. Logs nothing on this thread."""
        self.deadline.passed = True
        loop = self.loop
        finished = (
            not self.killed
            and (loop is None or not loop.in_flight)
            and self.consumer.has_committed_all
        )
        connected = self.consumer.connected
        refusal = connected.exception() if connected.done() else None
        if not self._be_over(finished, State.STOPPED if refusal is None else State.FAILED, refusal):
            return
        self.consumer.stop()
        if loop is not None:
            loop.pool.kill_all()
        try:
            telling = threading.Thread(
                target=self._tell_left_behind, name=f"embedkq-left-{self._topic}", daemon=True
            )
            telling.start()
            telling.join(_TELL_SECONDS)  # a log handler that blocks may be what the others wait for
        except RuntimeError:  # the interpreter is ending, and starts no further thread
            pass

    def _tell_left_behind(self) -> None:
        left = [thread for thread in self._threads.values() if thread.is_alive()]
        if self.loop is not None:
            self.loop.pool.end_server()
        self._tell_left(left)

    def _tell_left(self, threads: list[threading.Thread]) -> None:
        if self._told:
            return
        self._told = True
        left = [
            f"{thread.name} is left to end by itself ({_place_of(thread)})" for thread in threads
        ]
        if self._threads["consumer"] in threads:
            left.append("its group waits for it until its session has ended")
        if not self.consumer.has_committed_all:
            left.append("what was done since the last commit runs again")
        logger.warning(
            "The worker of topic %s has stopped, but not in order: %s.",
            self._topic,
            "; ".join(left),
        )


def _place_of(thread: threading.Thread) -> str:
    """Where the thread is at the moment."""
    frame = sys._current_frames().get(thread.ident or 0)
    while (
        frame is not None
        and frame.f_code.co_filename == threading.__file__
        and frame.f_back is not None
    ):
        frame = frame.f_back
    return (
        "it has just ended"
        if frame is None
        else f"it is in {frame.f_code.co_name}, {frame.f_code.co_filename}:{frame.f_lineno}"
    )


def _end_with_interpreter() -> None:
    # Runs before pebble's exit hook, which was registered earlier and would wait 3 s for each
    # child: what runs is killed here and comes again, what is done is committed.
    runtimes: list[Any] = list(_runtimes)
    for runtime in runtimes:
        runtime.request_stop(now=True)
    for runtime in runtimes:
        runtime.await_end()


def _has_ended(state: State) -> bool:
    return state.ended


atexit.register(_end_with_interpreter)
