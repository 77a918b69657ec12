"""What a fetch brought of one partition, read as far as it can be; and partitions that are held
because nothing of them can be read.

Of a record that is broken only that one is lost, and is given out with its flaw. What can be read
at another time or on another machine (compressed with a codec whose library is missing here) is not
given out at all: its partition is held, and tried again.

Nothing of kafka-python is imported here; its objects are taken as they are documented.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from embedkq._formats.record_batch import Batch, FetchedRecord, read_records

HOLD_SECONDS = 5.0
"""After which a partition is tried again whose records cannot be read here and now."""
CORRUPT_SECONDS, CORRUPT_TIMES = 0.5, 3
"""A batch that is corrupt is fetched so often, with so much time in between, before its records
count as lost."""
_NEWEST_FORMAT = 2
_NOT_ITS_FAULT = (
    ImportError,
    AttributeError,
    NameError,
    TypeError,
    NotImplementedError,
    MemoryError,
)
"""Errors of decompression that tell of this Python rather than of the record."""


class CannotRead(Exception):
    """Records that cannot be read here and now, which need not be their own fault.

    Attributes:
        seconds: after which to try again.
    """

    def __init__(self, reason: str, seconds: float = HOLD_SECONDS) -> None:
        super().__init__(reason)
        self.seconds = seconds


class Held(NamedTuple):
    """Why a partition is not read on for the moment.

    Attributes:
        offset: the first that was not read.
        reason: what is so of its next records, without a subject: "are compressed with ...".
        until: `time.monotonic()` from which on it is fetched again.
        times: how often in a row it has come to this.
    """

    offset: int
    reason: str
    until: float
    times: int


class Holds:
    """Partitions that are held. The thread that polls, but for `allows`."""

    def __init__(self) -> None:
        self._held: dict[Any, Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, partition: Any, offset: int, error: Exception) -> None:
        """Fetch nothing of this partition for a while."""
        reason = str(error) if isinstance(error, CannotRead) else f"cannot be read: {error!r}"
        seconds = error.seconds if isinstance(error, CannotRead) else HOLD_SECONDS
        known = self._held.get(partition)
        times = known.times + 1 if known is not None and known[:2] == (offset, reason) else 1
        self._held[partition] = Held(offset, reason, time.monotonic() + seconds, times)

    def release(self, partition: Any) -> None:
        """Something of it was read."""
        self._held.pop(partition, None)

    def allows(self, partition: Any, now: float) -> bool:
        """Whether it may be fetched. Any thread."""
        held = self._held.get(partition)
        return held is None or held.until <= now

    def times(self, partition: Any, offset: int) -> int:
        """How often in a row it was held at this offset."""
        held = self._held.get(partition)
        return held.times if held is not None and held.offset == offset else 0

    def at(self, positions: Mapping[Any, int | None]) -> dict[Any, Held]:
        """Those that are held where they still are. Those that have no position any more are
        forgotten."""
        self._held = {
            partition: held for partition, held in self._held.items() if partition in positions
        }
        return {
            partition: held
            for partition, held in self._held.items()
            if positions[partition] == held.offset
        }


class Fetched(Protocol):
    """What a fetch brought of one partition."""

    number: int
    """Of the partition."""
    next_fetch_offset: int
    """From where on it is read; moved on by `read_batches`."""
    leader_epoch: int
    check_crcs: bool

    def is_passed_over(self, batch: Any) -> bool:
        """Whether nothing of a batch is for consumers: a mark of transactions, or of one that was
        aborted."""

    def content_of(self, batch: Any) -> bytes:
        """A batch without its header."""

    def decompressor(self, batch: Any) -> tuple[str, Any]:
        """Name and function of the codec of a batch; raises CannotRead."""

    def end(self) -> int | None:
        """Offset behind the partition's last record, if it is known."""

    def times_held(self) -> int:
        """How often in a row the partition was held at `next_fetch_offset`."""


def read_batches(fetched: Fetched, batches: Any) -> Iterator[FetchedRecord]:
    """All records of all batches, in order.

    Raises:
        CannotRead, Exception: those at `next_fetch_offset` cannot be read.
    """
    while (batch := batches.next_batch()) is not None:
        if batch.magic > _NEWEST_FORMAT:
            raise CannotRead(
                f"are in a batch of format {batch.magic}, which kafka-python does not know"
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
        # The last records of a batch may have been compacted away.
        fetched.next_fetch_offset = max(fetched.next_fetch_offset, following)
        if (
            flaw is not None
            # it may have been the end of a transaction: what follows is fetched anew, with Kafka's
            # list of those
        ):
            return


def _checked(fetched: Fetched, batch: Any) -> str | None:
    """None if a batch is as it was sent; else what is wrong, once it was fetched a few times over:
    a line may have been at fault."""
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
        )  # it cannot be: the next fetch shows what is behind
    appended = batch.max_timestamp if batch.timestamp_type else None
    return Batch(fetched.number, first, last, batch.records_count, batch.first_timestamp, appended)


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
        except Exception as error:  # noqa: BLE001  (each library has errors of its own)
            return frame.stand_ins(
                frame.first - 1, flaw or f"its batch cannot be decompressed with {codec}: {error!r}"
            )
    return read_records(frame, data, flaw)


def _legacy(fetched: Fetched, batch: Any, flaw: str | None) -> Iterator[FetchedRecord]:
    """Of a batch of the formats before Kafka 0.11, whose offset is that of its last record."""
    frame = Batch(fetched.number, fetched.next_fetch_offset, batch.base_offset, 0, -1, None)
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
    except Exception as error:  # noqa: BLE001  (each library has errors of its own)
        yield from frame.stand_ins(last, flaw or f"its batch cannot be read: {error!r}")
