"""What is committed, when, and what a refused commit means. Consumer's thread."""
from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from kafka import TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata

from embedkq.worker import notes
from embedkq.worker.client import TIMEOUT_MILLISECONDS
from embedkq.worker.exchange import Exchange
from embedkq.worker.progress import Progress

logger = logging.getLogger("embedkq.worker")

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
_TOO_LARGE = (kafka_errors.OffsetMetadataTooLargeError, kafka_errors.InvalidCommitOffsetSizeError)
_INTERVAL_SECONDS = 0.25
_UNCHANGED_SECONDS = 5.0
_AS_ASKED_SECONDS = 1.0
_LOOK_SECONDS = 0.1


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
        self._plain = False
        self._marked: set[int] = set()

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
            kafka.commit(self.offsets(wanted), timeout_ms=TIMEOUT_MILLISECONDS)
        except REFUSALS as error:
            self.refused_since = self.refused_since or time.monotonic()
            logger.debug("A commit was refused and will be tried again: %r", error)
            return False
        except _TOO_LARGE:
            return self._commit_plainly(kafka, wanted)
        self._committed, self.refused_since, self.last = dict(wanted), None, time.monotonic()
        return True

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
        marked: dict[int, str] = {}
        for partition, (start, metadata) in starts.items():
            if not self._plain and partition not in self._marked:
                try:
                    done, noted = notes.decode(start, metadata)
                except ValueError:  # whoever is to use it says so
                    continue
                marked[partition] = notes.encode(start, done, noted.begun_again())
        if not marked:
            return as_told
        wanted = {TopicPartition(self._topic, p): OffsetAndMetadata(starts[p][0], text, -1) for p, text in marked.items()}
        try:
            kafka.commit(wanted, timeout_ms=TIMEOUT_MILLISECONDS)
        except REFUSALS as error:
            self.refused_since = self.refused_since or time.monotonic()
            logger.debug("The beginning of partitions %s could not be committed and will be tried again: %r", sorted(marked), error)
            return {partition: metadata for partition, metadata in as_told.items() if partition not in marked}
        except _TOO_LARGE:  # which the next commit makes known
            return as_told
        self._marked |= marked.keys()
        self.refused_since = None
        return {**as_told, **marked}

    def offsets(self, wanted: Mapping[int, Progress]) -> dict[TopicPartition, OffsetAndMetadata]:
        """In the client's form: the watermark, and as metadata what is done above it and what is noted of the rest."""
        return {
            TopicPartition(self._topic, partition): OffsetAndMetadata(
                progress.offset, "" if self._plain else notes.encode(progress.offset, progress.done, progress.notes), -1
            )
            for partition, progress in wanted.items()
        }

    def hurry(self) -> None:
        """Commit at the next opportunity, be it the same once more."""
        self._tried = 0.0

    def forget(self, partitions: frozenset[int]) -> None:
        """These are no longer ours to commit."""
        self._committed = {p: progress for p, progress in self._committed.items() if p not in partitions}

    def forget_all(self) -> None:
        """Nothing is ours any more, and what was refused is of no interest."""
        self._committed, self.refused_since = {}, None

    def _commit_plainly(self, kafka: Any, wanted: Mapping[int, Progress]) -> bool:
        if self._plain:
            return False
        logger.warning(
            "The broker takes less commit metadata than 4096 bytes (offset.metadata.max.bytes): from now on only offsets are "
            "committed, and after a crash jobs above them that were done run again, and attempts are counted anew."
        )
        self._plain = True
        return self.commit(kafka, wanted)
