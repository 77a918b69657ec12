"""What is committed, when, and what a refused commit means. Consumer's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from typing import Any

from embedkq._clients.consumer import TIMEOUT_SECONDS, ConsumerClient
from embedkq._clients.names import kafka_errors
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
"""Errors of the broker that trying again does not cure."""
REFUSALS = (kafka_errors.CommitFailedError, kafka_errors.RebalanceInProgressError)
"""Errors that say: not now, a rebalance is under way, or: you are no member any more."""
FINAL_COMMIT_SECONDS, PAUSE_SECONDS = 5.0, 0.01
_POLL_SECONDS = 0.5
_INTERVAL_SECONDS = 0.25
_UNCHANGED_SECONDS = 5.0
_AS_ASKED_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_UNCHANGED_AT_ONCE = 100
"""Partitions committed once more when nothing is new: one shows whether the membership holds, all
of them in turn restore what was lost."""


class Committer:
    """Commits of one consumer: the newest snapshot on an interval, and again when nothing is new.

    With nothing to commit nobody would notice a membership that is dead, or a broker that is away.
    """

    def __init__(self, topic: str, session_seconds: float) -> None:
        self.refused_since: float | None = None
        """`time.monotonic()` of the first of the refusals that have not been followed by a
        commit."""
        self.last: float | None = None
        """`time.monotonic()` of the last commit, one of an unchanged snapshot included."""
        self._topic = topic
        self._unchanged_seconds = min(session_seconds / 3, _UNCHANGED_SECONDS)
        self._committed: Mapping[int, Progress] = {}
        self._tried = 0.0
        self._limits = CommitLimits()
        self._repeated = 0

    def may_be_due(self) -> bool:
        """Whether it can be time to commit anything at all: worth asking before it is worked out
        what."""
        return time.monotonic() > self._tried + _INTERVAL_SECONDS

    def due(self, wanted: Mapping[int, Progress]) -> bool:
        """Whether it is time to commit this."""
        since = time.monotonic() - self._tried
        return bool(wanted) and since > (
            _INTERVAL_SECONDS if self.pending(wanted) else self._unchanged_seconds
        )

    def pending(self, wanted: Mapping[int, Progress]) -> bool:
        """Whether any of this is not committed yet."""
        return wanted != self._committed

    def lacks(self, wanted: Mapping[int, Progress]) -> bool:
        """Whether anything that is done by this is not committed. Any thread."""
        committed = self._committed
        return any(
            (known := committed.get(partition)) is None
            or (known.offset, known.done) != (progress.offset, progress.done)
            for partition, progress in wanted.items()
        )

    def known(self, partitions: Set[int]) -> dict[int, Progress]:
        """What is committed of these, as far as this consumer has committed it. Any thread."""
        return {
            partition: progress
            for partition, progress in self._committed.items()
            if partition in partitions
        }

    def commit(
        self, kafka: Any, wanted: Mapping[int, Progress], seconds: float = TIMEOUT_SECONDS
    ) -> bool:
        """Commit and wait for it, at most so many seconds for each request; False if it was refused
        for now.

        Raises:
            KafkaError: the broker does not answer, or (one of `FATAL`) does not allow it.
        """
        self._tried = time.monotonic()
        try:
            self._commit(kafka, self._changed(wanted) or self._some_unchanged(wanted), seconds)
        except REFUSALS as error:
            self.refused_since = self.refused_since or time.monotonic()
            logger.debug("A commit was refused and will be tried again: %r", error)
            return False
        self._committed, self.refused_since, self.last = dict(wanted), None, time.monotonic()
        return True

    def _commit(self, kafka: Any, wanted: Mapping[int, Progress], seconds: float) -> None:
        requests = self.requests(wanted)
        while (request := requests.next_request()) is not None:
            try:
                kafka.commit(request, timeout_ms=max(1, int(seconds * 1000)))
            except TOO_LARGE as error:
                requests.refused(error)
            else:
                self._committed = {**self._committed, **requests.accepted()}

    def _changed(self, wanted: Mapping[int, Progress]) -> dict[int, Progress]:
        return {
            partition: progress
            for partition, progress in wanted.items()
            if self._committed.get(partition) != progress
        }

    def _some_unchanged(self, wanted: Mapping[int, Progress]) -> dict[int, Progress]:
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
        committable: Callable[[], Mapping[int, Progress]],
        beginning: Set[int],
    ) -> None:
        """Where jobs wait for a commit before they begin, serve these for about a second: before
        each a poll would take half of one.

        Args:
            beginning: partitions of which records were passed on that may be the first to begin
                here: the worker's thread is about to ask.

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
                ):  # that was no question: it is over
                    return
                if (wanted := committable()) and not self.commit(kafka, wanted):
                    return
                shared.confirm(wanted)
            now = time.monotonic()

    def commit_finally(
        self,
        client: ConsumerClient,
        shared: SharedState,
        committable: Callable[[], Mapping[int, Progress]],
    ) -> bool:
        """Commit what is done, by the stop's deadline; whether all of it is committed.

        A broker that does not answer is given up after a few seconds. One that refuses is waited
        for as long as a rebalance may last, which waits for members that have died.
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
                )  # lets a rebalance that is under way get on
            except kafka_errors.KafkaError as error:
                logger.debug("The last offsets could not be committed yet: %r", error)
                time.sleep(PAUSE_SECONDS)
        return True

    def requests(self, wanted: Mapping[int, Progress]) -> CommitRequests:
        """The requests that commit this; also for the client's I/O thread."""
        return CommitRequests(self._topic, wanted, self._limits)

    def hurry(self) -> None:
        """Commit at the next opportunity, be it the same once more."""
        self._tried = 0.0

    def forget(self, partitions: frozenset[int]) -> None:
        """These are no longer ours to commit."""
        self._committed = {
            p: progress for p, progress in self._committed.items() if p not in partitions
        }

    def forget_all(self) -> None:
        """Nothing is ours any more, and what was refused is of no interest."""
        self._committed, self.refused_since = {}, None
