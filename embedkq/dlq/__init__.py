"""Reads a dead-letter topic, tracks which letters are open or resolved, and resolves them. A letter
is resolved once it is retried or dropped. Nothing is unpickled here."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from embedkq._clients.broker_errors import Asked, no_topic
from embedkq._clients.reader import TopicReader
from embedkq._partition import Partition
from embedkq.dlq.letters import Letter, Selection, read_letter
from embedkq.dlq.resolved import ResolvedLetters
from embedkq.errors import EmbedkqError

GROUP_SUFFIX = "-dlq"
"""The consumer group that records resolved letters has the topic's name with this suffix."""
Place = tuple[Partition, int]
"""A letter's partition and offset."""
Count = Callable[[int], object]
"""Called with the number of records read since the last call."""
_CHUNK = 500
_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,18})").fullmatch
_PREFIX = re.compile(r"[0-9a-f-]{4,36}").fullmatch


class DeadLetters:
    """The letters of one dead-letter topic at the time of construction; later letters are not
    included. One thread at a time.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: the dead-letter topic.
        options: further options of kafka-python's KafkaConsumer.

    Raises:
        BrokerUnavailable: no broker answered in time; any method may raise it later.
        BrokerRefused: the user lacks a right; any method may raise it later.
        EmbedkqError: the topic does not exist.
    """

    def __init__(self, hosts: str, topic: str, options: Mapping[str, Any]) -> None:
        self.hosts = hosts
        self.topic = topic
        self.group = topic + GROUP_SUFFIX
        self._client = TopicReader(hosts, self.group, options)
        try:
            self.logs = self._client.logs(topic)
            if not self.logs:
                raise no_topic(
                    Asked(hosts, "DESCRIBE", topic),
                    "set --dead-letter-topic to the workers' dead_letter_topic; the topic exists"
                    " after the first dead letter, or once you create it",
                )
            self.resolved = ResolvedLetters(self._client, self.logs)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> DeadLetters:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def newest(
        self,
        selection: Selection,
        *,
        include_resolved: bool = False,
        count: Count = lambda read: None,
    ) -> Iterator[Letter]:
        """Yield letters without value and traceback, newest first, in bounded memory.

        Args:
            include_resolved: also yield letters that were retried or dropped.
        """
        backwards = [
            self._backwards(partition, selection, include_resolved, count)
            for partition in self.logs
        ]
        return heapq.merge(*backwards, key=lambda letter: -letter.time)

    def oldest(self, selection: Selection, count: Count = lambda read: None) -> Iterator[Letter]:
        """Yield the open letters with all their content, partition by partition, oldest first. Do
        not read anything else before the iterator ends."""
        for partition, log in self.logs.items():
            first = self.resolved.starting_offset(partition)
            for record in self._client.read(partition, first, log.end):
                count(1)
                letter = self._read_letter(record)
                if not letter.resolved and selection.takes(letter):
                    yield letter

    def named(self, places: Iterable[Place]) -> Iterator[Letter]:
        """Yield the letters at these places, with all their content.

        Raises:
            EmbedkqError: one of the places has no letter.
        """
        for partition, offset in places:
            record = next(self._client.read(partition, offset, offset + 1), None)
            if record is None:
                raise EmbedkqError(
                    f"{self.topic!r} does not have the letter {partition.number}:{offset} (any"
                    " more)"
                )
            yield self._read_letter(record)

    def find(self, names: Sequence[str], count: Count = lambda read: None) -> list[Place]:
        """Find letters by partition:offset, or by the first characters of their job's id. Returns
        each place once, sorted.

        If a job has several letters, its open ones are used.

        Raises:
            EmbedkqError: a name is invalid, or matches no letter, or several.
        """
        places = {self._place_of(name) for name in names if ":" in name}
        wanted = {name.lower() for name in names if ":" not in name}
        for name in wanted:
            if not _PREFIX(name):
                raise EmbedkqError(
                    f"{name!r} does not name a dead letter: use partition:offset, such as 0:17, or"
                    " the first 4 or more characters of its job's id"
                )
        return sorted(places | self._of_jobs(wanted, count))

    def _of_jobs(self, wanted: set[str], count: Count) -> set[Place]:
        found: dict[str, list[Letter]] = {prefix: [] for prefix in wanted}
        for letter in (
            self.newest(Selection(), include_resolved=True, count=count) if wanted else ()
        ):
            for prefix in wanted:
                if letter.job_id is not None and letter.job_id.startswith(prefix):
                    found[prefix].append(letter)
        places = set()
        for prefix, letters in found.items():
            meant = [letter for letter in letters if not letter.resolved] or letters
            if not meant:
                raise EmbedkqError(
                    f"{self.topic!r} has no letter of a job whose id begins with {prefix!r}; `kq"
                    " dlq list --all` lists all letters"
                )
            if len(meant) > 1:
                shown = ", ".join(letter.name for letter in meant[:10])
                raise EmbedkqError(
                    f"{prefix!r} matches {len(meant)} letters in {self.topic!r}: choose one of"
                    f" {shown}"
                )
            places.add((meant[0].partition, meant[0].offset))
        return places

    def _place_of(self, name: str) -> Place:
        matched = _PLACE(name)
        if matched is None:
            raise EmbedkqError(
                f"{name!r} does not name a dead letter: use partition:offset, such as 0:17"
            )
        partition, offset = Partition(self.topic, int(matched[1])), int(matched[2])
        if partition not in self.logs:
            raise EmbedkqError(
                f"no letter {name}: {self.topic!r} has partitions 0 to {max(self.logs).number}"
            )
        first, last, _ = self.logs[partition]
        if not first <= offset < last:
            content = f"has offsets {first} to {last - 1}" if last > first else "is empty"
            raise EmbedkqError(
                f"no letter {name}: partition {partition.number} of {self.topic!r} {content}"
            )
        return partition, offset

    def _backwards(
        self, partition: Partition, selection: Selection, include_resolved: bool, count: Count
    ) -> Iterator[Letter]:
        first, above, _ = self.logs[partition]
        if not include_resolved:
            first = self.resolved.starting_offset(partition)
        while above > first:
            below = max(first, above - _CHUNK)
            chunk = []
            for record in self._client.read(partition, below, above):
                count(1)
                letter = self._read_letter(record)
                if (include_resolved or not letter.resolved) and selection.takes(letter):
                    chunk.append(letter.brief())
            yield from reversed(chunk)
            above = below

    def _read_letter(self, record: Any) -> Letter:
        return read_letter(record, (record.partition, record.offset) in self.resolved)


__all__ = ["DeadLetters", "Letter", "Place", "Selection"]
