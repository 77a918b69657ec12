"""Which partitions are ours, since when, and how they are given up.

The listener runs on the client's I/O thread, which also sends the heartbeats: nothing here may
block.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from embedkq._clients.consumer import TIMEOUT_SECONDS
from embedkq._clients.names import TopicPartition, kafka_errors
from embedkq._clients.private import AsyncConsumerRebalanceListener
from embedkq._safe_logging import SafeLogger
from embedkq.worker.between_threads.messages import Message, Released, Revoked
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.consumer_thread.commit_requests import TOO_LARGE
from embedkq.worker.consumer_thread.committer import Committer

logger = SafeLogger("embedkq.worker")

_CHECK_SECONDS = 0.01


class Assignment:
    """The partitions of one consumer and the epoch of each, which no later assignment of it has
    again."""

    def __init__(
        self,
        shared: SharedState,
        committer: Committer,
        tell: Callable[[Message], None],
        revoke_seconds: float,
    ) -> None:
        self.joined = threading.Event()
        """Set while partitions are assigned, be it none; not before the first time, and not after
        all were lost."""
        self.lost = False
        """Set when partitions were lost; the consumer's thread sets it back."""
        self.confirmed: dict[int, int] = {}
        """Offsets of partitions that went away, as they were last committed."""
        self.fresh: set[int] = set()
        """Assigned, but where they begin is not known yet. The consumer's thread takes them out."""
        self.leaving = False
        """Set when the consumer closes: nothing runs any more, so nothing is waited for."""
        self.stopping = False
        """Set when the worker is asked to stop: whatever ends it from now on, none of its jobs is
        to blame."""
        self.left_uncommitted = False
        """Whether something that is done went away, while the worker stopped, before it could be
        committed."""
        self._shared = shared
        self._committer = committer
        self._tell = tell
        self._revoke_seconds = revoke_seconds
        self._epochs: dict[int, int] = {}
        self._settling: list[Revoked] = []
        self._new_epoch = itertools.count(1)
        self._changing = threading.Lock()

    def epoch(self, partition: int) -> int | None:
        """Of the partition's present assignment; None if it is not ours. Any thread."""
        return self._epochs.get(partition)

    @property
    def partitions(self) -> list[int]:
        """Those that are ours. Any thread."""
        return list(self._epochs)

    def committable(self) -> dict[int, Progress]:
        """What may be committed of the partitions that are ours. Any thread."""
        return self._committable(dict(self._epochs), given_up=self.leaving or self.stopping)

    def lose_all(self) -> None:
        """The consumer is thrown away: nothing is ours any more, nothing of it may be committed.
        Consumer's thread."""
        self.joined.clear()
        self._lose(frozenset(self._epochs))

    def begin_anew(self, partitions: frozenset[int]) -> None:
        """The logs of these start anew: what is known of them counts no more, and must not be
        committed. Consumer's thread."""
        with self._changing:
            begun = frozenset(
                self._take_out(frozenset(partitions & self._epochs.keys() - self.fresh))
            )
            self._add(begun)
        self._tell_lost(begun)

    def listener(self, kafka: Any) -> AsyncConsumerRebalanceListener:
        """What the client calls; `kafka` is the client."""
        return _Listener(self, kafka)

    def add(self, partitions: frozenset[int]) -> None:
        """These are ours from now on. I/O thread."""
        self._shared.host_cpu.leave_out_this_thread()
        with self._changing:
            self._add(partitions)
        self.joined.set()

    async def give_up(self, kafka: Any, partitions: frozenset[int], lost: bool) -> None:
        """These go away: what runs of them may end, what is done is committed, unless they are
        another's already. I/O thread."""
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
        self._tell(message)
        self._settling.append(message)
        if self.leaving:
            await self._settle(kafka, message, begun, committed)
        else:
            # the partitions that stay go on meanwhile; nobody else has these before this consumer
            # takes part in another rebalance
            kafka.rejoin_after(self._settle, kafka, message, begun, committed)

    @property
    def settles(self) -> bool:
        """Whether partitions that go away wait for their jobs, or for their commit. Any thread."""
        return bool(self._settling)

    async def _settle(
        self,
        kafka: Any,
        message: Revoked,
        begun: Mapping[int, int],
        committed: Mapping[int, Progress],
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
            if not self.leaving:  # the engine tells at the end of a stop, once
                logger.warning(
                    "The offsets of partitions %s could not be committed before they were given up"
                    " (%r): what was done of them since the last commit runs again.",
                    sorted(wanted),
                    error,
                )
        self._release(message)

    def _release(self, message: Revoked) -> None:
        if message in self._settling:
            self._settling.remove(message)
            self._tell(Released(message.partitions))

    def _release_all(self) -> None:
        """This consumer is no member any more: others may have by now what it was about to give
        up."""
        for message in list(self._settling):
            self._release(message)

    async def _commit(self, kafka: Any, wanted: Mapping[int, Progress]) -> None:
        requests = self._committer.requests(wanted)
        while (request := requests.next_request()) is not None:
            try:
                await kafka.within(
                    kafka.commit_async(request), self._shared.deadline.left(TIMEOUT_SECONDS)
                )
            except TOO_LARGE as error:
                requests.refused(error)

    def _lose(self, partitions: frozenset[int]) -> None:
        self._release_all()
        if self.stopping and self._committer.lacks(
            self._committable({p: e for p, e in self._epochs.items() if p in partitions})
        ):
            self.left_uncommitted = True
        with self._changing:
            begun = self._take_out(partitions)
        self._tell_lost(frozenset(begun))

    def _tell_lost(self, partitions: frozenset[int]) -> None:
        if partitions:
            self._tell(Revoked(partitions, lost=True))
            self.lost = True

    def _add(self, partitions: frozenset[int]) -> None:
        for partition in partitions:
            self._epochs[partition] = next(self._new_epoch)
            self.fresh.add(partition)

    def _take_out(self, partitions: frozenset[int]) -> dict[int, int]:
        """Those of the partitions that had begun, with their epochs; none of them is ours any
        more."""
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
        epochs: Mapping[int, int],
        snapshot: Mapping[int, Progress] | None = None,
        given_up: bool = False,
    ) -> dict[int, Progress]:
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
            # The client's loop has no way to wait for another thread; asleep in it, heartbeats go
            # on.
            await kafka.sleep(_CHECK_SECONDS)


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, assignment: Assignment, kafka: Any) -> None:
        self._assignment = assignment
        self._kafka = kafka

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._assignment.add(_numbers(assigned))

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._assignment.give_up(self._kafka, _numbers(revoked), lost=False)

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        await self._assignment.give_up(self._kafka, _numbers(lost), lost=True)


def _numbers(partitions: set[TopicPartition]) -> frozenset[int]:
    return frozenset(tp.partition for tp in partitions)
