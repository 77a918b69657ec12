"""What runs between a start and its end: the worker's thread, the consumer's thread, and how both end."""
from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from embedkq.errors import BrokerUnavailable, EmbedkqError, WorkerError
from embedkq.safe_logging import SafeLogger
from embedkq.worker.client import CONNECT_SECONDS
from embedkq.worker.consumer import Consumer
from embedkq.worker.exchange import Exchange
from embedkq.worker.health import Watch
from embedkq.worker.lifecycle import Lifecycle, State
from embedkq.worker.loop import Loop
from embedkq.worker.owner import Owner
from embedkq.worker.shortage import RETRY_SECONDS, cure_for, is_shortage

logger = SafeLogger("embedkq.worker")

_EXIT_SECONDS = 2.0
_LEAVE_SECONDS = 15.0

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Milestone:
    """Something that the owner waits for and another thread brings about."""

    def __init__(self, then: Callable[[], None]) -> None:
        self.reached = False
        self._then = then

    def set(self) -> None:
        """It is reached. Any thread."""
        self.reached = True
        self._then()


class Engine:
    """One run of a worker, from its start to its end; a worker that is started again gets a new one."""

    def __init__(
        self, name: str, lifecycle: Lifecycle, exchange: Exchange, owner: Owner,
        make_loop: Callable[[], Loop], consumer: Consumer,
    ) -> None:
        self.owner = owner
        self.consumer = consumer
        self.loop: Loop | None = None
        self.killed = False
        """Whether anything was cut short."""
        self.over = False
        """Whether nothing of it runs any more."""
        self.last_turn = time.monotonic()
        """`time.monotonic()` at which the worker's thread last began a turn."""
        self.watch = Watch(self)
        consumer.watch = self.watch
        self.watchers: set[Callable[[], None]] = set()
        """Called on the worker's thread once it is over; who adds one looks at `over` afterwards."""
        self._lifecycle = lifecycle
        self._exchange = exchange
        self._make_loop = make_loop
        self._stop_asked = self._now_asked = False
        self._threads = {
            "worker": threading.Thread(target=self._work, name=f"embedkq-worker-{name}", daemon=True),
            "consumer": threading.Thread(target=consumer.run, name=f"embedkq-consumer-{name}", daemon=True),
        }

    def start(self, keep_trying: bool = False) -> None:
        """Start both threads; returns at once. `keep_trying`: a broker that is away at the start is waited for."""
        _engines.add(self)
        self.consumer.keeps_trying = keep_trying
        self.consumer.connected.add_done_callback(lambda _: self._exchange.inbox.wake())
        for thread in self._threads.values():
            thread.start()

    def request_stop(self, now: bool = False) -> None:
        """Begin to stop: at once what runs is killed with `now`. Any thread, also a signal handler; never blocks."""
        self._stop_asked = self.consumer.assignment.stopping = True
        self._now_asked = self._now_asked or now
        self._exchange.inbox.wake()

    def milestone(self, then: Callable[[], None]) -> Milestone:
        """Reached once all that the assigned partitions hold now is done. Any thread."""
        milestone = Milestone(then)
        self.consumer.ask_ends(milestone)
        return milestone

    def await_connection(self, seconds: float = CONNECT_SECONDS) -> None:
        """Until the broker has answered; not on the worker's threads.

        Raises:
            BrokerUnavailable: it has not, within 10 s.
            EmbedkqError: it refuses.
        """
        try:
            self.consumer.connected.result(seconds)
        except FutureTimeoutError:
            raise BrokerUnavailable(self.consumer.hosts, f"no answer within {CONNECT_SECONDS:g} s") from None

    def disinherit(self) -> None:
        """In a forked copy of the process: close its copies of what the parent uses."""
        _engines.discard(self)
        for mailbox in (self._exchange.inbox, self.owner.mailbox):
            mailbox.disinherit()
        if self.loop is not None:
            self.loop.disinherit()
        self.consumer.disinherit()

    # The worker's thread.

    def _work(self) -> None:
        error: BaseException | None = None
        self._exchange.host_load.leave_out_this_thread()
        try:
            self.loop = self._loop_once_possible()
            while self.loop.turn():
                self.last_turn = time.monotonic()
                self.watch.look(self.last_turn)
                self._heed()
        except BaseException as caught:  # noqa: BLE001  (kept as the worker's error, told to the owner)
            error = caught
        try:
            self._leave()
        except BaseException as caught:  # noqa: BLE001
            error = error or caught
        self._end(error)

    def _loop_once_possible(self) -> Loop:
        told = False
        while True:
            try:
                return self._make_loop()
            except OSError as error:
                if not is_shortage(error):
                    raise
                if self._stop_asked:
                    raise WorkerError(f"the worker could not start: {cure_for(error)}") from error
                if not told:
                    logger.warning("The worker waits to start: %s.", cure_for(error))
                told = True
            time.sleep(RETRY_SECONDS)

    def _heed(self) -> None:
        connected = self.consumer.connected
        if connected.done():
            if (refusal := connected.exception()) is not None:
                raise refusal
            self._lifecycle.move_from(State.STARTING, State.RUNNING)
        if self._stop_asked and self.loop is not None:
            self._lifecycle.move_from(State.RUNNING, State.STOPPING)
            self.loop.stop()
            if self._now_asked:
                self.killed = self.killed or self.loop.in_flight > 0
                self.loop.abandon()

    def _leave(self) -> None:
        # First the consumer is told, since its poll takes up to half a second to end; it commits what the loop has published last,
        # which no later event can change: nothing runs any more, or what runs has been given up. The children end meanwhile.
        self.consumer.stop()
        if self.loop is not None:
            self.loop.close(lambda: self._now_asked)
        if self.consumer.connected.done():  # else it still looks for a broker, for up to 10 s, and has nothing to leave behind
            self._threads["consumer"].join(_LEAVE_SECONDS)

    def _end(self, error: BaseException | None) -> None:
        _engines.discard(self)
        self.owner.end()
        self.over = True
        if error is None:
            self._lifecycle.move(State.STOPPED)
        else:
            logger.error("The worker has failed: %s", error, exc_info=None if isinstance(error, EmbedkqError) else error)
            self._lifecycle.move(State.FAILED, error)
        self.owner.wake()
        for watcher in list(self.watchers):
            watcher()


def _end_with_interpreter() -> None:
    # Runs before pebble's exit hook, which was registered earlier and would wait 3 s for each child: what runs is killed here and
    # comes again, what is done is committed.
    deadline = time.monotonic() + _EXIT_SECONDS
    engines: list[Any] = list(_engines)
    for engine in engines:
        engine.request_stop(now=True)
    for engine in engines:
        engine._lifecycle.wait(_has_ended, deadline - time.monotonic())


def _has_ended(state: State) -> bool:
    return state.ended


atexit.register(_end_with_interpreter)
