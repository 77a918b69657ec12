"""The only KafkaConsumer: polls, commits and follows rebalances, on a thread of its own.

It always polls for half a second or more: a poll that times out between JoinGroup and SyncGroup can leave kafka-python 3 evicted
from its group for ever while it goes on returning records (seen with poll(0) and poll(20), never from 100 ms on).
"""
from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.structs import OffsetAndMetadata

from embedkq.errors import BrokerUnavailable, Closed, WorkerFailed
from embedkq.worker import donemap
from embedkq.worker.backlog import size_of
from embedkq.worker.exchange import Exchange
from embedkq.worker.messages import Assigned, Batch, ConsumerFailed, Released, Revoked, Targets
from embedkq.worker.offsets import Progress

logger = logging.getLogger("embedkq.worker")

OWNED_OPTIONS = (
    "bootstrap_servers", "group_id", "enable_auto_commit", "auto_offset_reset", "key_deserializer", "value_deserializer",
    "consumer_timeout_ms",
)
"""Options of kafka-python that embedkq sets itself."""
CONNECT_SECONDS = 10.0
_POLL_MILLISECONDS = 500
_ROOM_SECONDS = 0.2
_COMMIT_SECONDS = 0.25
_COMMIT_TIMEOUT_MILLISECONDS = 5_000
_UNKNOWN_TOPIC_SECONDS = 15.0
_REVOCATION_CHECK_SECONDS = 0.01
_FINAL_COMMIT_SECONDS = 5.0
_CLOSE_MILLISECONDS = 2_000
_FATAL = (
    kafka_errors.AuthorizationError,
    kafka_errors.SaslAuthenticationFailedError,
    kafka_errors.FencedInstanceIdError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.InvalidTopicError,
    kafka_errors.InconsistentGroupProtocolError,
    kafka_errors.InvalidSessionTimeoutError,
)


class Consumer:
    """One member of the consumer group. `run` is the thread's; `stop` and `ask_ends` are for any thread."""

    def __init__(
        self, exchange: Exchange, *, hosts: str, topic: str, group: str, offset_policy: str, job_size: int,
        revoke_timeout: float, options: Mapping[str, Any],
    ) -> None:
        self.connected: Future[None] = Future()
        """Done once the broker has answered, or could not be reached."""
        self.joined = threading.Event()
        """Set once partitions were assigned for the first time."""
        self.last_poll = self.last_commit = time.monotonic()
        self._exchange = exchange
        self._hosts = hosts
        self._topic = topic
        self._group = group
        self._revoke_timeout = revoke_timeout
        self._options = {
            "fetch_max_wait_ms": 500,
            "max_partition_fetch_bytes": max(1024 * 1024, job_size + 64 * 1024),
            "partition_assignment_strategy": [CooperativeStickyAssignor],
            "metrics_enabled": False,
            **options,
            "bootstrap_servers": hosts.split(","),
            "group_id": group,
            "auto_offset_reset": offset_policy,
            "enable_auto_commit": False,
            "bootstrap_timeout_ms": int(CONNECT_SECONDS * 1000) - 500,
        }
        self._session_seconds = self._options.get("session_timeout_ms", 45_000) / 1000
        self._kafka: Any = None
        self._epochs: dict[int, int] = {}
        self._new_epoch = itertools.count(1)
        self._fresh: set[int] = set()
        self._requests: deque[threading.Event] = deque()
        self._committed: dict[int, Progress] = {}
        self._refused_since: float | None = None
        self._stopping = False

    # For other threads.

    def stop(self) -> None:
        """Commit what may be committed and leave, within about half a second. Any thread, also a signal handler."""
        self._stopping = True

    def ask_ends(self, reached: threading.Event) -> None:
        """Have `reached` set once all that the partitions hold then is done. Any thread."""
        self._requests.append(reached)

    # The thread.

    def run(self) -> None:
        """Connect, then turn until stopped; whatever ends it early is told to the worker's thread."""
        try:
            self._connect()
        except BaseException as error:  # noqa: BLE001  (the starter gets it)
            self.connected.set_exception(error)
            self._close()
            return
        self.connected.set_result(None)
        try:
            self._await_topic()
            while not self._stopping:
                self.turn()
            self._commit_finally()
        except Exception as error:  # noqa: BLE001  (the worker fails with it)
            self._tell(ConsumerFailed(self._explained(error)))
        finally:
            self._close()

    def turn(self) -> None:
        """Wait for room, poll, pass on, commit."""
        has_room = self._exchange.backlog.wait_for_room(_ROOM_SECONDS)
        self._steer(has_room)
        polled = self._kafka.poll(_POLL_MILLISECONDS)
        self.last_poll = time.monotonic()
        for partition in list(self._fresh):
            self._begin(partition, polled)
        for topic_partition, records in polled.items():
            self._pass_on(topic_partition, records)
        self._answer_requests()
        self._commit_if_due()

    def _connect(self) -> None:
        try:
            self._kafka = KafkaConsumer(**self._options)
        except (kafka_errors.NoBrokersAvailable, kafka_errors.KafkaTimeoutError, kafka_errors.KafkaConnectionError) as error:
            raise BrokerUnavailable(self._hosts, f"no answer within {CONNECT_SECONDS:g} s ({_name(error)})") from error
        # In this order: joining before the topic is known gives an empty assignment until the next refresh of the metadata, and
        # asking before subscribing sets off a second rejoin.
        self._kafka.subscribe([self._topic], listener=_Listener(self))

    def _await_topic(self) -> None:
        deadline = time.monotonic() + _UNKNOWN_TOPIC_SECONDS
        while not self._stopping and not self._kafka.partitions_for_topic(self._topic):
            if time.monotonic() > deadline:
                raise WorkerFailed(
                    f"topic {self._topic!r} does not exist at {self._hosts}, and the broker does not create it: create it first"
                )
            time.sleep(0.05)

    # Records.

    def _steer(self, has_room: bool) -> None:
        """Pause what must not be fetched now, resume the rest; a pause does not survive a rebalance."""
        assigned, paused = self._kafka.assignment(), self._kafka.paused()
        if has_room:
            hot = self._exchange.hot
            wanted = {tp for tp in assigned if tp.partition in hot} if hot else set()
        else:
            wanted = set(assigned)
        if wanted != paused:
            self._kafka.pause(*(wanted - paused))
            self._kafka.resume(*((paused - wanted) & assigned))

    def _begin(self, partition: int, polled: Mapping[TopicPartition, list[Any]]) -> None:
        """Tell the worker's thread where a partition that was assigned begins, before any record of it."""
        topic_partition = TopicPartition(self._topic, partition)
        epoch = self._epochs.get(partition)
        records = polled.get(topic_partition)
        try:
            committed = self._kafka.committed(topic_partition, metadata=True, timeout_ms=_COMMIT_TIMEOUT_MILLISECONDS)
            known = committed is not None and committed.offset >= 0
            if known:
                start, metadata = committed.offset, committed.metadata or ""
            else:
                position = self._kafka.position(topic_partition, timeout_ms=_COMMIT_TIMEOUT_MILLISECONDS)
                start, metadata = records[0].offset if records else position, ""
        except kafka_errors.IllegalStateError:
            self._fresh.discard(partition)  # no longer ours
            return
        except _FATAL:
            raise
        except kafka_errors.KafkaError as error:
            logger.debug("The committed offset of partition %d is not known yet: %r", partition, error)
            start = None
        if epoch is None or start is None or self._epochs.get(partition) != epoch:
            self._seek_back(topic_partition, records)
            return
        self._fresh.discard(partition)
        self._tell(Assigned(partition, epoch, start, metadata))

    def _seek_back(self, topic_partition: TopicPartition, records: list[Any] | None) -> None:
        if records:
            try:
                self._kafka.seek(topic_partition, records[0].offset)
            except kafka_errors.IllegalStateError:
                pass  # no longer ours
            records.clear()

    def _pass_on(self, topic_partition: TopicPartition, records: list[Any]) -> None:
        partition = topic_partition.partition
        epoch = self._epochs.get(partition)
        if not records or epoch is None or partition in self._fresh:
            self._seek_back(topic_partition, records)
            return
        try:
            position = self._kafka.position(topic_partition)
        except kafka_errors.IllegalStateError:
            return
        self._exchange.backlog.coming(len(records), sum(map(size_of, records)))
        self._tell(Batch(partition, epoch, records, position))

    def _answer_requests(self) -> None:
        if not self._requests or not self.joined.is_set() or self._fresh:
            return
        partitions = [TopicPartition(self._topic, partition) for partition in self._epochs]
        try:
            ends = self._kafka.end_offsets(partitions, timeout_ms=_COMMIT_TIMEOUT_MILLISECONDS) if partitions else {}
        except kafka_errors.KafkaError as error:
            logger.debug("The end offsets are not known yet: %r", error)
            return
        targets = {tp.partition: end for tp, end in ends.items()}
        while self._requests:
            self._tell(Targets(self._requests.popleft(), targets))

    def _tell_positions(self) -> None:
        """What holds no record any more (transaction markers, compacted) moves a position without a batch."""
        for partition, epoch in list(self._epochs.items()):
            if partition not in self._fresh:
                try:
                    position = self._kafka.position(TopicPartition(self._topic, partition))
                except kafka_errors.IllegalStateError:
                    continue
                progress = self._exchange.snapshot.get(partition)
                if position is not None and progress is not None and progress.offset < position:
                    self._tell(Batch(partition, epoch, (), position))

    # Commits.

    def _commit_if_due(self) -> None:
        since = time.monotonic() - self.last_commit
        if since < _COMMIT_SECONDS:
            return
        self._tell_positions()
        wanted = self._committable()
        # With nothing new it is committed again now and then: otherwise nobody would notice a membership that is dead.
        if wanted and (wanted != self._committed or since > self._session_seconds / 3):
            self.last_commit = time.monotonic()
            self._commit(wanted)

    def _committable(self) -> dict[int, Progress]:
        snapshot = self._exchange.snapshot
        return {p: progress for p, progress in snapshot.items() if self._epochs.get(p) == progress.epoch}

    def _commit(self, wanted: dict[int, Progress]) -> bool:
        try:
            self._kafka.commit(self._offsets(wanted), timeout_ms=_COMMIT_TIMEOUT_MILLISECONDS)
        except _FATAL:
            raise
        except kafka_errors.KafkaError as error:
            if self._refused_since is None:
                self._refused_since = time.monotonic()
            logger.debug("A commit was refused and will be tried again: %r", error)
            return False
        self._committed = wanted
        self._refused_since = None
        return True

    def _offsets(self, wanted: Mapping[int, Progress]) -> dict[TopicPartition, OffsetAndMetadata]:
        return {
            TopicPartition(self._topic, partition): OffsetAndMetadata(
                progress.offset, donemap.encode(progress.offset, progress.done)[0], -1
            )
            for partition, progress in wanted.items()
        }

    def _commit_finally(self) -> None:
        deadline = time.monotonic() + _FINAL_COMMIT_SECONDS
        while (wanted := self._committable()) and wanted != self._committed and not self._commit(wanted):
            if time.monotonic() > deadline:
                logger.warning("The last offsets could not be committed: jobs that are done may run again.")
                return
            self._steer(has_room=False)
            self._kafka.poll(_POLL_MILLISECONDS)  # lets a rebalance that is under way get on

    def _close(self) -> None:
        if self._kafka is None:
            return
        logger.info("Closing consumer ...")
        try:
            self._kafka.close(autocommit=False, timeout_ms=_CLOSE_MILLISECONDS)
        except Exception as error:  # noqa: BLE001  (it is being thrown away)
            logger.debug("Closing the consumer: %r", error)

    # Rebalances, on the client's I/O thread, which also sends the heartbeats: nothing here may block.

    def assigned(self, partitions: set[TopicPartition]) -> None:
        """These partitions are ours from now on."""
        for topic_partition in partitions:
            self._epochs[topic_partition.partition] = next(self._new_epoch)
            self._fresh.add(topic_partition.partition)
        self.joined.set()

    async def revoked(self, topic_partitions: set[TopicPartition], lost: bool) -> None:
        """These partitions go away: what runs of them may end, what is done is committed."""
        partitions = frozenset(tp.partition for tp in topic_partitions)
        message = Revoked(partitions, lost)
        begun = {p: self._epochs.pop(p) for p in partitions if p in self._epochs and p not in self._fresh}
        for partition in partitions:
            self._epochs.pop(partition, None)
            self._fresh.discard(partition)
            self._committed.pop(partition, None)
        if not begun:
            return
        self._tell(message)
        if lost:
            return
        await self._until_settled(message)
        snapshot = message.snapshot if message.settled else self._exchange.snapshot
        wanted = {p: snapshot[p] for p, epoch in begun.items() if p in snapshot and snapshot[p].epoch == epoch}
        try:
            if wanted:
                await self._kafka.commit_async(self._offsets(wanted))
        except kafka_errors.KafkaError as error:
            logger.warning("Offsets of partitions %s could not be committed before they were given up (%r): "
                           "jobs that are done may run again.", sorted(wanted), error)
        self._tell(Released(partitions))

    async def _until_settled(self, message: Revoked) -> None:
        deadline = time.monotonic() + self._revoke_timeout
        while not (message.settled or self._stopping) and time.monotonic() < deadline:
            # The client's loop has no public way to wait for another thread; sleeping there lets its heartbeats go on.
            await self._kafka._net.sleep(_REVOCATION_CHECK_SECONDS)

    def _tell(self, message: Any) -> None:
        try:
            self._exchange.inbox.put(message)
        except Closed:  # the worker's thread has ended; what it has published stands
            self._stopping = True

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, kafka_errors.AuthorizationError):
            return WorkerFailed(f"{error}: grant this user the right to read topic {self._topic!r} and group {self._group!r}")
        return error


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        self._consumer.assigned(assigned)

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._consumer.revoked(revoked, lost=False)

    async def on_partitions_lost(self, lost: set[TopicPartition]) -> None:
        await self._consumer.revoked(lost, lost=True)


def _name(error: BaseException) -> str:
    return type(error).__name__
