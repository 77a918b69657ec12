"""Decides what to commit and when, and handles refused commits. Consumer thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from typing import Any

from embedkq._clients.consumer import TIMEOUT_SECONDS, ConsumerClient
from embedkq._clients.names import kafka_errors
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.consumer_thread.commit_requests import TOO_LARGE, CommitLimits, CommitRequests

logger = SafeLogger("embedkq.worker")

FATAL = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.FencedInstanceIdError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InconsistentGroupProtocolError,
    kafka_errors.InvalidSessionTimeoutError,
)
"""Errors of the broker that a retry does not fix."""
REFUSALS = (kafka_errors.CommitFailedError, kafka_errors.RebalanceInProgressError)
"""Errors that mean: a rebalance is in progress, or this consumer is no longer a member."""
FINAL_COMMIT_SECONDS, PAUSE_SECONDS = 5.0, 0.01
_POLL_SECONDS = 0.5
_INTERVAL_SECONDS = 0.25
_UNCHANGED_SECONDS = 5.0
_AS_ASKED_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_UNCHANGED_AT_ONCE = 100
"""Number of unchanged partitions in a commit when nothing is new. One partition shows whether the
membership is valid; committing all of them in turn restores lost commits."""


class Committer:
    """Commits the newest snapshot at an interval, and repeats unchanged ones.

    Without these repeated commits, nobody would notice a dead membership or a broker that does not
    answer.
    """

    def __init__(self, session_seconds: float) -> None:
        self.refused_since: float | None = None
        """`time.monotonic()` of the first refusal since the last successful commit, or None."""
        self.last: float | None = None
        """`time.monotonic()` of the last commit, including unchanged snapshots."""
        self._unchanged_seconds = min(session_seconds / 3, _UNCHANGED_SECONDS)
        self._committed: Mapping[Partition, Progress] = {}
        self._tried = 0.0
        self._limits = CommitLimits()
        self._repeated = 0

    def may_be_due(self) -> bool:
        """Whether a commit can be due. Ask this first, because computing what to commit is more
        expensive."""
        return time.monotonic() > self._tried + _INTERVAL_SECONDS

    def due(self, wanted: Mapping[Partition, Progress]) -> bool:
        """Whether a commit of this is due."""
        since = time.monotonic() - self._tried
        return bool(wanted) and since > (
            _INTERVAL_SECONDS if self.pending(wanted) else self._unchanged_seconds
        )

    def pending(self, wanted: Mapping[Partition, Progress]) -> bool:
        """Whether any of this is not committed yet."""
        return wanted != self._committed

    def lacks(self, wanted: Mapping[Partition, Progress]) -> bool:
        """Whether any done record in this is not committed. Any thread."""
        committed = self._committed
        return any(
            (known := committed.get(partition)) is None
            or (known.offset, known.done) != (progress.offset, progress.done)
            for partition, progress in wanted.items()
        )

    def known(self, partitions: Set[Partition]) -> dict[Partition, Progress]:
        """This consumer's last commits for these partitions. Any thread."""
        return {
            partition: progress
            for partition, progress in self._committed.items()
            if partition in partitions
        }

    def commit(
        self, kafka: Any, wanted: Mapping[Partition, Progress], seconds: float = TIMEOUT_SECONDS
    ) -> bool:
        """Commit, and wait up to `seconds` for each request. Returns False if the commit is refused
        for now.

        Raises:
            KafkaError: the broker does not answer, or (one of `FATAL`) does not allow it.
        """
        self._tried = time.monotonic()
        try:
            self._commit(kafka, self._changed(wanted) or self._some_unchanged(wanted), seconds)
        except REFUSALS as error:
            self.refused_since = self.refused_since or time.monotonic()
            logger.debug("A commit was refused and will be retried: %r", error)
            return False
        self._committed, self.refused_since, self.last = dict(wanted), None, time.monotonic()
        return True

    def _commit(self, kafka: Any, wanted: Mapping[Partition, Progress], seconds: float) -> None:
        requests = self.requests(wanted)
        while (request := requests.next_request()) is not None:
            try:
                kafka.commit(request, timeout_ms=max(1, int(seconds * 1000)))
            except TOO_LARGE as error:
                requests.refused(error)
            else:
                self._committed = {**self._committed, **requests.accepted()}

    def _changed(self, wanted: Mapping[Partition, Progress]) -> dict[Partition, Progress]:
        return {
            partition: progress
            for partition, progress in wanted.items()
            if self._committed.get(partition) != progress
        }

    def _some_unchanged(self, wanted: Mapping[Partition, Progress]) -> dict[Partition, Progress]:
        partitions = sorted(wanted)
        first = self._repeated % len(partitions)
        self._repeated = first + _UNCHANGED_AT_ONCE
        return {
            partition: wanted[partition]
            for partition in partitions[first : first + _UNCHANGED_AT_ONCE]
        }

    def commit_as_asked(
        self,
        kafka: Any,
        shared: SharedState,
        committable: Callable[[], Mapping[Partition, Progress]],
        beginning: Set[Partition],
    ) -> None:
        """If jobs wait for a commit before they start, serve such commits for about a second,
        without polls in between. A poll would delay each one by half a second.

        Args:
            beginning: partitions whose first records were just passed on. The control thread is
                about to request commits for them.

        Raises:
            KafkaError: as `commit`.
        """
        now = time.monotonic()
        until, until_begun = now + _AS_ASKED_SECONDS, now + _LOOK_SECONDS
        while (shared.serial_mode and now < until) or (
            now < until_begun and not beginning <= shared.begun
        ):
            if shared.asked.wait(_LOOK_SECONDS):
                shared.asked.clear()
                if (
                    not shared.serial_mode and beginning <= shared.begun
                ):  # this was not a request: serial mode has ended
                    return
                if (wanted := committable()) and not self.commit(kafka, wanted):
                    return
                shared.confirm(wanted)
            now = time.monotonic()

    def commit_finally(
        self,
        client: ConsumerClient,
        shared: SharedState,
        committable: Callable[[], Mapping[Partition, Progress]],
    ) -> bool:
        """Commit what is done, before the stop's deadline. Returns whether all of it is committed.

        If the broker does not answer, give up after a few seconds. If it refuses the commit, wait
        as long as a rebalance may last, because a rebalance waits for dead members.
        """
        stop, began = shared.deadline, time.monotonic()
        deadline = began + FINAL_COMMIT_SECONDS
        while (wanted := committable()) and self.pending(wanted):
            seconds = stop.left(deadline - time.monotonic())
            if not seconds:
                return not self.lacks(wanted)
            try:
                if self.commit(client.kafka, wanted, min(seconds, TIMEOUT_SECONDS)):
                    break
                deadline = (
                    min(time.monotonic(), began + shared.session_seconds) + FINAL_COMMIT_SECONDS
                )
                client.set_paused(None)
                client.kafka.poll(
                    int(1000 * stop.left(_POLL_SECONDS))
                )  # lets a running rebalance make progress
            except kafka_errors.KafkaError as error:
                logger.debug("Could not commit the final offsets yet: %r", error)
                time.sleep(PAUSE_SECONDS)
        return True

    def requests(self, wanted: Mapping[Partition, Progress]) -> CommitRequests:
        """The requests for a commit. Also used on the client's I/O thread."""
        return CommitRequests(wanted, self._limits)

    def hurry(self) -> None:
        """Make the next commit due at once, even if nothing is new."""
        self._tried = 0.0

    def forget(self, partitions: frozenset[Partition]) -> None:
        """Forget partitions that are no longer assigned."""
        self._committed = {
            p: progress for p, progress in self._committed.items() if p not in partitions
        }

    def forget_all(self) -> None:
        """Forget all partitions and refusals."""
        self._committed, self.refused_since = {}, None
