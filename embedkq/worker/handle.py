"""The methods and attributes of a worker that any thread may use."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from embedkq._ipc.fork_cleanup import register_fork_cleanup
from embedkq._safe_logging import SafeLogger
from embedkq.errors import WorkerError
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.lifecycle import Lifecycle, State, raise_failure
from embedkq.worker.settings import Settings

if TYPE_CHECKING:
    from embedkq.worker.health import Health
    from embedkq.worker.runtime import Runtime

logger = SafeLogger("embedkq.worker")


class Handle:
    """The part of `Worker` that is not restricted to its owner. Not instantiated directly."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lifecycle = Lifecycle()
        self._runtime: Runtime | None = None
        self._error_raised = False
        self._never: Mailbox[Any] | None = None
        register_fork_cleanup(self)

    def __repr__(self) -> str:
        return f"Worker(topic={self.topic})"

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self!r} belongs to its process and cannot be pickled: refer to it inside the"
            " function that needs it"
        )

    @property
    def hosts(self) -> str:
        """Kafka brokers, separated by commas."""
        return self._settings.hosts

    @property
    def topic(self) -> str:
        """The topic of the jobs."""
        return self._settings.topic

    @property
    def group(self) -> str:
        """The consumer group."""
        return self._settings.consumer_group

    @property
    def client_options(self) -> Mapping[str, Any]:
        """Options for kafka-python except the hosts. TLS files have kafka-python's names. May
        contain passwords."""
        return dict(self._settings.client_options)

    @property
    def timeout(self) -> float | None:
        """Time limit of every job in seconds; None for the job's own limit."""
        return self._settings.timeout

    @property
    def stop_timeout(self) -> float | None:
        """Seconds that running jobs get to finish at a stop before they are killed; None for no
        limit."""
        return self._settings.stop_timeout

    @property
    def state(self) -> State:
        """The worker's state. Compares equal to a string such as "running". Any thread."""
        return self._lifecycle.state

    @property
    def error(self) -> BaseException | None:
        """The error that the worker failed with, or None. Any thread."""
        return self._lifecycle.error

    def health(self) -> Health:
        """The worker's health now: state, progress, jobs, children, lag. Takes no lock and makes no
        request. Any thread."""
        from embedkq.worker.health import read_health

        return read_health(self.state, self._runtime)

    def fileno(self) -> int:
        """A descriptor that is readable while callbacks wait, for `select` and event loops. Any
        thread, after the start."""
        if self._runtime is not None:
            return self._runtime.dispatcher.mailbox.fileno()
        if self.state is not State.INERT:
            raise WorkerError(f"{self!r} has not been started, so it has no descriptor")
        if (
            self._never is None
        ):  # in a child process of embedkq no callback ever waits, and nothing may raise
            self._never = Mailbox()
        return self._never.fileno()

    def request_stop(self, now: bool = False) -> None:
        """Ask the worker to stop: it takes no more jobs, finishes running jobs, commits and leaves
        the group. Never blocks.

        Call it on any thread, in a signal handler or in a callback. The owner must continue to run
        callbacks until the worker has stopped.

        Args:
            now: kill running jobs, without callbacks and commits for them.
        """
        if self._runtime is not None:
            self._runtime.request_stop(now)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds for the worker to stop. Returns whether it has stopped. Any
        thread. On the owner's thread, it runs callbacks meanwhile.

        Raises:
            InsideCallback: it was called inside a callback.
        """
        runtime = self._runtime
        if runtime is None or not runtime.dispatcher.is_here:
            return self._lifecycle.wait(_has_ended, timeout)
        runtime.dispatcher.check(
            "wait"
        )  # otherwise the callbacks would never run, and the worker would never stop
        return self._fire_until(runtime, lambda: self.state.ended, timeout, "wait")

    def close_after_fork(self) -> None:
        """In a forked copy of the process, mark the worker as stopped. It can be started again
        here. The parent's worker continues."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None and not self.state.ended:
            self._lifecycle = Lifecycle(
                State.STOPPED
            )  # a new object, because a thread of the parent may hold the old one's lock
            runtime.close_after_fork()

    def _runtime_of_owner(self, method: str) -> Runtime | None:
        if self._runtime is not None:
            self._runtime.dispatcher.check(method)
        return self._runtime

    def _fire_until(
        self, runtime: Runtime, reached: Callable[[], bool], timeout: float | None, method: str
    ) -> bool:
        """Run callbacks until `reached` is true or the worker has ended. Returns whether it was
        reached."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            runtime.dispatcher.dispatch(deadline=deadline)
            if reached():
                return True
            rest = None if deadline is None else deadline - time.monotonic()
            if self.state.ended or (rest is not None and rest <= 0):
                return False
            if runtime.dispatcher.busy:
                logger.warning(
                    "%s() cannot wait for `async def` callbacks on the loop's own thread: "
                    "use `await worker.adrain()` or `await worker.astop()`.",
                    method,
                )
                return False
            runtime.dispatcher.mailbox.wait(rest)

    def _end_now(self, runtime: Runtime) -> None:
        runtime.request_stop(now=True)
        runtime.await_end()

    def _raise_if_failed(self) -> None:
        error = self.error
        if error is not None and not self._error_raised:
            self._error_raised = True
            raise_failure(error)


def _has_ended(state: State) -> bool:
    return state.ended
