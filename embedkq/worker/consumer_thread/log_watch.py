"""Asks Kafka where partitions start, and whether their logs are still the ones that were read.
Consumer thread.

The topic's id, which is requested every two seconds, shows whether the topic was deleted and
created again. Until then, records of the new topic may be fetched at offsets of the old one. They
run, and run again when the partition restarts: none is skipped.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from embedkq._clients.consumer import ConsumerClient
from embedkq._formats.commit_metadata import UNKNOWN_TOPIC, TopicMark
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.worker.consumer_thread.assignment import Assignment
from embedkq.worker.consumer_thread.partition_starts import PartitionStarts, Start, topic_marks

logger = SafeLogger("embedkq.worker")

_LOOK_SECONDS = 2.0


class LogWatch:
    """Starts and restarts partitions.

    Args:
        latest: whether a group without any commit skips existing records.
    """

    def __init__(self, latest: bool, assignment: Assignment) -> None:
        self._starts = PartitionStarts(latest)
        self._latest = latest
        self._assignment = assignment
        self._doubtful: set[Partition] = set()
        self._restarting: set[Partition] = set()
        """Partitions that restart after they were read. The client still fetches at the old
        position."""
        self._look_at = 0.0
        self._looking: Any = None

    def find_starts(
        self, client: ConsumerClient, partitions: Collection[Partition]
    ) -> Mapping[Partition, Start]:
        """Find the starts of assigned partitions. Partitions that are no longer assigned, or whose
        log is not available yet, are missing from the result.

        Raises:
            KafkaError: the broker does not answer.
        """
        topic = client.find_topic()
        if not partitions or topic is None:
            return {}
        committed = client.committed(partitions)
        logs = client.logs(partitions, topic)
        others: list[TopicMark] = []
        if self._latest and any(partition not in committed for partition in partitions):
            others = topic_marks(client.committed(client.partitions_in(topic)))
        confirmed = self._assignment.confirmed
        return {
            partition: (
                self._starts.find(
                    partition, committed.get(partition), log, confirmed.get(partition, 0), others
                )._replace(end=log.end)
            )
            for partition, log in logs.items()
        }

    def started(
        self, client: ConsumerClient, partition: Partition, start: Start, first: int | None
    ) -> bool:
        """Record that the partition was started. Returns whether the records fetched from `first`
        on are its first ones. If not, they are fetched again.

        kafka-python starts an assigned partition at its committed offset, and without one at the
        oldest record.
        """
        self._starts.started(partition, start)
        self._assignment.confirmed.pop(partition, None)
        self._looking = None  # the pending answer may be older than this start
        was_read = partition in self._restarting
        for partitions in (self._restarting, self._doubtful):
            partitions.discard(partition)
        if start.warning is not None:
            logger.warning("%s", start.warning)
        elif first is not None and first >= start.position and not was_read:
            return True
        client.seek_and_discard(partition, start.position)
        return False

    def is_sound(
        self, client: ConsumerClient, partition: Partition, first: int, position: int
    ) -> bool:
        """Whether records from `first` on continue what was read. If not, they are fetched again
        once the reason is known."""
        if self._is_of_another(partition, first):
            return False
        self._look_for_retention(client, partition, first)
        self._starts.reached(partition, position)
        return True

    def moved(self, client: ConsumerClient, partition: Partition, position: int) -> None:
        """Record that the client will fetch from this position next."""
        if not self._is_of_another(partition, position):
            self._look_for_retention(client, partition, position)
            self._starts.reached(partition, position)

    def _is_of_another(self, partition: Partition, offset: int) -> bool:
        """Whether kafka-python has moved back. It does so by itself if its offset is out of range,
        or if records were lost."""
        is_before = self._starts.is_before(partition, offset)
        if is_before:
            self._starts.truncated(partition, offset)
            self._doubtful.add(partition)
        return is_before

    def see(self, client: ConsumerClient, ends: Mapping[Partition, int]) -> bool:
        """Check that these ends belong to the logs that are being read. If not, restart their
        partitions and return False.

        Raises:
            KafkaError: the broker does not answer.
        """
        topic = client.find_topic()
        restarted = set() if topic is None else self._starts.of_another_topic(ends, topic)
        restarted |= {
            partition for partition, end in ends.items() if self._starts.is_before(partition, end)
        }
        self._restart(restarted)
        return not restarted

    def look(self, client: ConsumerClient) -> None:
        """Restart partitions whose logs have a new life. Asks Kafka for the topic's id every two
        seconds. Never blocks."""
        topic = self._found_topic(client)
        restarted = (
            set()
            if topic is None
            else self._starts.of_another_topic(self._assignment.partitions, topic)
        )
        self._restart(restarted | self._doubtful)
        self._doubtful.clear()

    def _restart(self, partitions: Collection[Partition]) -> None:
        restarted = (
            frozenset(partitions).intersection(self._assignment.partitions) - self._assignment.fresh
        )
        if restarted:
            self._restarting |= restarted
            self._assignment.start_new_epoch(restarted)

    def _found_topic(self, client: ConsumerClient) -> TopicMark | None:
        """The present topic, if an answer has arrived. Asks every two seconds. Never blocks."""
        found: TopicMark | None = None
        if self._looking is not None and self._looking.is_done:
            found, self._looking = client.found_topic(self._looking), None
        if self._looking is None and time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self._looking = client.look_for_topic()
        return None if found == UNKNOWN_TOPIC else found

    def _look_for_retention(self, client: ConsumerClient, partition: Partition, first: int) -> None:
        """If offsets are missing, check whether Kafka has deleted them.

        That is only possible if the next offset was out of range. Other gaps come from compaction
        and transactions, and cost nothing here.
        """
        if first <= self._starts.read_up_to(partition) or not client.was_out_of_range(partition):
            return
        for log in client.logs([partition], UNKNOWN_TOPIC).values():
            if log.first > first:
                continue  # records fetched before are still being returned
            client.range_is_known(partition)
            if (warning := self._starts.passed_by_retention(partition, log)) is not None:
                logger.warning("%s", warning)

    def forget_client(self) -> None:
        """Forget the pending request, because a new client takes over."""
        self._looking = None
        self._restarting.clear()
