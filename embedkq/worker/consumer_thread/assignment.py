"""Tracks the assigned partitions and their epochs, and releases partitions in a rebalance.

The listener runs on the client's I/O thread, which also sends heartbeats, so nothing here may
block.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from embedkq._clients.consumer import TIMEOUT_SECONDS
from embedkq._clients.names import kafka_errors
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.worker.between_threads.messages import Message, Released, Revoked
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.consumer_thread.commit_requests import TOO_LARGE
from embedkq.worker.consumer_thread.committer import Committer

logger = SafeLogger("embedkq.worker")

_CHECK_SECONDS = 0.01


class Assignment:
    """The assigned partitions of one consumer, and the epoch of each. An epoch is never used
    twice."""

    def __init__(
        self,
        shared: SharedState,
        committer: Committer,
        send: Callable[[Message], None],
        revoke_seconds: float,
    ) -> None:
        self.joined = threading.Event()
        """Set while an assignment is valid, even an empty one. Not set before the first one, or
        after all partitions were lost."""
        self.lost = False
        """Set when partitions were lost. The consumer thread resets it."""
        self.confirmed: dict[Partition, int] = {}
        """The last committed offsets of partitions that are no longer assigned."""
        self.fresh: set[Partition] = set()
        """Assigned partitions whose start offset is not known yet. The consumer thread removes
        them."""
        self.leaving = False
        """Set when the consumer closes. No job runs then, so a release waits for nothing."""
        self.stopping = False
        """Set when the worker is asked to stop. However it ends from now on, its jobs are not to
        blame."""
        self.left_uncommitted = False
        """Whether a partition with uncommitted done records went away while the worker was
        stopping."""
        self._shared = shared
        self._committer = committer
        self._send = send
        self._revoke_seconds = revoke_seconds
        self._epochs: dict[Partition, int] = {}
        self._settling: list[Revoked] = []
        self._new_epoch = itertools.count(1)
        self._changing = threading.Lock()

    def epoch(self, partition: Partition) -> int | None:
        """The epoch of the partition's present assignment; None if it is not assigned. Any
        thread."""
        return self._epochs.get(partition)

    @property
    def partitions(self) -> list[Partition]:
        """The assigned partitions. Any thread."""
        return list(self._epochs)

    def committable(self) -> dict[Partition, Progress]:
        """What to commit for the assigned partitions. Any thread."""
        return self._committable(dict(self._epochs), given_up=self.leaving or self.stopping)

    def lose_all(self) -> None:
        """Drop the assignment because the consumer is discarded. Nothing may be committed any more.
        Consumer thread."""
        self.joined.clear()
        self._lose(frozenset(self._epochs))

    def start_new_epoch(self, partitions: frozenset[Partition]) -> None:
        """Start a new epoch for partitions whose logs have a new life. Earlier progress is invalid
        and must not be committed. Consumer thread."""
        with self._changing:
            begun = frozenset(
                self._take_out(frozenset(partitions & self._epochs.keys() - self.fresh))
            )
            self._add(begun)
        self._send_lost(begun)

    def add(self, partitions: frozenset[Partition]) -> None:
        """Add newly assigned partitions. I/O thread."""
        self._shared.host_cpu.leave_out_this_thread()
        with self._changing:
            self._add(partitions)
        self.joined.set()

    async def give_up(self, kafka: Any, partitions: frozenset[Partition], lost: bool) -> None:
        """Release partitions: let their running jobs end and commit what is done, unless another
        member already has them (`lost`). I/O thread."""
        if lost:
            self.joined.clear()
            self._lose(partitions)
            return
        committed = self._committer.known(partitions)
        with self._changing:
            begun = self._take_out(partitions)
        if not begun:
            return
        message = Revoked(frozenset(begun), lost=False)
        self._send(message)
        self._settling.append(message)
        if self.leaving:
            await self._settle(kafka, message, begun, committed)
        else:
            # The other partitions continue meanwhile. No other member gets these before this
            # consumer joins the next rebalance.
            kafka.rejoin_after(self._settle, kafka, message, begun, committed)

    @property
    def settles(self) -> bool:
        """Whether released partitions are waiting for their jobs or their commit. Any thread."""
        return bool(self._settling)

    async def _settle(
        self,
        kafka: Any,
        message: Revoked,
        begun: Mapping[Partition, int],
        committed: Mapping[Partition, Progress],
    ) -> None:
        await self._until_settled(kafka, message)
        if message not in self._settling:
            return
        wanted = self._committable(
            begun, message.snapshot if message.settled else None, given_up=True
        )
        wanted = {
            partition: progress
            for partition, progress in wanted.items()
            if committed.get(partition) != progress
        }
        try:
            await self._commit(kafka, wanted)
        except kafka_errors.KafkaError as error:
            self.left_uncommitted |= self.stopping
            if not self.leaving:  # at the end of a stop, the runtime logs this once
                logger.warning(
                    "Could not commit the offsets of partitions %s before they were released (%r)."
                    " Jobs done since the last commit will run again.",
                    sorted(partition.number for partition in wanted),
                    error,
                )
        self._release(message)

    def _release(self, message: Revoked) -> None:
        if message in self._settling:
            self._settling.remove(message)
            self._send(Released(message.partitions))

    def _release_all(self) -> None:
        """Release all pending partitions at once: this consumer is no longer a member, and others
        may already own them."""
        for message in list(self._settling):
            self._release(message)

    async def _commit(self, kafka: Any, wanted: Mapping[Partition, Progress]) -> None:
        requests = self._committer.requests(wanted)
        while (request := requests.next_request()) is not None:
            try:
                await kafka.within(
                    kafka.commit_async(request), self._shared.deadline.left(TIMEOUT_SECONDS)
                )
            except TOO_LARGE as error:
                requests.refused(error)

    def _lose(self, partitions: frozenset[Partition]) -> None:
        self._release_all()
        if self.stopping and self._committer.lacks(
            self._committable({p: e for p, e in self._epochs.items() if p in partitions})
        ):
            self.left_uncommitted = True
        with self._changing:
            begun = self._take_out(partitions)
        self._send_lost(frozenset(begun))

    def _send_lost(self, partitions: frozenset[Partition]) -> None:
        if partitions:
            self._send(Revoked(partitions, lost=True))
            self.lost = True

    def _add(self, partitions: frozenset[Partition]) -> None:
        for partition in partitions:
            self._epochs[partition] = next(self._new_epoch)
            self.fresh.add(partition)

    def _take_out(self, partitions: frozenset[Partition]) -> dict[Partition, int]:
        """Remove partitions from the assignment. Returns the epochs of those that had started."""
        begun = {
            p: self._epochs[p] for p in partitions if p in self._epochs and p not in self.fresh
        }
        for partition in partitions:
            committed = self._shared.committed.get(partition)
            if committed is not None and committed.epoch == self._epochs.get(partition):
                self.confirmed[partition] = committed.offset
            self._epochs.pop(partition, None)
            self.fresh.discard(partition)
        self._committer.forget(partitions)
        return begun

    def _committable(
        self,
        epochs: Mapping[Partition, int],
        snapshot: Mapping[Partition, Progress] | None = None,
        given_up: bool = False,
    ) -> dict[Partition, Progress]:
        snapshot = self._shared.snapshot if snapshot is None else snapshot
        ours = {p: progress for p, progress in snapshot.items() if epochs.get(p) == progress.epoch}
        return {p: progress.given_up() for p, progress in ours.items()} if given_up else ours

    async def _until_settled(self, kafka: Any, message: Revoked) -> None:
        deadline = time.monotonic() + self._revoke_seconds
        while (
            not (message.settled or self.leaving)
            and message in self._settling
            and time.monotonic() < deadline
        ):
            # The client's event loop cannot wait for another thread. While this coroutine sleeps,
            # heartbeats continue.
            await kafka.sleep(_CHECK_SECONDS)
