"""Splits a commit into requests that a broker accepts. Any thread, one at a time for each
commit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from embedkq._clients.names import kafka_errors
from embedkq._clients.partitions import offsets_of
from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.partition_progress import Committed
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.worker.between_threads.progress import Progress

logger = SafeLogger("embedkq.worker")

TOO_LARGE = (
    kafka_errors.OffsetMetadataTooLargeError,
    kafka_errors.InvalidCommitOffsetSizeError,
    # Apache Kafka 4.3 returns this for a request whose records are larger than message.max.bytes
    kafka_errors.UnknownError,
)
"""Errors of a commit after which a smaller one may be accepted."""
REQUEST_BYTES = 256 * 1024
"""The offsets of a group go into one partition of __consumer_offsets, each request as one batch. By
default, message.max.bytes limits a batch to 1 MB."""
_PARTITION_BYTES = 128
"""An estimate of what one partition needs beside its metadata, with the names of group and
topic."""
_SHORTEST_METADATA = 64
_LIMITED_SECONDS = 60.0


class CommitLimits:
    """The limits that a broker has shown by refusing commits. A limit expires after a minute,
    because the broker's configuration may change."""

    def __init__(self) -> None:
        self._request_bytes, self._metadata = REQUEST_BYTES, offset_map.LIMIT
        self._lifted_at = 0.0

    @property
    def request_bytes(self) -> int:
        """Maximum size of a request in bytes."""
        self._lift()
        return self._request_bytes

    @property
    def metadata(self) -> int:
        """Maximum length of one partition's metadata in characters."""
        self._lift()
        return self._metadata

    def refuse_request(self, size: int) -> None:
        """Record that a request of this size was too large."""
        self._request_bytes = max(1, size // 2)
        self._lifted_at = time.monotonic() + _LIMITED_SECONDS

    def refuse_metadata(self, characters: int) -> None:
        """Record that metadata of this length was too large."""
        if self._metadata == offset_map.LIMIT:
            logger.warning(
                "The broker refuses commit metadata of %d characters (offset.metadata.max.bytes,"
                " 4096 by default). Shortening the metadata: after a crash, done jobs above the"
                " committed offset may run again, and attempt counts restart.",
                characters,
            )
        self._metadata = characters // 2 if characters >= _SHORTEST_METADATA else 0
        self._lifted_at = time.monotonic() + _LIMITED_SECONDS

    def _lift(self) -> None:
        if time.monotonic() > self._lifted_at:
            self._request_bytes, self._metadata = REQUEST_BYTES, offset_map.LIMIT


class CommitRequests:
    """One commit, request by request. Call `next_request`, then `accepted` or `refused`, until
    there is no further request."""

    def __init__(self, wanted: Mapping[Partition, Progress], limits: CommitLimits) -> None:
        self._wanted = wanted
        self._limits = limits
        self._waiting = deque(wanted)
        self._request: dict[Partition, Committed] = {}
        self._size = 0

    def next_request(self) -> Any | None:
        """The next request, in the client's format; None once everything is committed."""
        self._request, self._size = {}, 0
        most, characters = self._limits.request_bytes, self._limits.metadata
        while self._waiting:
            progress = self._wanted[self._waiting[0]]
            metadata = commit_metadata.encode(
                progress.offset, progress.done, progress.notes, characters, progress.topic
            )
            size = _PARTITION_BYTES + len(metadata)
            if self._request and self._size + size > most:
                break
            self._request[self._waiting.popleft()] = Committed(progress.offset, metadata)
            self._size += size
        return offsets_of(self._request) or None

    def accepted(self) -> dict[Partition, Progress]:
        """Record that the last request is committed. Returns its partitions."""
        return {partition: self._wanted[partition] for partition in self._request}

    def refused(self, error: kafka_errors.KafkaError) -> None:
        """Record that the last request failed with one of `TOO_LARGE`. The next requests are
        smaller.

        Raises:
            KafkaError: the same error, if the request cannot be made smaller.
        """
        longest = max(len(known.metadata) for known in self._request.values())
        if isinstance(error, kafka_errors.OffsetMetadataTooLargeError) or len(self._request) == 1:
            if not longest:
                raise error
            self._limits.refuse_metadata(longest)
        else:
            self._limits.refuse_request(self._size)
        self._waiting.extendleft(reversed(self._request))
