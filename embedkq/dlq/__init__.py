"""Dead letters: what a dead-letter topic holds, which of it is still to be dealt with, and dealing
with it. Nothing is unpickled here."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from embedkq._clients.broker_errors import Asked, no_topic
from embedkq._clients.reader import TopicReader
from embedkq.dlq.dealt import ResolvedLetters
from embedkq.dlq.letters import Letter, Selection, letter_of
from embedkq.errors import EmbedkqError

GROUP_SUFFIX = "-dlq"
"""Behind the topic's name: the group that keeps what was dealt with."""
Place = tuple[int, int]
"""Partition and offset of a letter."""
Count = Callable[[int], object]
"""Told how many more records were read."""
_CHUNK = 500
_PLACE = re.compile(r"([0-9]{1,9}):([0-9]{1,18})").fullmatch
_PREFIX = re.compile(r"[0-9a-f-]{4,36}").fullmatch


class DeadLetters:
    """The letters of one dead-letter topic, as it is when this is made: what comes later is not
    seen. One thread at a time.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: the dead-letter topic.
        options: further options of kafka-python's KafkaConsumer.

    Raises:
        BrokerUnavailable: no broker answered in time; any method may raise it later.
        BrokerRefused: this user may not; any method may raise it later.
        EmbedkqError: there is no such topic.
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
                    "give as --dead-letter-topic the one that Worker(dead_letter_topic=...) has; it"
                    " is there once something has died, or once you create it",
                )
            self.dealt = ResolvedLetters(self._client, topic, self.logs)
        except BaseException:
            self._client.close()
            raise

    def __enter__(self) -> DeadLetters:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._client.close()

    def newest(
        self, selection: Selection, *, dealt: bool = False, count: Count = lambda read: None
    ) -> Iterator[Letter]:
        """Letters without value and traceback, newest first, in bounded memory.

        Args:
            dealt: those that were retried or dropped, too.
        """
        backwards = [self._backwards(partition, selection, dealt, count) for partition in self.logs]
        return heapq.merge(*backwards, key=lambda letter: -letter.time)

    def oldest(self, selection: Selection, count: Count = lambda read: None) -> Iterator[Letter]:
        """Whole letters that are open, one partition after the other, oldest first. Read nothing
        else before the end."""
        for partition, log in self.logs.items():
            for record in self._client.read(
                self.topic, partition, self.dealt.starting_offset(partition), log.end
            ):
                count(1)
                letter = self._letter_of(record)
                if not letter.dealt and selection.takes(letter):
                    yield letter

    def named(self, places: Iterable[Place]) -> Iterator[Letter]:
        """The whole letters at these places.

        Raises:
            EmbedkqError: there is none at one of them.
        """
        for partition, offset in places:
            record = next(self._client.read(self.topic, partition, offset, offset + 1), None)
            if record is None:
                raise EmbedkqError(
                    f"there is no letter {partition}:{offset} in {self.topic!r} (any more)"
                )
            yield self._letter_of(record)

    def find(self, names: Sequence[str], count: Count = lambda read: None) -> list[Place]:
        """Where the letters are that are named by partition:offset, or by the beginning of their
        job's id; each once, sorted.

        Of several letters of one job those that are open are meant.

        Raises:
            EmbedkqError: a name is none, or stands for no letter or for several.
        """
        places = {self._place_of(name) for name in names if ":" in name}
        wanted = {name.lower() for name in names if ":" not in name}
        for name in wanted:
            if not _PREFIX(name):
                raise EmbedkqError(
                    f"{name!r} names no dead letter: give partition:offset, such as 0:17, or 4 or"
                    " more characters of its job's id"
                )
        return sorted(places | self._of_jobs(wanted, count))

    def _of_jobs(self, wanted: set[str], count: Count) -> set[Place]:
        found: dict[str, list[Letter]] = {prefix: [] for prefix in wanted}
        for letter in self.newest(Selection(), dealt=True, count=count) if wanted else ():
            for prefix in wanted:
                if letter.job_id is not None and letter.job_id.startswith(prefix):
                    found[prefix].append(letter)
        places = set()
        for prefix, letters in found.items():
            meant = [letter for letter in letters if not letter.dealt] or letters
            if not meant:
                raise EmbedkqError(
                    f"no letter in {self.topic!r} is of a job whose id begins with {prefix!r}: see"
                    " `kq dlq list --all`"
                )
            if len(meant) > 1:
                shown = ", ".join(letter.name for letter in meant[:10])
                raise EmbedkqError(
                    f"{prefix!r} stands for {len(meant)} letters in {self.topic!r}: name one of"
                    f" {shown}"
                )
            places.add((meant[0].partition, meant[0].offset))
        return places

    def _place_of(self, name: str) -> Place:
        matched = _PLACE(name)
        if matched is None:
            raise EmbedkqError(
                f"{name!r} names no dead letter: give partition:offset, such as 0:17"
            )
        partition, offset = int(matched[1]), int(matched[2])
        if partition not in self.logs:
            raise EmbedkqError(
                f"there is no letter {name}: {self.topic!r} has the partitions 0 to"
                f" {max(self.logs)}"
            )
        first, last, _ = self.logs[partition]
        if not first <= offset < last:
            held = f"holds the offsets {first} to {last - 1}" if last > first else "holds nothing"
            raise EmbedkqError(
                f"there is no letter {name}: partition {partition} of {self.topic!r} {held}"
            )
        return partition, offset

    def _backwards(
        self, partition: int, selection: Selection, dealt: bool, count: Count
    ) -> Iterator[Letter]:
        first, above, _ = self.logs[partition]
        if not dealt:
            first = self.dealt.starting_offset(partition)
        while above > first:
            below = max(first, above - _CHUNK)
            chunk = []
            for record in self._client.read(self.topic, partition, below, above):
                count(1)
                letter = self._letter_of(record)
                if (dealt or not letter.dealt) and selection.takes(letter):
                    chunk.append(letter.brief())
            yield from reversed(chunk)
            above = below

    def _letter_of(self, record: Any) -> Letter:
        return letter_of(record, (record.partition, record.offset) in self.dealt)


__all__ = ["DeadLetters", "Letter", "Place", "Selection"]
