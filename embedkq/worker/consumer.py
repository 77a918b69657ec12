"""The only KafkaConsumer: polls, commits and follows rebalances, on a thread of its own.

It always polls for half a second or more: a poll that times out between JoinGroup and SyncGroup can leave kafka-python 3 evicted
from its group for ever while it goes on returning records (seen with poll(0) and poll(20), never from 100 ms on).
"""
from __future__ import annotations

import logging
import selectors
import socket
import time
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka import errors as kafka_errors
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor

from embedkq.errors import BrokerUnavailable, Closed, WorkerFailed
from embedkq.worker.assignment import Assignment
from embedkq.worker.backlog import size_of
from embedkq.worker.commits import FATAL, TIMEOUT_MILLISECONDS, Commits
from embedkq.worker.exchange import Exchange
from embedkq.worker.messages import Assigned, Batch, ConsumerFailed, Message, Targets

logger = logging.getLogger("embedkq.worker")

OWNED_OPTIONS = (
    "bootstrap_servers", "group_id", "enable_auto_commit", "auto_offset_reset", "key_deserializer", "value_deserializer",
    "consumer_timeout_ms", "selector",
)
"""Options of kafka-python that embedkq sets itself."""
KNOWN_OPTIONS = frozenset(KafkaConsumer.DEFAULT_CONFIG)
CONNECT_SECONDS = 10.0
_POLL_MILLISECONDS = 500
_ROOM_SECONDS = 0.2
_POSITIONS_SECONDS = 1.0
_UNKNOWN_TOPIC_SECONDS = 15.0
_FINAL_COMMIT_SECONDS = 5.0
_CLOSE_MILLISECONDS = 2_000
_LONGEST_PAUSE_SECONDS = 5.0


class Consumer:
    """One member of the consumer group. `run` is the thread's; `stop` and `ask_ends` are for any thread."""

    def __init__(
        self, exchange: Exchange, *, hosts: str, topic: str, group: str, offset_policy: str, job_size: int,
        revoke_timeout: float, options: Mapping[str, Any],
    ) -> None:
        self.connected: Future[None] = Future()
        """Done once the broker has answered, or could not be reached."""
        self.last_poll = time.monotonic()
        self._exchange = exchange
        self.hosts = hosts
        self._topic = topic
        self._group = group
        self._options = {
            "max_partition_fetch_bytes": max(1024 * 1024, job_size + 64 * 1024),
            "partition_assignment_strategy": [CooperativeStickyAssignor],
            "metrics_enabled": False,
            "reconnect_backoff_max_ms": 5_000,
            **options,
            "bootstrap_servers": hosts.split(","),
            "group_id": group,
            "auto_offset_reset": offset_policy,
            "enable_auto_commit": False,
            "bootstrap_timeout_ms": int(CONNECT_SECONDS * 1000) - 500,
        }
        session_seconds = self._options.get("session_timeout_ms", 45_000) / 1000
        self.commits = Commits(topic, session_seconds)
        self.assignment = Assignment(exchange, self.commits, self._tell, revoke_timeout)
        self._kafka: Any = None
        self._sockets: _RememberingSelector | None = None
        self._requests: deque[Any] = deque()
        self._positions_at = 0.0
        self._unknown_since: float | None = None
        self._away = False
        self._stopping = False

    # For other threads.

    def stop(self) -> None:
        """Commit what may be committed and leave, within about half a second. Any thread, also a signal handler."""
        self._stopping = True
        self.assignment.leaving = True

    def ask_ends(self, milestone: Any) -> None:
        """Have `milestone.set()` called once all that the partitions hold then is done. Any thread."""
        self._requests.append(milestone)

    def disinherit(self) -> None:
        """In a forked copy of the process: close its copies of the client's sockets; nobody there could use or close the client."""
        if self._sockets is not None:
            self._sockets.close_all()
        wakeup = getattr(getattr(self._kafka, "_net", None), "_wakeup_w", None)  # the one end that no selector sees
        if wakeup is not None:
            wakeup.close()

    # The thread.

    def run(self) -> None:
        """Connect, then turn until stopped; whatever ends it early is told to the worker's thread."""
        try:
            self._connect()
        except BaseException as error:  # noqa: BLE001  (the starter gets it)
            self.connected.set_exception(self._explained(error))
            self._close()
            return
        self.connected.set_result(None)
        try:
            pause = 0.1
            while not self._stopping:
                try:
                    self.turn()
                    pause = 0.1
                except kafka_errors.KafkaError as error:
                    if isinstance(error, FATAL):
                        raise
                    self._broker_away(error)
                    time.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            self._commit_finally()
        except Exception as error:  # noqa: BLE001  (the worker fails with it)
            self._tell(ConsumerFailed(self._explained(error)))
        finally:
            self._close()

    def turn(self) -> None:
        """Wait for room, poll, pass on, commit."""
        self._steer(self._exchange.backlog.wait_for_room(_ROOM_SECONDS))
        if not self._topic_is_known():
            return
        polled = self._kafka.poll(_POLL_MILLISECONDS)
        self.last_poll = time.monotonic()
        for partition in list(self.assignment.fresh):
            self._begin(partition, polled)
        for topic_partition, records in polled.items():
            self._pass_on(topic_partition, records)
        self._answer_requests()
        self._tell_positions()
        wanted = self.assignment.committable()
        if self.commits.due(wanted) and self.commits.commit(self._kafka, wanted):
            self._broker_is_back()

    def _connect(self) -> None:
        try:
            self._kafka = KafkaConsumer(**self._options, selector=self._make_selector)
        except (kafka_errors.KafkaTimeoutError, kafka_errors.KafkaConnectionError) as error:
            reason = f"no answer within {CONNECT_SECONDS:g} s ({type(error).__name__})"
            raise BrokerUnavailable(self.hosts, reason) from error
        # In this order, and the topic known before the first poll: joining before gives an empty assignment until the next refresh
        # of the metadata, and asking before subscribing sets off a second rejoin.
        self._kafka.subscribe([self._topic], listener=self.assignment.listener(self._kafka))

    def _make_selector(self) -> _RememberingSelector:
        self._sockets = _RememberingSelector()
        return self._sockets

    def _topic_is_known(self) -> bool:
        if self._kafka.partitions_for_topic(self._topic):
            self._unknown_since = None
            return True
        self._unknown_since = self._unknown_since or time.monotonic()
        if time.monotonic() > self._unknown_since + _UNKNOWN_TOPIC_SECONDS:
            raise WorkerFailed(
                f"topic {self._topic!r} does not exist at {self.hosts} (any more) and the broker does not create it: "
                "create it, then start the worker again"
            )
        time.sleep(0.05)
        return False

    def _broker_away(self, error: BaseException) -> None:
        if not self._away:
            self._away = True
            logger.warning(
                "Kafka at %s does not answer (%r). It is tried again until it does; jobs that run go on, and what is done "
                "and not committed by then is committed then.", self.hosts, error,
            )

    def _broker_is_back(self) -> None:
        if self._away:
            self._away = False
            logger.info("Kafka at %s answers again.", self.hosts)

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
            try:
                self._kafka.pause(*(wanted - paused))
                self._kafka.resume(*((paused - wanted) & assigned))
            except (kafka_errors.IllegalStateError, KeyError):
                pass  # the assignment changed meanwhile; the next turn sees it

    def _begin(self, partition: int, polled: Mapping[TopicPartition, list[Any]]) -> None:
        """Tell the worker's thread where a partition that was assigned begins, before any record of it."""
        topic_partition = TopicPartition(self._topic, partition)
        epoch = self.assignment.epoch(partition)
        records = polled.get(topic_partition)
        try:
            committed = self._kafka.committed(topic_partition, metadata=True, timeout_ms=TIMEOUT_MILLISECONDS)
            if committed is not None and committed.offset >= 0:
                start, metadata = committed.offset, committed.metadata or ""
            else:
                position = self._kafka.position(topic_partition, timeout_ms=TIMEOUT_MILLISECONDS)
                start, metadata = records[0].offset if records else position, ""
        except kafka_errors.IllegalStateError:
            return  # no longer ours: the listener has taken it out of the fresh ones, or is about to
        except kafka_errors.KafkaError:
            self._seek_back(topic_partition, records)
            raise
        if epoch is None or start is None or self.assignment.epoch(partition) != epoch:
            self._seek_back(topic_partition, records)
            return
        self.assignment.fresh.discard(partition)
        self._tell(Assigned(partition, epoch, start, metadata))

    def _pass_on(self, topic_partition: TopicPartition, records: list[Any]) -> None:
        partition = topic_partition.partition
        epoch = self.assignment.epoch(partition)
        if epoch is None or partition in self.assignment.fresh:
            self._seek_back(topic_partition, records)
        elif records:
            position = self._position(topic_partition)
            self._exchange.backlog.coming(len(records), sum(map(size_of, records)))
            self._tell(Batch(partition, epoch, records, position or records[-1].offset + 1))

    def _seek_back(self, topic_partition: TopicPartition, records: list[Any] | None) -> None:
        """These records were polled too early or too late: they are polled again, by whoever owns the partition."""
        if records:
            try:
                self._kafka.seek(topic_partition, records[0].offset)
            except kafka_errors.IllegalStateError:
                pass  # no longer ours
            records.clear()

    def _answer_requests(self) -> None:
        if not self._requests or not self.assignment.joined.is_set() or self.assignment.fresh:
            return
        partitions = [TopicPartition(self._topic, partition) for partition in self.assignment.partitions]
        ends = self._kafka.end_offsets(partitions, timeout_ms=TIMEOUT_MILLISECONDS) if partitions else {}
        targets = {tp.partition: end for tp, end in ends.items()}
        while self._requests:
            self._tell(Targets(self._requests.popleft(), targets))

    def _tell_positions(self) -> None:
        """What holds no record for us (transaction markers, compacted) moves a position without a batch."""
        if time.monotonic() < self._positions_at:
            return
        self._positions_at = time.monotonic() + _POSITIONS_SECONDS
        for partition, progress in self.assignment.committable().items():
            position = self._position(TopicPartition(self._topic, partition))
            if position is not None and progress.offset < position:
                self._tell(Batch(partition, progress.epoch, (), position))

    def _position(self, topic_partition: TopicPartition) -> int | None:
        try:
            position: int | None = self._kafka.position(topic_partition, timeout_ms=0)
        except kafka_errors.IllegalStateError:
            return None  # no longer ours
        return position

    # The end.

    def _commit_finally(self) -> None:
        deadline = time.monotonic() + _FINAL_COMMIT_SECONDS
        while (wanted := self.assignment.committable()) and self.commits.pending(wanted):
            try:
                if self.commits.commit(self._kafka, wanted):
                    return
                self._steer(has_room=False)
                self._kafka.poll(_POLL_MILLISECONDS)  # lets a rebalance that is under way get on
            except kafka_errors.KafkaError as error:
                self._broker_away(error)
            if time.monotonic() > deadline:
                logger.warning("The last offsets could not be committed: jobs that are done since the last commit run again.")
                return

    def _close(self) -> None:
        if self._kafka is None:
            return
        logger.info("Closing consumer ...")
        self.assignment.leaving = True
        try:
            self._kafka.close(autocommit=False, timeout_ms=_CLOSE_MILLISECONDS)
        except Exception as error:  # noqa: BLE001  (it is being thrown away)
            logger.debug("Closing the consumer: %r", error)

    def _tell(self, message: Message) -> None:
        try:
            self._exchange.inbox.put(message)
        except Closed:  # the worker's thread has ended; what it has published stands
            self._stopping = True

    def _explained(self, error: BaseException) -> BaseException:
        if isinstance(error, kafka_errors.AuthorizationError):
            return WorkerFailed(
                f"{type(error).__name__}: {error}. Grant this user the right to read topic {self._topic!r} "
                f"and group {self._group!r} at {self.hosts}"
            )
        return error


class _RememberingSelector(selectors.DefaultSelector):
    """Knows every socket that the client has used, so that a forked copy of the process can close its copies."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if isinstance(fileobj, socket.socket):
            self._seen.add(fileobj)
        return super().register(fileobj, events, data)

    def close_all(self) -> None:
        """Close the sockets and the selector's own descriptor; unregistering would reach through to the parent's."""
        for seen in list(self._seen):
            seen.close()
        self.close()
