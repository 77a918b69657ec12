"""The states of a worker and the moves between them."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable

from embedkq._safe_logging import safe_repr
from embedkq.errors import EmbedkqError, WorkerError, WorkerFailed


class State(str, enum.Enum):
    """Where a worker is in its life; compares equal to its name in lower case."""

    NEW = "new"
    """Made, never started."""
    STARTING = "starting"
    """Connecting to the broker."""
    RUNNING = "running"
    """Taking jobs."""
    STOPPING = "stopping"
    """Takes no more jobs; what runs is finished, fired and committed."""
    STOPPED = "stopped"
    """Left the group, all processes gone; may be started anew."""
    FAILED = "failed"
    """Ended by itself; `error` tells why. May be started anew."""
    INERT = "inert"
    """In a child process of embedkq: never starts."""

    __str__ = str.__str__

    @property
    def ended(self) -> bool:
        """Whether nothing of the worker runs (any more)."""
        return self in (State.NEW, State.STOPPED, State.FAILED, State.INERT)


_MOVES = {
    State.NEW: {State.STARTING, State.INERT},
    State.STARTING: {State.RUNNING, State.STOPPING, State.STOPPED, State.FAILED},
    State.RUNNING: {State.STOPPING, State.STOPPED, State.FAILED},
    State.STOPPING: {State.STOPPED, State.FAILED},
    State.STOPPED: {State.STARTING, State.INERT},
    State.FAILED: {State.STARTING, State.INERT},
    State.INERT: set(),
}


class Lifecycle:
    """The state of one worker, moved and waited for on any thread."""

    def __init__(self, state: State = State.NEW) -> None:
        self._state = state
        self._changed = threading.Condition()
        self.error: BaseException | None = None

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    def move(self, state: State, error: BaseException | None = None) -> None:
        """Go on to a state, with the error that caused it.

        Raises:
            WorkerError: there is no such move.
        """
        with self._changed:
            if state not in _MOVES[self._state]:
                raise WorkerError(f"a worker that is {self._state} cannot become {state}")
            self._state, self.error = state, error
            self._changed.notify_all()

    def move_from(self, state: State, to: State) -> bool:
        """Go from one state to another, if it is the state now; whether it was."""
        with self._changed:
            if self._state is not state:
                return False
            self._state = to
            self._changed.notify_all()
            return True

    def wait(self, reached: Callable[[State], bool], timeout: float | None) -> bool:
        """Until the state satisfies `reached`, or for `timeout` seconds (None: for ever); whether
        it does."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not reached(self._state):
                rest = None if deadline is None else deadline - time.monotonic()
                if rest is not None and rest <= 0:
                    return False
                self._changed.wait(rest)
            return True


def raise_failure(error: BaseException) -> None:
    """Raise what a worker failed with: embedkq's own errors as they are, others as the cause of
    `WorkerFailed`."""
    if isinstance(error, EmbedkqError):
        raise error
    raise WorkerFailed(f"the worker has failed: {safe_repr(error)}") from error
