"""What is noted of a partition beside how far it is done, and how all of it travels in the commit's
metadata. Any thread.

The text: that of the map (see `donemap`; nothing if nothing is done above the start), and behind a
space, where there is something to note, base85 of a checksum and varints: how often the partition
was begun without progress, the suspect (its distance from the start, plus one; 0 for none), how
many records have taken hosts down, and of each distance and count, then the same for attempts up to
the end. Distances are from the offset before. The checksum covers the start too, as the map's does.
Attempts at offsets that no log reaches are none, and a version that does not know of them carries
them along: from 2**61 on they are names of hosts, 7 bytes of a name each. The one from 2**62 on
says which topic the offsets are of: its count is 63 bits of the topic's id, and how far its offset
lies above 2**62 is the number of partitions that the topic had.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from embedkq._formats import offset_map
from embedkq._formats.offset_map import CHECKSUM, LIMIT, OffsetRanges

_SEPARATOR = " "
_STARTS_IN_VAIN = 2
_MOST_CRASHES = 16
"""Records whose crashes are noted: those with the lowest offsets, for they hold up the rest."""
_MOST_NUMBERS = 16_384
_MOST_BYTES = 64 * 1024
_MOST_HOSTS = 5
_FIRST_NAME, _LAST_NAME = 2**61, 2**61 + 2**16
_LONGEST_NAME, _PIECE = 64, 7
_FIRST_MARK = 2**62
_MOST_PARTITIONS = 2**31


class TopicMark(NamedTuple):
    """Which topic offsets are of: one that is deleted and created again has the same name and
    another id (KIP-516).

    Attributes:
        id: 63 bits of its id; 0 if they are not known.
        partitions: how many it has; 0 if that is not known.
    """

    id: int
    partitions: int

    @classmethod
    def of(cls, topic_id: UUID | None, partitions: int) -> TopicMark:
        """That of a topic as a broker describes it; None or zeros for the id of one that knows
        none."""
        return cls(0 if topic_id is None else topic_id.int >> 65, partitions)

    def is_another_than(self, other: TopicMark) -> bool:
        """Whether the two are known to be different topics."""
        return self.id != other.id and self.id != 0 and other.id != 0


UNKNOWN_TOPIC = TopicMark(0, 0)


class CommitMetadata(NamedTuple):
    """What is known of records that are not done. Immutable; any thread.

    Attributes:
        starts: how often a host has begun jobs of the partition since it was last given up in order
            or made progress.
        suspect: offset of the job that runs while each runs alone; None for none.
        crashes: how often a host went down over a record that was the suspect, by offset.
        attempts: how often a job has failed, timed out or crashed, by offset.
        hosts: names of the hosts that went down over a suspect, the last few; behind them the one
            that the present suspect runs on.
    """

    starts: int = 0
    suspect: int | None = None
    crashes: Mapping[int, int] = {}
    attempts: Mapping[int, int] = {}
    hosts: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(
            (
                self.starts,
                self.suspect,
                frozenset(self.crashes.items()),
                frozenset(self.attempts.items()),
                self.hosts,
            )
        )

    @property
    def serial_mode(self) -> bool:
        """Whether the partition was begun so often without progress that its jobs should run one at
        a time."""
        return self.starts > _STARTS_IN_VAIN

    def begun(self) -> CommitMetadata:
        """As of a host that is about to begin the first job of the partition."""
        return self._replace(starts=self.starts + 1)

    def suspecting(self, offset: int, host: str) -> CommitMetadata:
        """As of a host that is about to run this job alone."""
        return self._replace(suspect=offset, hosts=(*self.hosts, host)[-_MOST_HOSTS:])

    def cleared(self) -> CommitMetadata:
        """As of a suspect that did its host no harm."""
        return self if self.suspect is None else self._replace(suspect=None, hosts=self.hosts[:-1])

    def with_crash(self) -> CommitMetadata:
        """As of a host that went down over its suspect, if it had one."""
        if self.suspect is None:
            return self
        return self._replace(
            suspect=None,
            crashes={**self.crashes, self.suspect: self.crashes.get(self.suspect, 0) + 1},
        )

    def given_up(self) -> CommitMetadata:
        """As of an assignment that ends in order, or of a host that was asked to stop: however it
        ends, it is not to blame."""
        return self.cleared()._replace(starts=0)

    def of_open(self, start: int, done: OffsetRanges) -> CommitMetadata:
        """The same without what is known of records that are done."""
        noted = self
        for offset in {*self.crashes, *self.attempts}:
            if offset < start or any(first <= offset < last for first, last in done):
                noted = noted.without(offset)
        return noted

    def without(self, offset: int) -> CommitMetadata:
        """As of the moment in which this offset is done."""
        if offset not in self.crashes and offset not in self.attempts and offset != self.suspect:
            return self
        noted = self.cleared() if offset == self.suspect else self
        crashes = {other: count for other, count in self.crashes.items() if other != offset}
        return noted._replace(
            crashes=crashes,
            hosts=noted.hosts if crashes or noted.suspect is not None else (),
            attempts={other: count for other, count in self.attempts.items() if other != offset},
        )


NOTHING = CommitMetadata()


def _pairs_of_names(names: Sequence[str]) -> list[tuple[int, int]]:
    """Names of hosts as attempts at offsets that no log reaches: a version that does not know of
    them carries them along."""
    pairs = []
    for number, name in enumerate(names):
        content = name.encode("utf-8", "replace")[:_LONGEST_NAME]
        for place in range(0, len(content), _PIECE):
            piece = int.from_bytes(
                b"\1" + content[place : place + _PIECE], "big"
            )  # the 1 keeps zeros in front
            pairs.append((_FIRST_NAME + number * _LONGEST_NAME + place, piece))
    return pairs


def _names_in(pairs: Mapping[int, int]) -> tuple[str, ...]:
    names: dict[int, bytes] = {}
    for offset in sorted(pairs):
        number = (offset - _FIRST_NAME) // _LONGEST_NAME
        piece = pairs[offset].to_bytes(_PIECE + 2, "big").lstrip(b"\0")[1:]
        names[number] = names.get(number, b"") + piece
    texts = [name.decode("utf-8", "replace") for name in list(names.values())[:_MOST_HOSTS]]
    return tuple("".join(c if c.isprintable() else "?" for c in text) for text in texts)


def encode(
    start: int,
    done: OffsetRanges,
    notes: CommitMetadata,
    limit: int = LIMIT,
    topic: TopicMark = UNKNOWN_TOPIC,
) -> str:
    """The metadata for an offset of a topic, of at most `limit` characters.

    First come the topic and what guards against crashes, which is short, then the map, then the
    attempts. What does not fit is left out from the top: jobs done run again, jobs that failed
    begin to count anew.

    Raises:
        ValueError: `start` is no offset, or `done` is not as `OffsetRanges` says.
    """
    if notes == NOTHING and not topic.id:
        return offset_map.encode(start, done, limit).text
    needed = _encode(start, notes._replace(attempts={}), topic)
    text = offset_map.encode(start, done, max(0, limit - len(needed) - 1)).text
    offsets = sorted(notes.attempts)
    while offsets:
        told = _encode(
            start,
            notes._replace(attempts={offset: notes.attempts[offset] for offset in offsets}),
            topic,
        )
        if len(text) + 1 + len(told) <= limit:
            return text + _SEPARATOR + told
        offsets = offsets[: len(offsets) // 2]
    return text + _SEPARATOR + needed if len(text) + 1 + len(needed) <= limit else text


def decode(start: int, text: str) -> tuple[OffsetRanges, CommitMetadata]:
    """What `encode` was given, or a part of it. Takes bounded time and memory for any text.

    Raises:
        ValueError: the text was not written by embedkq for this start, or is damaged; it says
            which.
    """
    done, noted, _ = decode_all(start, text)
    return done, noted


def decode_all(start: int, text: str) -> tuple[OffsetRanges, CommitMetadata, TopicMark]:
    """The same, and the topic that it was written for; raises as `decode` does."""
    written, separator, noted = text.partition(_SEPARATOR)
    done = offset_map.decode(start, written)
    return (done, *_decode(start, noted)) if separator else (done, NOTHING, UNKNOWN_TOPIC)


def topic_of(start: int, text: str) -> TopicMark:
    """The topic that metadata was written for; the unknown one also where the text is of somebody
    else, or damaged."""
    try:
        return decode_all(start, text)[2]
    except ValueError:
        return UNKNOWN_TOPIC


def _encode(start: int, notes: CommitMetadata, topic: TopicMark) -> str:
    crashes, attempts = (
        sorted(pair for pair in counts.items() if pair[0] >= start)
        for counts in (notes.crashes, notes.attempts)
    )
    attempts = [pair for pair in attempts if pair[0] < _FIRST_NAME]
    if start < _FIRST_NAME:
        attempts += _pairs_of_names(notes.hosts)
        if topic.id:
            attempts.append((_FIRST_MARK + min(topic.partitions, _MOST_PARTITIONS), topic.id))
    suspect = notes.suspect if notes.suspect is not None and notes.suspect >= start else None
    numbers = [
        notes.starts,
        0 if suspect is None else suspect - start + 1,
        len(crashes[:_MOST_CRASHES]),
    ]
    for pairs in (crashes[:_MOST_CRASHES], attempts):
        last = start
        for offset, count in pairs:
            numbers += (offset - last, count)
            last = offset
    content = offset_map.write_varints(numbers)
    return base64.b85encode(_checksum(start, content) + content).decode()


def _decode(start: int, text: str) -> tuple[CommitMetadata, TopicMark]:
    if len(text) > _MOST_BYTES:
        raise ValueError(f"it has {len(text):,} characters of notes")
    refusal = f"its notes are damaged, or were written for another offset than {start}"
    content = offset_map.unwrap(text, lambda content: _checksum(start, content), refusal)
    numbers = offset_map.read_varints(content)
    if (
        not 3 <= len(numbers) <= _MOST_NUMBERS
        or len(numbers) % 2 == 0
        or numbers[2] > (len(numbers) - 3) // 2
    ):
        raise ValueError(f"its notes hold {len(numbers)} numbers that make no sense")
    middle = 3 + 2 * numbers[2]
    suspect = start + numbers[1] - 1 if numbers[1] else None
    attempts = _counts(start, numbers[middle:])
    names = {
        offset: attempts.pop(offset)
        for offset in list(attempts)
        if _FIRST_NAME <= offset < _LAST_NAME
    }
    topic = UNKNOWN_TOPIC
    if (last := max(attempts, default=0)) >= _FIRST_MARK:
        topic = TopicMark(attempts.pop(last), last - _FIRST_MARK)
    return (
        CommitMetadata(
            numbers[0], suspect, _counts(start, numbers[3:middle]), attempts, _names_in(names)
        ),
        topic,
    )


def _counts(start: int, numbers: list[int]) -> dict[int, int]:
    counts, offset = {}, start
    for distance, count in zip(numbers[::2], numbers[1::2], strict=True):
        offset += distance
        counts[offset] = count
    return counts


def _checksum(start: int, content: bytes) -> bytes:
    return zlib.crc32(content, zlib.crc32(b"notes" + start.to_bytes(8, "big"))).to_bytes(
        CHECKSUM, "big"
    )
