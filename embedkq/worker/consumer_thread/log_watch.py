"""LogWatch: asks Kafka where partitions begin, and whether their logs are still the ones that were
read. Consumer's thread.

A topic that was deleted and created again is known by its id, which is asked for every two seconds.
Records of the new topic that were fetched at offsets of the old one until then run, and run once
more when the partition begins anew: none is passed over.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from embedkq._clients.consumer import ConsumerClient
from embedkq._formats.commit_metadata import UNKNOWN_TOPIC, TopicMark
from embedkq._safe_logging import SafeLogger
from embedkq.worker.consumer_thread.assignment import Assignment
from embedkq.worker.consumer_thread.partition_starts import PartitionStarts, Start, marks_of

logger = SafeLogger("embedkq.worker")

_LOOK_SECONDS = 2.0


class LogWatch:
    """Where the partitions of one topic begin, and begin anew.

    Args:
        topic: its name.
        latest: whether a group that has never committed skips what is there already.
    """

    def __init__(self, topic: str, latest: bool, assignment: Assignment) -> None:
        self._starts = PartitionStarts(topic, latest)
        self._latest = latest
        self._assignment = assignment
        self._doubtful: set[int] = set()
        self._anew: set[int] = set()
        """Partitions that were read and begin anew: the client goes on where it was."""
        self._look_at = 0.0
        self._looking: Any = None

    def find_starts(
        self, client: ConsumerClient, partitions: Collection[int]
    ) -> Mapping[int, Start]:
        """Where partitions that were assigned begin; those that are no longer ours, or whose log
        cannot be seen yet, are missing.

        Raises:
            KafkaError: the broker does not answer.
        """
        topic = client.find_topic()
        if not partitions or topic is None:
            return {}
        committed = client.committed(partitions)
        logs = client.logs(partitions, topic)
        others: list[TopicMark] = []
        if self._latest and any(number not in committed for number in partitions):
            others = marks_of(client.committed(range(topic.partitions)))
        confirmed = self._assignment.confirmed
        return {
            number: (
                self._starts.find(
                    number, committed.get(number), log, confirmed.get(number, 0), others
                )._replace(end=log.end)
            )
            for number, log in logs.items()
        }

    def begun(
        self, client: ConsumerClient, partition: int, start: Start, first: int | None
    ) -> bool:
        """The partition begins; whether records that were fetched of it, from `first` on, are its
        first. If not, they are fetched again.

        kafka-python begins with an assigned partition at what is committed, and without that at the
        oldest record.
        """
        self._starts.begun(partition, start)
        self._assignment.confirmed.pop(partition, None)
        self._looking = None  # it may have been asked, and answered, before this was found
        was_read = partition in self._anew
        for partitions in (self._anew, self._doubtful):
            partitions.discard(partition)
        if start.warning is not None:
            logger.warning("%s", start.warning)
        elif first is not None and first >= start.position and not was_read:
            return True
        client.seek_anew(partition, start.position)
        return False

    def is_sound(self, client: ConsumerClient, partition: int, first: int, position: int) -> bool:
        """Whether records that begin at `first` continue what was read; if not, they are fetched
        again once it is known why."""
        if self._is_of_another(partition, first):
            return False
        self._look_for_retention(client, partition, first)
        self._starts.reached(partition, position)
        return True

    def moved(self, client: ConsumerClient, partition: int, position: int) -> None:
        """The client is about to fetch from there, with or without records in between."""
        if not self._is_of_another(partition, position):
            self._look_for_retention(client, partition, position)
            self._starts.reached(partition, position)

    def _is_of_another(self, partition: int, offset: int) -> bool:
        """Whether kafka-python has gone back: it does so by itself where its offset is out of
        range, or where records were lost."""
        is_before = self._starts.is_before(partition, offset)
        if is_before:
            self._starts.truncated(partition, offset)
            self._doubtful.add(partition)
        return is_before

    def see(self, client: ConsumerClient, ends: Mapping[int, int]) -> bool:
        """Whether these ends are of the logs that are read; if not, their partitions begin anew.

        Raises:
            KafkaError: the broker does not answer.
        """
        topic = client.find_topic()
        anew = set() if topic is None else self._starts.of_another_topic(ends, topic)
        anew |= {
            partition for partition, end in ends.items() if self._starts.is_before(partition, end)
        }
        self._begin_anew(anew)
        return not anew

    def look(self, client: ConsumerClient) -> None:
        """Have those partitions begin anew whose logs do; asks Kafka now and then which topic it
        is, and never waits."""
        topic = self._found_topic(client)
        anew = (
            set()
            if topic is None
            else self._starts.of_another_topic(self._assignment.partitions, topic)
        )
        self._begin_anew(anew | self._doubtful)
        self._doubtful.clear()

    def _begin_anew(self, partitions: Collection[int]) -> None:
        anew = (
            frozenset(partitions).intersection(self._assignment.partitions) - self._assignment.fresh
        )
        if anew:
            self._anew |= anew
            self._assignment.begin_anew(anew)

    def _found_topic(self, client: ConsumerClient) -> TopicMark | None:
        """The topic as of now, if it was asked for and the answer is there; asks every two seconds,
        and never waits."""
        found: TopicMark | None = None
        if self._looking is not None and self._looking.is_done:
            found, self._looking = client.found_topic(self._looking), None
        if self._looking is None and time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + _LOOK_SECONDS
            self._looking = client.look_for_topic()
        return None if found == UNKNOWN_TOPIC else found

    def _look_for_retention(self, client: ConsumerClient, partition: int, first: int) -> None:
        """Where offsets are missing, see whether Kafka has deleted them.

        It has only where the offset that was fetched next was out of range. Other holes are of
        compaction and transactions, and cost nothing here.
        """
        if first <= self._starts.reached_of(partition) or not client.was_out_of_range(partition):
            return
        for log in client.logs([partition], UNKNOWN_TOPIC).values():
            if log.first > first:
                continue  # what was fetched before is still on its way
            client.range_is_known(partition)
            if (warning := self._starts.passed_by_retention(partition, log)) is not None:
                logger.warning("%s", warning)

    def forget_client(self) -> None:
        """Another client takes over: what the last one was asked is not answered any more."""
        self._looking = None
        self._anew.clear()
