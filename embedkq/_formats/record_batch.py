"""The records of one record batch of Kafka, those that are broken included. Pure: bytes in, records
out.

kafka-python 3.0.12 raises at the first record that it cannot read, and with it loses the rest of
the batch and every batch behind it. Here such a record is given out too, with what is wrong with
it, and the next one is read: its length tells where that begins. The format is Kafka's message
format v2 (https://kafka.apache.org/documentation/#record).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

_MASK = 0x7F
_MORE = 0x80
_LONGEST_VARINT_BITS = 70
_UNREADABLE_LENGTH = "its length cannot be read, nor can the records behind it in its batch"


class FetchedRecord(NamedTuple):
    """A record as it was fetched.

    Attributes:
        partition, offset: where it is.
        timestamp: Unix, milliseconds; -1 for none.
        key, value, headers: as they were sent. Of a record with a flaw: what can be read of them,
            else the record's bytes as value.
        flaw: why it cannot be read; None for a sound one.
    """

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    flaw: str | None = None


class RawName(str):
    """The name of a header that is not UTF-8: as text with escapes, encoded again as the bytes that
    it was."""

    raw: bytes

    def __new__(cls, raw: bytes) -> RawName:
        name = super().__new__(cls, raw.decode("utf-8", "backslashreplace"))
        name.raw = raw
        return name

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """The bytes that it was, whatever is asked for."""
        return self.raw


class Batch(NamedTuple):
    """What the header of a batch says of its records.

    Attributes:
        partition: where it is.
        first, last: offsets that it covers.
        records: how many there are.
        timestamp: that records count theirs from, in milliseconds.
        append_timestamp: that counts for all of them; None where each has its own.
    """

    partition: int
    first: int
    last: int
    records: int
    timestamp: int
    append_timestamp: int | None

    def stand_ins(self, after: int, flaw: str) -> Iterator[FetchedRecord]:
        """A record with this flaw for each offset behind `after`."""
        for offset in range(max(self.first, after + 1), self.last + 1):
            yield FetchedRecord(self.partition, offset, self.timestamp, None, None, (), flaw)


def read_records(batch: Batch, data: bytes, flaw: str | None = None) -> Iterator[FetchedRecord]:
    """All records of a batch, in order. Raises nothing.

    Args:
        data: the batch without its header, uncompressed.
        flaw: what is wrong with all of them.
    """
    position, last = 0, batch.first - 1
    if batch.records < 0:
        yield from batch.stand_ins(last, flaw or f"its batch tells of {batch.records} records")
    if batch.records < 0:
        yield from batch.stand_ins(
            last, flaw or f"its batch says that it has {batch.records} records"
        )
    for _ in range(batch.records):
        try:
            length, start = _varint(data, position)
            position = start + length
            if length < 0 or position > len(data):
                raise ValueError(f"a length of {length} bytes")
        except (IndexError, ValueError):
            yield from batch.stand_ins(last, flaw or _UNREADABLE_LENGTH)
            return
        try:
            record = _read(batch, data, start, position, _text, flaw)
            if not last < record.offset <= batch.last:
                raise ValueError(f"offset {record.offset} is not one of those that follow")
        except (IndexError, ValueError) as error:
            record = _salvaged(batch, data, start, position, last + 1, flaw or _said(error))
            if record.offset > batch.last:
                return
        last = record.offset
        yield record
    if position != len(data):
        yield from batch.stand_ins(
            last, flaw or f"its batch tells of {batch.records} records, and has more"
        )


def _read(
    batch: Batch,
    data: bytes,
    position: int,
    end: int,
    name_of: Callable[[bytes], str],
    flaw: str | None,
) -> FetchedRecord:
    """One record, which ends before `end`.

    Raises:
        IndexError, ValueError: it is not what it should be.
    """
    delta, position = _varint(data, position + 1)  # the byte before is of no meaning yet
    further, position = _varint(data, position)
    key, position = _field(data, position, end)
    value, position = _field(data, position, end)
    count, position = _varint(data, position)
    headers: list[tuple[str, bytes | None]] = []
    if count < 0:
        raise ValueError(f"it has {count} headers")
    for _ in range(count):
        name, position = _field(data, position, end)
        if name is None:
            raise ValueError("a header has no name")
        told, position = _field(data, position, end)
        headers.append((name_of(name), told))
    if position != end:
        raise ValueError(f"its length is wrong by {position - end} bytes")
    timestamp = (
        batch.timestamp + delta if batch.append_timestamp is None else batch.append_timestamp
    )
    return FetchedRecord(
        batch.partition, batch.first + further, timestamp, key, value, headers, flaw
    )


def _field(data: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    """Bytes with their length before them, or None."""
    length, position = _varint(data, position)
    if length < 0:
        return None, position
    following = position + length
    if following > end:
        raise ValueError("a field goes beyond its end")
    return data[position:following], following


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number in zigzag coding, and where the next one begins."""
    byte = data[position]
    if byte < _MORE:
        return (byte >> 1) ^ -(byte & 1), position + 1
    number, bits = byte & _MASK, 7
    while byte >= _MORE:
        position += 1
        byte = data[position]
        number |= (byte & _MASK) << bits
        bits += 7
        if bits > _LONGEST_VARINT_BITS:
            raise ValueError("a number is longer than 64 bits")
    return (number >> 1) ^ -(number & 1), position + 1


def _text(name: bytes) -> str:
    return name.decode()


def _salvaged(
    batch: Batch, data: bytes, start: int, end: int, offset: int, flaw: str
) -> FetchedRecord:
    """What can be told of a record that is not sound."""
    try:
        record = _read(batch, data, start, end, _raw_text, flaw)
    except (IndexError, ValueError):
        return FetchedRecord(
            batch.partition, offset, batch.timestamp, None, data[start:end], (), flaw
        )
    return record if offset <= record.offset <= batch.last else record._replace(offset=offset)


def _raw_text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return RawName(name)


def _said(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"a header's name is not UTF-8: {error.object[:64]!r}"
    return "it is shorter than its fields" if isinstance(error, IndexError) else str(error)
