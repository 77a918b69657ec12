"""A repaired fetcher for kafka-python's consumer: a fault in one partition or one record does not
affect others."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import time
from collections.abc import Iterator
from typing import Any

from embedkq._clients.partitions import partition_of
from embedkq._clients.private.names import (
    DefaultRecordBatch,
    Fetcher,
    IsolationLevel,
    codec,
    kafka_errors,
    kafka_version,
    legacy_records,
)
from embedkq._formats.record_batch import FetchedRecord
from embedkq._formats.record_reader import CannotRead, Holds, read_batches

_CODECS = {
    1: ("gzip", "gzip", "gzip"),
    2: ("snappy", "snappy", "python-snappy"),
    3: ("lz4", "lz4.frame", "lz4"),
    4: ("zstd", "zstandard", "zstandard"),
}
"""For each codec number in a batch: the codec's name, the module that kafka-python imports, and its
package."""
_OF_ALL = (
    kafka_errors.AuthorizationError,
    kafka_errors.OffsetOutOfRangeError,
    kafka_errors.UnsupportedVersionError,
)
"""Errors of one partition that concern the whole consumer."""


class MendedFetcher(Fetcher):  # type: ignore[misc]
    """A fetcher. An existing fetcher gets this class after its construction.

    In kafka-python 3.0.12, `poll` raises an error of one partition for all of them, and loops
    forever if the same poll returns more records.
    """

    _next_partition_records: Any

    def mend(self) -> None:
        """Initialize the attributes of this class."""
        self.holds = Holds()
        self.PartitionRecords = functools.partial(_PartitionRecords, self)

    def positions(self) -> dict[Any, int | None]:
        """The next offset to fetch, by assigned partition; None if unknown."""
        states = dict(self._subscriptions.assignment)
        return {
            partition: None if state.position is None else state.position.offset
            for partition, state in states.items()
        }

    def _fetchable_partitions(self) -> list[Any]:
        fetchable: list[Any] = super()._fetchable_partitions()
        if not self.holds:
            return fetchable
        now = time.monotonic()
        return [partition for partition in fetchable if self.holds.allows(partition, now)]

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        try:
            return super()._parse_fetched_data(completed_fetch)
        except _OF_ALL:
            raise
        except Exception as error:  # noqa: BLE001  (any error concerns only this partition)
            reason = error
            if isinstance(error, kafka_errors.BrokerResponseError):
                reason = CannotRead(f"are not returned by the broker: {type(error).__name__}")
            self.holds.hold(completed_fetch.topic_partition, completed_fetch.fetched_offset, reason)
            return None

    def beginning_or_end_offset(self, *args: Any, **options: Any) -> Any:
        """As in kafka-python, which raises a KeyError if one of several partitions has no known
        leader."""
        try:
            return super().beginning_or_end_offset(*args, **options)
        except KeyError as error:
            raise kafka_errors.LeaderNotAvailableError(
                f"{error.args[0]} has no leader at the moment"
            ) from error

    def discard(self, partition: Any) -> None:
        """Discard the fetched records of a partition that were not returned yet."""
        for completed in list(self._completed_fetches):
            if completed.topic_partition == partition:
                self._completed_fetches.remove(completed)
        if (
            self._next_partition_records
            and self._next_partition_records.topic_partition == partition
        ):
            self._next_partition_records = None
        self._paused_completed_fetches.pop(partition, None)
        self._paused_partition_records.pop(partition, None)

    def fetched_records(self, *args: Any, **kwargs: Any) -> Any:
        """As in kafka-python, and also returns records that were set aside when a partition was
        paused."""
        # kafka-python 3.0.12 sets the remaining records of a paused partition aside, and returns to
        # them only while it has no current records of another partition. It does not notice that
        # its current records are used up, so the resumed partition is never polled again (seen).
        if not self._next_partition_records:
            self._next_partition_records = None
        return super().fetched_records(*args, **kwargs)


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The fetched records of a partition; see `record_reader`. The polling thread."""

    next_fetch_offset: int
    leader_epoch: int
    check_crcs: bool

    def __init__(self, fetcher: MendedFetcher, *args: Any, **options: Any) -> None:
        self._fetcher = fetcher
        super().__init__(*args, **options)
        self.partition = partition_of(self.topic_partition)

    def take(self, n: int | None = None) -> list[FetchedRecord]:
        try:
            records: list[FetchedRecord] = super().take(n)
        except Exception as error:  # noqa: BLE001  (any error concerns only this partition)
            self._fetcher.holds.hold(self.topic_partition, self.next_fetch_offset, error)
            self.drain()
            return []
        if records and self._fetcher.holds:
            self._fetcher.holds.release(self.topic_partition)
        return records

    def _unpack_records(self, _: Any, records: Any, *__: Any) -> Iterator[FetchedRecord]:
        yield from read_batches(self, records)
        self.drain()

    def is_passed_over(self, batch: Any) -> bool:
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return True
        return bool(batch.is_control_batch)

    def content_of(self, batch: Any) -> bytes:
        return bytes(memoryview(batch._buffer)[DefaultRecordBatch.HEADER_STRUCT.size :])

    def decompressor(self, batch: Any) -> tuple[str, Any]:
        name = _require_codec(batch.compression_type)
        return name, getattr(codec, f"{name}_decode")

    def end(self) -> int | None:
        state = self._fetcher._subscriptions.assignment.get(self.topic_partition)
        return None if state is None else state.highwater

    def times_held(self) -> int:
        return self._fetcher.holds.times(self.topic_partition, self.next_fetch_offset)


def _require_codec(kind: int) -> str:
    """The name of a codec whose library is available. Loads a library that was installed after the
    process started. Raises CannotRead."""
    if kind not in _CODECS:
        raise CannotRead(
            f"are compressed with codec {kind}, which kafka-python {kafka_version} does not support"
        )
    name, module, package = _CODECS[kind]
    has = f"has_{name}"
    try:
        if not getattr(codec, has)():
            importlib.invalidate_caches()
            if importlib.util.find_spec(module.partition(".")[0]) is not None:
                importlib.reload(codec)
                legacy_records.snappy_decode, legacy_records.lz4_decode = (
                    codec.snappy_decode,
                    codec.lz4_decode,
                )
    except Exception as error:
        raise CannotRead(
            f"are compressed with {name}, whose library cannot be loaded: {error!r}"
        ) from error
    if not getattr(codec, has)():
        raise CannotRead(
            f"are compressed with {name}, which needs a package that is missing here: pip install"
            f" {package}"
        )
    return name
