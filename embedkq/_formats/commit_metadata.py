"""The notes of a partition, and the encoding of map and notes as the commit's metadata. Any thread.

The text is that of the map (see `offset_map`; empty if nothing is done above the start). If there
are notes, a space follows, then base85 of a checksum and of varints. The checksum covers the start
offset too. The varints are:

- the number of starts of the partition without progress;

- the suspect: its distance from the start, plus one; 0 for none;

- the number of records that crashed hosts, and the distance and count of each;

- the distance and count of each record with failed attempts, up to the end.

Each distance is from the offset before. Attempts at offsets that no log reaches have another
meaning; older versions carry them along unchanged. From 2**61 on they hold names of hosts, 7 bytes
of a name each. One at 2**62 or above identifies the topic: its count is 63 bits of the topic's id,
and its offset minus 2**62 is the topic's number of partitions.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from embedkq._formats import base85, offset_map
from embedkq._formats.offset_map import CHECKSUM, LIMIT, OffsetRanges

_SEPARATOR = " "
_STARTS_IN_VAIN = 2
_MOST_CRASHES = 16
"""The maximum number of records with crash counts. Those with the lowest offsets are kept, because
they block the rest."""
_MOST_NUMBERS = 16_384
_MOST_BYTES = 64 * 1024
_MOST_HOSTS = 5
_FIRST_NAME, _LAST_NAME = 2**61, 2**61 + 2**16
_LONGEST_NAME, _PIECE = 64, 7
_FIRST_MARK = 2**62
_MOST_PARTITIONS = 2**31


class TopicMark(NamedTuple):
    """Identifies the topic that offsets belong to. A topic that is deleted and created again keeps
    its name and gets another id (KIP-516).

    Attributes:
        id: 63 bits of the topic's id; 0 if unknown.
        partitions: its number of partitions; 0 if unknown.
    """

    id: int
    partitions: int

    @classmethod
    def of(cls, topic_id: UUID | None, partitions: int) -> TopicMark:
        """The mark of a topic as a broker describes it. Brokers without topic ids report None or
        zeros."""
        return cls(0 if topic_id is None else topic_id.int >> 65, partitions)

    def is_another_than(self, other: TopicMark) -> bool:
        """Whether the two are known to be different topics."""
        return self.id != other.id and self.id != 0 and other.id != 0


UNKNOWN_TOPIC = TopicMark(0, 0)


class CommitMetadata(NamedTuple):
    """Notes about records that are not done. Immutable; any thread.

    Attributes:
        starts: how often a host started jobs of the partition since the last orderly release or
            progress.
        suspect: in serial mode, the offset of the job that is running; else None.
        crashes: how often a host crashed while the record was the suspect, by offset.
        attempts: how often a job failed, timed out or crashed, by offset.
        hosts: names of the last few hosts that crashed with a suspect, followed by the host of the
            present suspect.
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
        """Whether the partition was started so often without progress that its jobs should run one
        at a time."""
        return self.starts > _STARTS_IN_VAIN

    def begun(self) -> CommitMetadata:
        """The notes when a host is about to start the partition's first job."""
        return self._replace(starts=self.starts + 1)

    def suspecting(self, offset: int, host: str) -> CommitMetadata:
        """The notes when a host is about to run this job alone."""
        return self._replace(suspect=offset, hosts=(*self.hosts, host)[-_MOST_HOSTS:])

    def cleared(self) -> CommitMetadata:
        """The notes after the suspect ran without a crash."""
        return self if self.suspect is None else self._replace(suspect=None, hosts=self.hosts[:-1])

    def with_crash(self) -> CommitMetadata:
        """The notes after a crash of the host that ran the suspect, if there was one."""
        if self.suspect is None:
            return self
        return self._replace(
            suspect=None,
            crashes={**self.crashes, self.suspect: self.crashes.get(self.suspect, 0) + 1},
        )

    def given_up(self) -> CommitMetadata:
        """The notes after an orderly release, or when a host was asked to stop. However such a host
        ends, its jobs are not to blame."""
        return self.cleared()._replace(starts=0)

    def of_open(self, start: int, done: OffsetRanges) -> CommitMetadata:
        """The notes without those for done records."""
        noted = self
        for offset in {*self.crashes, *self.attempts}:
            if offset < start or any(first <= offset < last for first, last in done):
                noted = noted.without(offset)
        return noted

    def without(self, offset: int) -> CommitMetadata:
        """The notes after this offset is done."""
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
    """Host names, encoded as attempts at offsets that no log reaches. Older versions carry them
    along."""
    pairs = []
    for number, name in enumerate(names):
        content = name.encode("utf-8", "replace")[:_LONGEST_NAME]
        for place in range(0, len(content), _PIECE):
            piece = int.from_bytes(
                b"\1" + content[place : place + _PIECE], "big"
            )  # the 1 preserves leading zeros
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
    """Encode the metadata for an offset of a topic in at most `limit` characters.

    The topic and the notes of the crash guard are short and take priority, then the map, then the
    attempts. What does not fit is dropped from the top: done jobs run again, and attempt counts of
    failed jobs restart.

    Raises:
        ValueError: `start` is not an offset, or `done` is not a valid `OffsetRanges`.
    """
    if notes == NOTHING and not topic.id:
        return offset_map.encode(start, done, limit).text
    needed = _encode(start, notes._replace(attempts={}), topic)
    text = offset_map.encode(start, done, max(0, limit - len(needed) - 1)).text
    offsets = sorted(notes.attempts)
    while offsets:
        notes_text = _encode(
            start,
            notes._replace(attempts={offset: notes.attempts[offset] for offset in offsets}),
            topic,
        )
        if len(text) + 1 + len(notes_text) <= limit:
            return text + _SEPARATOR + notes_text
        offsets = offsets[: len(offsets) // 2]
    return text + _SEPARATOR + needed if len(text) + 1 + len(needed) <= limit else text


def decode(start: int, text: str) -> tuple[OffsetRanges, CommitMetadata]:
    """Decode what `encode` encoded, or a part of it. Uses bounded time and memory for any text.

    Raises:
        ValueError: embedkq did not write the text for this start, or it is damaged. The message
            says which.
    """
    done, noted, _ = decode_all(start, text)
    return done, noted


def decode_all(start: int, text: str) -> tuple[OffsetRanges, CommitMetadata, TopicMark]:
    """Like `decode`, and also returns the topic that the text was written for."""
    written, separator, noted = text.partition(_SEPARATOR)
    done = offset_map.decode(start, written)
    return (done, *_decode(start, noted)) if separator else (done, NOTHING, UNKNOWN_TOPIC)


def read_topic(start: int, text: str) -> TopicMark:
    """The topic that metadata was written for; UNKNOWN_TOPIC if another program wrote it, or if it
    is damaged."""
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
    return base85.encode(_checksum(start, content) + content)


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
        raise ValueError(f"its notes have {len(numbers)} numbers that are not valid")
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
