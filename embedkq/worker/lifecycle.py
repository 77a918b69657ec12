"""The states of a worker and the allowed moves between them."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable

from embedkq._safe_logging import safe_repr
from embedkq.errors import EmbedkqError, WorkerError, WorkerFailed


class State(str, enum.Enum):
    """The state of a worker. Compares equal to its name in lower case."""

    NEW = "new"
    """Created, never started."""
    STARTING = "starting"
    """Connecting to the broker."""
    RUNNING = "running"
    """Taking jobs."""
    STOPPING = "stopping"
    """Takes no more jobs. Running jobs finish, their callbacks run, and their offsets are
    committed."""
    STOPPED = "stopped"
    """Has left the group; all processes have ended. You can start it again."""
    FAILED = "failed"
    """Ended by itself; `error` has the reason. You can start it again."""
    INERT = "inert"
    """Never starts, because this is a child process of embedkq."""

    __str__ = str.__str__

    @property
    def ended(self) -> bool:
        """Whether the worker does not run (any more)."""
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
    """The state of one worker. Any thread.

    Threads other than the owner's wait on its condition, any number of them, and wake after 0.1 ms
    (median). The owner waits on its mailbox instead, because callbacks have to wake it too.
    """

    def __init__(self, state: State = State.NEW) -> None:
        self._state = state
        self._changed = threading.Condition()
        self.error: BaseException | None = None

    @property
    def state(self) -> State:
        """The present state."""
        return self._state

    def move(self, state: State, error: BaseException | None = None) -> None:
        """Move to a state, with the error that caused the move.

        Raises:
            WorkerError: the move is not allowed.
        """
        with self._changed:
            if state not in _MOVES[self._state]:
                raise WorkerError(f"a worker that is {self._state} cannot become {state}")
            self._state, self.error = state, error
            self._changed.notify_all()

    def move_from(self, state: State, to: State) -> bool:
        """Move from one state to another. Returns False if the worker is not in the first state."""
        with self._changed:
            if self._state is not state:
                return False
            self._state = to
            self._changed.notify_all()
            return True

    def wait(self, reached: Callable[[State], bool], timeout: float | None) -> bool:
        """Wait up to `timeout` seconds (None: forever) until the state satisfies `reached`. Returns
        whether it does."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not reached(self._state):
                rest = None if deadline is None else deadline - time.monotonic()
                if rest is not None and rest <= 0:
                    return False
                self._changed.wait(rest)
            return True


def raise_failure(error: BaseException) -> None:
    """Raise the error that a worker failed with: embedkq's own errors unchanged, others as the
    cause of `WorkerFailed`."""
    if isinstance(error, EmbedkqError):
        raise error
    raise WorkerFailed(f"the worker has failed: {safe_repr(error)}") from error
