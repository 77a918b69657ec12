"""Reads the records of a Kafka record batch, including broken ones. Pure.

kafka-python 3.0.12 raises at the first record that it cannot read, and loses the rest of the batch
and every batch behind it. This module returns such a record with a description of its flaw, and
continues with the next one, which it finds by the record's length. The format is Kafka's message
format v2 (https://kafka.apache.org/documentation/#record).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from embedkq._partition import Partition

_MASK = 0x7F
_MORE = 0x80
_LONGEST_VARINT_BITS = 70
_UNREADABLE_LENGTH = "its length cannot be read, so neither can the rest of its batch"


class FetchedRecord(NamedTuple):
    """A fetched record.

    Attributes:
        partition, offset: its place.
        timestamp: in Unix milliseconds; -1 if it has none.
        key, value, headers: as they were sent. If the record has a flaw: the readable parts, or
            else the record's bytes as the value.
        flaw: why the record cannot be read; None for a valid record.
    """

    partition: Partition
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    flaw: str | None = None


class RawName(str):
    """A header's name that is not UTF-8, as text with escapes. It encodes back to the original
    bytes."""

    raw: bytes

    def __new__(cls, raw: bytes) -> RawName:
        name = super().__new__(cls, raw.decode("utf-8", "backslashreplace"))
        name.raw = raw
        return name

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        """The original bytes, regardless of the arguments."""
        return self.raw


class Batch(NamedTuple):
    """The header of a batch.

    Attributes:
        partition: its partition.
        first, last: its first and last offset.
        records: number of records.
        timestamp: base of the records' timestamps, in milliseconds.
        append_timestamp: timestamp of all records; None if each record has its own.
    """

    partition: Partition
    first: int
    last: int
    records: int
    timestamp: int
    append_timestamp: int | None

    def stand_ins(self, after: int, flaw: str) -> Iterator[FetchedRecord]:
        """Yield a record with this flaw for each offset above `after`."""
        for offset in range(max(self.first, after + 1), self.last + 1):
            yield FetchedRecord(self.partition, offset, self.timestamp, None, None, (), flaw)


def read_records(batch: Batch, data: bytes, flaw: str | None = None) -> Iterator[FetchedRecord]:
    """Yield all records of a batch, in order. Never raises.

    A record's offset is out of order if it is not above the last one, or if it leaves too few
    offsets of the batch for the records that follow. So none of them is lost for want of an offset.

    Args:
        data: the uncompressed batch without its header.
        flaw: a flaw of all records.
    """
    position, last, offsets = 0, batch.first - 1, batch.last - batch.first + 1
    if batch.records < 0:
        yield from batch.stand_ins(last, flaw or f"its batch announces {batch.records} records")
    elif batch.records > offsets:
        flaw = flaw or f"its batch announces {batch.records} records and has {offsets} offsets"
    for following in reversed(range(min(batch.records, offsets))):
        highest = batch.last - following
        try:
            length, start = _varint(data, position)
            position = start + length
            if length < 0 or position > len(data):
                raise ValueError(f"its length is {length} bytes")
        except (IndexError, ValueError):
            yield from batch.stand_ins(last, flaw or _UNREADABLE_LENGTH)
            return
        try:
            record = _read(batch, data, start, position, _text, flaw)
            if not last < record.offset <= highest:
                raise ValueError(f"its offset {record.offset} is out of order")
        except (IndexError, ValueError) as error:
            record = _salvaged(
                batch, data, start, position, (last + 1, highest), flaw or _said(error)
            )
        last = record.offset
        yield record
    if position != len(data):
        yield from batch.stand_ins(
            last, flaw or f"its batch announces {batch.records} records and has more"
        )


def _read(
    batch: Batch,
    data: bytes,
    position: int,
    end: int,
    name_of: Callable[[bytes], str],
    flaw: str | None,
) -> FetchedRecord:
    """Read a record that ends before `end`.

    Raises:
        IndexError, ValueError: the record is broken.
    """
    delta, position = _varint(
        data, position + 1
    )  # the first byte holds attributes, which are unused
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
        content, position = _field(data, position, end)
        headers.append((name_of(name), content))
    if position != end:
        raise ValueError(f"its length is wrong by {position - end} bytes")
    timestamp = (
        batch.timestamp + delta if batch.append_timestamp is None else batch.append_timestamp
    )
    return FetchedRecord(
        batch.partition, batch.first + further, timestamp, key, value, headers, flaw
    )


def _field(data: bytes, position: int, end: int) -> tuple[bytes | None, int]:
    """Read bytes with a length prefix, or None."""
    length, position = _varint(data, position)
    if length < 0:
        return None, position
    following = position + length
    if following > end:
        raise ValueError("a field is longer than the record")
    return data[position:following], following


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Read a zigzag-encoded number. Also returns the position after it."""
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
    batch: Batch, data: bytes, start: int, end: int, offsets: tuple[int, int], flaw: str
) -> FetchedRecord:
    """The readable parts of a broken record, which gets the lowest of its possible offsets if its
    own is none of them."""
    lowest, highest = offsets
    try:
        record = _read(batch, data, start, end, _raw_text, flaw)
    except (IndexError, ValueError):
        return FetchedRecord(
            batch.partition, lowest, batch.timestamp, None, data[start:end], (), flaw
        )
    return record if lowest <= record.offset <= highest else record._replace(offset=lowest)


def _raw_text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return RawName(name)


def _said(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"a header's name is not UTF-8: {error.object[:64]!r}"
    return "it is shorter than its fields" if isinstance(error, IndexError) else str(error)
