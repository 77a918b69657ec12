"""A worker as every thread sees it: what it is, how it does, and that it shall stop."""

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
    """What a `Worker` has beside its owner's methods; not made by itself."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lifecycle = Lifecycle()
        self._runtime: Runtime | None = None
        self._error_told = False
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
        """Kafka brokers, comma separated."""
        return self._settings.hosts

    @property
    def topic(self) -> str:
        """Topic that jobs are taken from."""
        return self._settings.topic

    @property
    def group(self) -> str:
        """Consumer group."""
        return self._settings.consumer_group

    @property
    def client_options(self) -> Mapping[str, Any]:
        """Options for kafka-python beside the hosts, with TLS files by their names there. May hold
        passwords."""
        return dict(self._settings.client_options)

    @property
    def timeout(self) -> float | None:
        """Limit of every job in seconds, or None for the job's own."""
        return self._settings.timeout

    @property
    def stop_timeout(self) -> float | None:
        """Seconds that running jobs get at a stop before they are killed, or None for ever."""
        return self._settings.stop_timeout

    @property
    def state(self) -> State:
        """Where the worker is in its life; compares equal to a string such as "running". Any
        thread."""
        return self._lifecycle.state

    @property
    def error(self) -> BaseException | None:
        """Why the worker has failed, or None. Any thread."""
        return self._lifecycle.error

    def health(self) -> Health:
        """How the worker does now: state, progress, jobs, children, lag. Any thread; takes no lock
        and asks nobody."""
        from embedkq.worker.health import health_of

        return health_of(self.state, self._runtime)

    def fileno(self) -> int:
        """Descriptor that is readable while callbacks wait, for `select` and event loops. Any
        thread, once started."""
        if self._runtime is not None:
            return self._runtime.dispatcher.mailbox.fileno()
        if self.state is not State.INERT:
            raise WorkerError(f"{self!r} has not been started: there is nothing to wait for")
        if (
            self._never is None
        ):  # in a child process of embedkq: nothing will ever wait, and nothing may raise
            self._never = Mailbox()
        return self._never.fileno()

    def request_stop(self, now: bool = False) -> None:
        """Ask the worker to stop: it takes no more jobs, finishes what runs, commits and leaves.
        Never blocks.

        Any thread, a signal handler, a callback. The owner goes on firing callbacks until the
        worker has stopped.

        Args:
            now: kill what runs, without callback and commit.
        """
        if self._runtime is not None:
            self._runtime.request_stop(now)

    def wait(self, timeout: float | None = None) -> bool:
        """Until the worker has stopped, or for `timeout` seconds; whether it has. Any thread; the
        owner fires callbacks meanwhile.

        Raises:
            InsideCallback: called from within a callback.
        """
        runtime = self._runtime
        if runtime is None or not runtime.dispatcher.is_here:
            return self._lifecycle.wait(_has_ended, timeout)
        runtime.dispatcher.check(
            "wait"
        )  # what the owner does not fire here would never be fired, and so the worker never stop
        return self._fire_until(runtime, lambda: self.state.ended, timeout, "wait")

    def close_after_fork(self) -> None:
        """In a forked copy of the process: the worker is stopped here, and may be started anew; the
        parent's runs on undisturbed."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None and not self.state.ended:
            self._lifecycle = Lifecycle(
                State.STOPPED
            )  # a new one: the old one's lock may be held by a thread that is not here
            runtime.close_after_fork()

    def _runtime_of_owner(self, method: str) -> Runtime | None:
        if self._runtime is not None:
            self._runtime.dispatcher.check(method)
        return self._runtime

    def _fire_until(
        self, runtime: Runtime, reached: Callable[[], bool], timeout: float | None, method: str
    ) -> bool:
        """Fire callbacks until something is reached or the worker has ended; whether it is
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
        if error is not None and not self._error_told:
            self._error_told = True
            raise_failure(error)


def _has_ended(state: State) -> bool:
    return state.ended
