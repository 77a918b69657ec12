"""Reads the fetched batches of a partition, and tracks partitions that are held because they cannot
be read now.

A broken record is returned with its flaw, and the following ones are read. A record that may be
readable later or on another machine (such as one compressed with a codec whose library is missing
here) is not returned: its partition is held and retried.

This module does not import kafka-python. It uses only documented attributes of its objects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from embedkq._formats.record_batch import Batch, FetchedRecord, read_records
from embedkq._partition import Partition

HOLD_SECONDS = 5.0
"""Seconds after which a held partition is retried."""
CORRUPT_SECONDS, CORRUPT_TIMES = 0.5, 3
"""A corrupt batch is fetched this many times, this many seconds apart, before its records count as
broken."""
_NEWEST_FORMAT = 2
_NOT_ITS_FAULT = (
    ImportError,
    AttributeError,
    NameError,
    TypeError,
    NotImplementedError,
    MemoryError,
)
"""Decompression errors that are caused by this Python environment and not by the record."""


class CannotRead(Exception):
    """Records cannot be read now, possibly through no fault of their own.

    Attributes:
        seconds: time until the next attempt.
    """

    def __init__(self, reason: str, seconds: float = HOLD_SECONDS) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Held(NamedTuple):
    """Why a partition is held.

    Attributes:
        offset: the first offset that was not read.
        reason: the reason, as a clause about the next records without a subject: "are compressed
            with ...".
        until: `time.monotonic()` of the next fetch.
        times: number of consecutive holds at this offset.
    """

    offset: int
    reason: str
    until: float
    times: int


class Holds:
    """The held partitions. For the polling thread, except `allows`."""

    def __init__(self) -> None:
        self._held: dict[Any, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, partition: Any, offset: int, error: Exception) -> None:
        """Stop fetching this partition for a while."""
        reason = str(error) if isinstance(error, CannotRead) else f"cannot be read: {error!r}"
        seconds = error.seconds if isinstance(error, CannotRead) else HOLD_SECONDS
        known = self._held.get(partition)
        times = known.times + 1 if known is not None and known[:2] == (offset, reason) else 1
        self._held[partition] = Held(offset, reason, time.monotonic() + seconds, times)

    def release(self, partition: Any) -> None:
        """End the hold: the partition was read."""
        self._held.pop(partition, None)

    def allows(self, partition: Any, now: float) -> bool:
        """Whether the partition may be fetched. Any thread."""
        held = self._held.get(partition)
        return held is None or held.until <= now

    def times(self, partition: Any, offset: int) -> int:
        """Number of consecutive holds at this offset."""
        held = self._held.get(partition)
        return held.times if held is not None and held.offset == offset else 0

    def at(self, positions: Mapping[Any, int | None]) -> dict[Any, Held]:
        """The holds at the partitions' present positions. Holds of partitions without a position
        are removed."""
        self._held = {
            partition: held for partition, held in self._held.items() if partition in positions
        }
        return {
            partition: held
            for partition, held in self._held.items()
            if positions[partition] == held.offset
        }


class Fetched(Protocol):
    """The fetched batches of one partition."""

    partition: Partition
    next_fetch_offset: int
    """The next offset to read. `read_batches` advances it."""
    leader_epoch: int
    check_crcs: bool

    def is_passed_over(self, batch: Any) -> bool:
        """Whether a batch has nothing for consumers: a transaction marker, or records of an aborted
        transaction."""

    def content_of(self, batch: Any) -> bytes:
        """The batch without its header."""

    def decompressor(self, batch: Any) -> tuple[str, Any]:
        """Name and function of the batch's codec; raises CannotRead."""

    def end(self) -> int | None:
        """The offset behind the partition's last record, if known."""

    def times_held(self) -> int:
        """Number of consecutive holds at `next_fetch_offset`."""


def read_batches(fetched: Fetched, batches: Any) -> Iterator[FetchedRecord]:
    """Yield all records of all batches, in order.

    Raises:
        CannotRead, Exception: the records at `next_fetch_offset` cannot be read.
    """
    while (batch := batches.next_batch()) is not None:
        if batch.magic > _NEWEST_FORMAT:
            raise CannotRead(
                f"are in a batch of format {batch.magic}, which kafka-python does not support"
            )
        flaw = _checked(fetched, batch)
        following = fetched.next_fetch_offset
        if batch.magic < _NEWEST_FORMAT:
            came = _legacy(fetched, batch, flaw)
        else:
            fetched.leader_epoch = batch.leader_epoch
            frame = _frame_of(fetched, batch, doubtful=flaw is not None)
            following = frame.last + 1
            came = (
                iter(())
                if flaw is None and fetched.is_passed_over(batch)
                else _records(fetched, batch, frame, flaw)
            )
        for record in came:
            if record.offset >= fetched.next_fetch_offset:
                fetched.next_fetch_offset = record.offset + 1
                yield record
        # Compaction may have removed the last records of a batch.
        fetched.next_fetch_offset = max(fetched.next_fetch_offset, following)
        if (
            flaw is not None
            # the batch may have ended a transaction: fetch the rest again, with Kafka's list of
            # aborted transactions
        ):
            return


def _checked(fetched: Fetched, batch: Any) -> str | None:
    """None if the batch's CRC is right, else the flaw. Raises CannotRead for the first few fetches,
    because the network may be at fault."""
    if not fetched.check_crcs or batch.validate_crc():
        return None
    if fetched.times_held() < CORRUPT_TIMES:
        raise CannotRead("are in a corrupt batch: its CRC is wrong", CORRUPT_SECONDS)
    return "its batch is corrupt: the CRC is wrong"


def _frame_of(fetched: Fetched, batch: Any, doubtful: bool) -> Batch:
    first, last, end = batch.base_offset, batch.last_offset, fetched.end()
    if doubtful and not (
        0 <= first <= fetched.next_fetch_offset <= last and (end is None or last < end)
    ):
        first = last = (
            fetched.next_fetch_offset
        )  # not credible: use one offset, and let the next fetch show the rest
    appended = batch.max_timestamp if batch.timestamp_type else None
    return Batch(
        fetched.partition, first, last, batch.records_count, batch.first_timestamp, appended
    )


def _records(
    fetched: Fetched, batch: Any, frame: Batch, flaw: str | None
) -> Iterator[FetchedRecord]:
    data = fetched.content_of(batch)
    if batch.compression_type:
        codec, decompress = fetched.decompressor(batch)
        try:
            data = bytes(decompress(data))
        except _NOT_ITS_FAULT as error:
            raise CannotRead(f"are compressed with {codec}, which fails here: {error!r}") from error
        except Exception as error:  # noqa: BLE001  (each library has its own errors)
            return frame.stand_ins(
                frame.first - 1, flaw or f"its batch cannot be decompressed with {codec}: {error!r}"
            )
    return read_records(frame, data, flaw)


def _legacy(fetched: Fetched, batch: Any, flaw: str | None) -> Iterator[FetchedRecord]:
    """Read a batch in a format older than Kafka 0.11, whose offset is that of its last record."""
    frame = Batch(fetched.partition, fetched.next_fetch_offset, batch.base_offset, 0, -1, None)
    last = frame.first - 1
    if batch.compression_type:
        fetched.decompressor(batch)
    try:
        for record in batch:
            wrong = (
                flaw
                if flaw or not fetched.check_crcs or record.validate_crc()
                else "its CRC is wrong"
            )
            timestamp = -1 if record.timestamp is None else record.timestamp
            yield FetchedRecord(
                frame.partition, record.offset, timestamp, record.key, record.value, (), wrong
            )
            last = record.offset
    except _NOT_ITS_FAULT as error:
        raise CannotRead(f"cannot be read here: {error!r}") from error
    except Exception as error:  # noqa: BLE001  (each library has its own errors)
        yield from frame.stand_ins(last, flaw or f"its batch cannot be read: {error!r}")
