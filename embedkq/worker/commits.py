"""What is committed, when, and what a refused commit means. Consumer's thread."""
from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from kafka import errors as kafka_errors

from embedkq import notes
from embedkq.safe_logging import SafeLogger
from embedkq.worker.client import TIMEOUT_MILLISECONDS
from embedkq.worker.commit_requests import TOO_LARGE, CommitLimits, CommitRequests
from embedkq.worker.exchange import Exchange
from embedkq.worker.progress import Progress

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
_INTERVAL_SECONDS = 0.25
_UNCHANGED_SECONDS = 5.0
_AS_ASKED_SECONDS = 1.0
_LOOK_SECONDS = 0.1
_UNCHANGED_AT_ONCE = 100
"""Partitions committed once more when nothing is new: one shows whether the membership holds, all of them in turn restore what was lost."""


class Commits:
    """Commits of one consumer: the newest snapshot on an interval, and again when nothing is new.

    With nothing to commit nobody would notice a membership that is dead, or a broker that is away.
    """

    def __init__(self, topic: str, session_seconds: float) -> None:
        self.refused_since: float | None = None
        """`time.monotonic()` of the first of the refusals that have not been followed by a commit."""
        self.last: float | None = None
        """`time.monotonic()` of the last commit, one of an unchanged snapshot included."""
        self._topic = topic
        self._unchanged_seconds = min(session_seconds / 3, _UNCHANGED_SECONDS)
        self._committed: Mapping[int, Progress] = {}
        self._tried = 0.0
        self._limits = CommitLimits()
        self._repeated = 0
        self._marked: set[int] = set()

    def may_be_due(self) -> bool:
        """Whether it can be time to commit anything at all: worth asking before it is worked out what."""
        return time.monotonic() > self._tried + _INTERVAL_SECONDS

    def due(self, wanted: Mapping[int, Progress]) -> bool:
        """Whether it is time to commit this."""
        since = time.monotonic() - self._tried
        return bool(wanted) and since > (_INTERVAL_SECONDS if self.pending(wanted) else self._unchanged_seconds)

    def pending(self, wanted: Mapping[int, Progress]) -> bool:
        """Whether any of this is not committed yet."""
        return wanted != self._committed

    def commit(self, kafka: Any, wanted: Mapping[int, Progress]) -> bool:
        """Commit and wait for it; False if it was refused for now.

        Raises:
            KafkaError: the broker does not answer, or (one of `FATAL`) does not allow it.
        """
        self._tried = time.monotonic()
        try:
            self._commit(kafka, self._changed(wanted) or self._some_unchanged(wanted))
        except REFUSALS as error:
            self.refused_since = self.refused_since or time.monotonic()
            logger.debug("A commit was refused and will be tried again: %r", error)
            return False
        self._committed, self.refused_since, self.last = dict(wanted), None, time.monotonic()
        return True

    def _commit(self, kafka: Any, wanted: Mapping[int, Progress]) -> None:
        requests = self.requests(wanted)
        while (request := requests.next_request()) is not None:
            try:
                kafka.commit(request, timeout_ms=TIMEOUT_MILLISECONDS)
            except TOO_LARGE as error:
                requests.refused(error)
            else:
                self._committed = {**self._committed, **requests.accepted()}

    def _changed(self, wanted: Mapping[int, Progress]) -> dict[int, Progress]:
        return {partition: progress for partition, progress in wanted.items() if self._committed.get(partition) != progress}

    def _some_unchanged(self, wanted: Mapping[int, Progress]) -> dict[int, Progress]:
        partitions = sorted(wanted)
        first = self._repeated % len(partitions)
        self._repeated = first + _UNCHANGED_AT_ONCE
        return {partition: wanted[partition] for partition in partitions[first : first + _UNCHANGED_AT_ONCE]}

    def commit_as_asked(self, kafka: Any, exchange: Exchange, committable: Callable[[], Mapping[int, Progress]]) -> None:
        """Where jobs run one at a time, each after a commit, serve these for about a second: before each a poll would take half of one.

        Raises:
            KafkaError: as `commit`.
        """
        until = time.monotonic() + _AS_ASKED_SECONDS
        while exchange.careful and time.monotonic() < until:
            if exchange.asked.wait(_LOOK_SECONDS):
                exchange.asked.clear()
                if (wanted := committable()) and not self.commit(kafka, wanted):
                    return
                exchange.confirm(wanted)

    def mark(self, kafka: Any, starts: Mapping[int, tuple[int, str]]) -> Mapping[int, str]:
        """Commit that partitions begin once more in another host, before anything of them runs; their metadata as of then.

        Nothing changes for a partition that this consumer had before: it is alive. Those that are missing were refused for now.

        Args:
            starts: offset and metadata by partition.

        Raises:
            KafkaError: as `commit`.
        """
        as_told = {partition: metadata for partition, (_, metadata) in starts.items()}
        begun: dict[int, Progress] = {}
        for partition, (start, metadata) in starts.items():
            if partition not in self._marked:
                try:
                    done, noted = notes.decode(start, metadata)
                except ValueError:  # whoever is to use it says so
                    continue
                begun[partition] = Progress(start, done, 0, noted.begun_again())
        if not begun:
            return as_told
        try:
            self._commit(kafka, begun)
        except REFUSALS as error:
            self.refused_since = self.refused_since or time.monotonic()
            logger.debug("The beginning of partitions %s could not be committed and will be tried again: %r", sorted(begun), error)
            return {partition: metadata for partition, metadata in as_told.items() if partition not in begun}
        self._marked |= begun.keys()
        self.refused_since = None
        return {**as_told, **{p: notes.encode(progress.offset, progress.done, progress.notes) for p, progress in begun.items()}}

    def requests(self, wanted: Mapping[int, Progress]) -> CommitRequests:
        """The requests that commit this; also for the client's I/O thread."""
        return CommitRequests(self._topic, wanted, self._limits)

    def hurry(self) -> None:
        """Commit at the next opportunity, be it the same once more."""
        self._tried = 0.0

    def forget(self, partitions: frozenset[int]) -> None:
        """These are no longer ours to commit."""
        self._committed = {p: progress for p, progress in self._committed.items() if p not in partitions}

    def forget_all(self) -> None:
        """Nothing is ours any more, and what was refused is of no interest."""
        self._committed, self.refused_since = {}, None
