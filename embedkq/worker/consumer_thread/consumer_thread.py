"""The consumer thread: polls, commits and follows rebalances.

It always polls for half a second or more. If a poll times out between JoinGroup and SyncGroup,
kafka-python 3 can stay evicted from its group forever and still return records (seen with poll(0)
and poll(20), never with 100 ms or more).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from embedkq._clients.broker_errors import Asked, explained
from embedkq._clients.consumer import (
    CLOSE_SECONDS,
    CONNECT_SECONDS,
    ConsumerClient,
    all_options,
)
from embedkq._clients.names import kafka_errors
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.errors import BrokerUnavailable, Closed, WorkerError
from embedkq.worker.between_threads.messages import (
    Assigned,
    Batch,
    ConsumerFailed,
    Message,
)
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.between_threads.shortage import RETRY_SECONDS, cure_for, is_shortage
from embedkq.worker.consumer_thread.assignment import Assignment
from embedkq.worker.consumer_thread.broker_watch import BrokerWatch
from embedkq.worker.consumer_thread.committer import (
    FATAL,
    FINAL_COMMIT_SECONDS,
    PAUSE_SECONDS,
    Committer,
)
from embedkq.worker.consumer_thread.drain_requests import DrainRequests
from embedkq.worker.consumer_thread.held_partitions import HeldPartitions
from embedkq.worker.consumer_thread.log_ends import LogEnds
from embedkq.worker.consumer_thread.log_watch import LogWatch
from embedkq.worker.consumer_thread.membership import Membership
from embedkq.worker.consumer_thread.poll_throttle import PollThrottle
from embedkq.worker.consumer_thread.timeouts import revoke_limit
from embedkq.worker.consumer_thread.topic_watch import TopicWatch
from embedkq.worker.consumer_thread.validator import PlainRecordValidator, RecordValidator

logger = SafeLogger("embedkq.worker")

_POLL_SECONDS, _SHORTEST_POLL_SECONDS = 0.5, 0.1
_ROOM_SECONDS = 0.2
_POSITIONS_SECONDS = 1.0
_TOPIC_GONE = (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.UnknownTopicIdError)


class ConsumerThread:
    """A member of the consumer group.

    `run` is the thread's function. The methods above it are for other threads.
    """

    _client: ConsumerClient | None = None
    _committed_finally: bool | None = None
    keeps_trying = False
    """Whether to keep trying if the broker does not answer at the start. Set before the thread
    starts."""
    last_poll: float | None = None
    """`time.monotonic()` of the last poll."""

    def __init__(
        self,
        shared: SharedState,
        *,
        hosts: str,
        topic: str,
        group: str,
        offset_policy: str,
        job_size: int,
        validator: RecordValidator | PlainRecordValidator,
        revoke_timeout: float,
        options: Mapping[str, Any],
    ) -> None:
        self.connected: Future[None] = Future()
        """Done once the broker has answered, or could not be reached."""
        self.last_turn = time.monotonic()
        """`time.monotonic()` at the beginning of the last turn."""
        self.on_turn: Callable[[float], None] = _do_nothing
        """Called with `time.monotonic()` at each turn."""
        self.hosts = hosts
        self._shared = shared
        self._validator = validator
        self._topic, self._group = topic, group
        self._options = all_options(hosts=hosts, group=group, job_size=job_size, options=options)
        shared.session_seconds = session_seconds = self._options["session_timeout_ms"] / 1000
        self.committer = Committer(session_seconds)
        self.assignment = Assignment(
            shared, self.committer, self._send, revoke_limit(self._options, revoke_timeout)
        )
        self.topic = TopicWatch(Asked(hosts, "READ", topic, group), self._options)
        self._logs = LogWatch(offset_policy == "latest", self.assignment)
        self._membership = Membership(hosts, group, session_seconds, self._options)
        self._drains = DrainRequests(self.assignment, self._logs, self._send)
        self._beginning: set[Partition] = set()
        self._ends = LogEnds()
        self._held = HeldPartitions()
        self.broker = BrokerWatch(hosts, self._options)
        self._positions_at = 0.0
        self._throttle = PollThrottle(shared.host_cpu)
        self._stopping = threading.Event()

    # For other threads.

    def stop(self) -> None:
        """Commit and leave the group, within about half a second. Control thread."""
        self.assignment.leaving = True
        self._stopping.set()

    def request_end_offsets(self, milestone: Any) -> None:
        """Call `milestone.set()` once all records that the partitions hold now are done. Any
        thread."""
        self._drains.add(milestone)

    @property
    def has_committed_all(self) -> bool:
        """Whether all done records of its partitions are committed. Any thread."""
        if self.assignment.left_uncommitted:
            return False
        if self._committed_finally is None:
            return not self.committer.lacks(self.assignment.committable())
        return self._committed_finally

    def lag(self) -> dict[Partition, int]:
        """The number of records that are not done, by partition, as of the log ends of the last few
        seconds. Any thread."""
        return self._ends.lag(self.assignment.committable())

    @property
    def held(self) -> Mapping[Partition, str]:
        """Why partitions are held, by partition. Any thread."""
        return self._held.reasons

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the client's sockets."""
        if self._client is not None:
            self._client.close_after_fork()

    # The thread.

    def run(self) -> None:
        """Connect, then run turns until stopped. An error that ends the thread is sent to the
        control thread."""
        self._shared.host_cpu.leave_out_this_thread()
        try:
            self._client = self._connect_once_possible()
        except BaseException as error:  # noqa: BLE001  (start() raises it)
            self.connected.set_exception(explained(error, self.topic.asked))
            return
        self.connected.set_result(None)
        self.broker.is_back()
        try:
            while not self._stopping.is_set():
                self._turn_or_wait()
            self._committed_finally = False
            self._committed_finally = self._commit_finally()
        except Exception as error:  # noqa: BLE001  (the worker fails with it)
            self._send(ConsumerFailed(explained(error, self.topic.asked)))
        finally:
            logger.info("Closing consumer ...")
            self.assignment.leaving = True
            if self._client is not None:
                self._client.close(self._shared.deadline.left(CLOSE_SECONDS))
                # free the client's cluster metadata, which is large, even if the application keeps
                # the worker
                self._client = None

    def _turn_or_wait(self) -> None:
        try:
            if self._client is None:
                self._client = self._connect()
            self.turn(self._client)
            self.broker.turned()
        except (kafka_errors.KafkaError, BrokerUnavailable) as error:
            if isinstance(error, FATAL):
                raise
            if isinstance(error, _TOPIC_GONE) and self._client is not None:
                self._client.look_for_topic_again()  # `TopicWatch` decides whether it is gone
            else:
                self.broker.is_away(error)
            self.broker.raise_if_refused()
            self.broker.pause(self._stopping)
        except OSError as error:
            if not is_shortage(error):
                raise
            self.broker.is_away(error)
            self.broker.pause(self._stopping)

    def turn(self, client: ConsumerClient) -> None:
        """Wait for room, poll, pass records on, commit."""
        if time.monotonic() > self.last_turn + self._shared.session_seconds / 2:
            # This process was frozen. A commit shows whether its partitions are still assigned.
            self.committer.hurry()
        self.last_turn = time.monotonic()
        self.on_turn(self.last_turn)
        self._shared.host_cpu.sample(self.last_turn)
        client.set_paused(
            self._shared.hot if self._shared.backlog.wait_for_room(_ROOM_SECONDS) else None
        )
        if not self.topic.is_there(client):
            return
        self.committer.commit_as_asked(
            client.kafka, self._shared, self.assignment.committable, self._beginning
        )
        self._throttle.wait()
        if self._stopping.is_set():
            return
        # Do not poll beyond the deadline after which only the final commit counts.
        polled = client.poll(
            int(1000 * self._shared.deadline.until_kill(_SHORTEST_POLL_SECONDS, _POLL_SECONDS))
        )
        self.last_poll = time.monotonic()
        if self._stopping.is_set():  # these records will not run here
            return
        self._throttle.came(sum(map(len, polled.values())), self.last_poll)
        self._held.now(client.held())
        self._begin(client, polled)
        self._beginning.clear()
        for partition, records in polled.items():
            self._pass_on(client, partition, records)
        self._logs.look(client)
        self._drains.answer(client)
        self._send_positions(client)
        self._ends.refresh_paused(client)
        self._commit_if_due(client)
        if self._membership.is_lost(client, self.committer):
            self._replace(client)

    def _commit_if_due(self, client: ConsumerClient) -> None:
        if not self.committer.may_be_due():
            return
        wanted = self.assignment.committable()
        if self.committer.due(wanted) and self.committer.commit(client.kafka, wanted):
            self._shared.confirm(wanted)
            self.broker.is_back()

    def _connect(self) -> ConsumerClient:
        return ConsumerClient(self.hosts, self._topic, self.assignment, self._options)

    def _connect_once_possible(self) -> ConsumerClient:
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                return self._connect()
            except BrokerUnavailable as error:
                if not self.keeps_trying or self._stopping.is_set():
                    raise
                self.broker.is_away(error)
                self.broker.pause(self._stopping)
                continue
            except OSError as error:
                if not is_shortage(error):
                    raise
                if self._stopping.is_set() or time.monotonic() > deadline:
                    raise WorkerError(f"cannot connect to Kafka: {cure_for(error)}") from error
            self._stopping.wait(RETRY_SECONDS)

    def _replace(self, client: ConsumerClient) -> None:
        logger.warning(
            "Group %s no longer knows this consumer, and kafka-python has not noticed. Joining"
            " with a new consumer. Running jobs continue and will not be restarted.",
            self._group,
        )
        self.assignment.lose_all()
        self.committer.forget_all()
        self._logs.forget_client()
        self._client = None
        client.close()

    # Records.

    def _begin(self, client: ConsumerClient, polled: Mapping[Partition, list[Any]]) -> None:
        """Send the start offsets of newly assigned partitions to the control thread, before any of
        their records."""
        fresh = list(self.assignment.fresh)
        epochs = {partition: self.assignment.epoch(partition) for partition in fresh}
        if not fresh:
            return
        try:
            starts = self._logs.find_starts(client, fresh)
        except kafka_errors.KafkaError:
            for (
                partition,
                records,
            ) in (
                polled.items()
            ):  # the position is already behind these records, and nobody else has them
                client.rewind_to(partition, records)
            raise
        for partition in fresh:
            epoch = epochs[partition]
            if (
                epoch is None
                or partition not in starts
                or self.assignment.epoch(partition) != epoch
            ):
                client.rewind_to(partition, polled.get(partition))
            else:
                self.assignment.fresh.discard(partition)
                start, records = starts[partition], polled.get(partition, [])
                self._ends.begin(partition, start.end)
                self._send(
                    Assigned(
                        partition, epoch, start.offset, start.metadata, start.topic, start.life
                    )
                )
                if not self._logs.started(
                    client, partition, start, records[0].offset if records else None
                ):
                    records.clear()

    def _pass_on(self, client: ConsumerClient, partition: Partition, records: list[Any]) -> None:
        epoch = self.assignment.epoch(partition)
        if epoch is None or partition in self.assignment.fresh:
            client.rewind_to(partition, records)
        elif records:
            position = client.position(partition) or records[-1].offset + 1
            if not self._logs.is_sound(client, partition, records[0].offset, position):
                return
            runs = [self._validator.validate(partition, epoch, record) for record in records]
            if partition not in self._shared.begun and any(run.refusal is None for run in runs):
                self._beginning.add(partition)
            size = sum([run.size for run in runs])
            self._shared.backlog.reserve(len(runs), size)
            self._send(Batch(partition, epoch, runs, size, position))

    def _send_positions(self, client: ConsumerClient) -> None:
        """Send positions that moved without a batch, past transaction markers and compacted
        records."""
        if time.monotonic() < self._positions_at:
            return
        self._positions_at = time.monotonic() + _POSITIONS_SECONDS
        for partition, progress in self.assignment.committable().items():
            self._ends.note(partition, client.last_known_end(partition))
            position = client.position(partition)
            if position is not None:
                self._logs.moved(client, partition, position)
            if position is not None and progress.offset < position:
                self._send(Batch(partition, progress.epoch, (), 0, position))

    # The end.

    def _commit_finally(self) -> bool:
        """Commit what is done, before the stop's deadline. Returns whether all of it is
        committed."""
        deadline = time.monotonic() + FINAL_COMMIT_SECONDS
        while (
            self.assignment.settles
            and time.monotonic() < deadline
            and self._shared.deadline.left(1.0)
        ):
            time.sleep(PAUSE_SECONDS)
        return self._client is not None and self.committer.commit_finally(
            self._client, self._shared, self.assignment.committable
        )

    def _send(self, message: Message) -> None:
        try:
            self._shared.inbox.put(message)
        except Closed:  # the control thread has ended; its last snapshot stays valid
            self._stopping.set()


def _do_nothing(_: float) -> None:
    pass
