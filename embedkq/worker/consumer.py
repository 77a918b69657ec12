"""Consumer: polls, commits and follows rebalances, on a thread of its own.

It always polls for half a second or more: a poll that times out between JoinGroup and SyncGroup can leave kafka-python 3 evicted
from its group for ever while it goes on returning records (seen with poll(0) and poll(20), never from 100 ms on).
"""
from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from kafka import errors as kafka_errors

from embedkq import donemap
from embedkq.broker_errors import Asked, explained
from embedkq.errors import BrokerRefused, BrokerUnavailable, Closed, WorkerError
from embedkq.probe import refused_for_good
from embedkq.record_reader import Held
from embedkq.safe_logging import SafeLogger
from embedkq.worker.assignment import Assignment
from embedkq.worker.client import CLOSE_SECONDS, CONNECT_SECONDS, Client, options_of
from embedkq.worker.commits import FATAL, FINAL_COMMIT_SECONDS, PAUSE_SECONDS, Commits
from embedkq.worker.exchange import Exchange
from embedkq.worker.gate import Gate
from embedkq.worker.gathering import Gathering
from embedkq.worker.health import Watch
from embedkq.worker.log_watch import LogWatch
from embedkq.worker.membership import Membership
from embedkq.worker.messages import Assigned, Batch, ConsumerFailed, Message, Targets
from embedkq.worker.shortage import RETRY_SECONDS, cure_for, is_shortage
from embedkq.worker.timeouts import revoke_seconds_of
from embedkq.worker.topic_watch import TopicWatch

logger = SafeLogger("embedkq.worker")

_POLL_SECONDS, _SHORTEST_POLL_SECONDS = 0.5, 0.1
_ROOM_SECONDS = 0.2
_POSITIONS_SECONDS = 1.0
_ENDS_SECONDS, _ENDS_MILLISECONDS = 2.0, 1_000
_SHORTEST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_ASK_WHY_SECONDS = 3.0
_TOPIC_GONE = (kafka_errors.UnknownTopicOrPartitionError, kafka_errors.UnknownTopicIdError)


class Consumer:
    """One member of the consumer group. `run` is the thread's; `stop` and `ask_ends` are for any thread."""

    def __init__(
        self, exchange: Exchange, *, hosts: str, topic: str, group: str, offset_policy: str, job_size: int,
        gate: Gate, revoke_timeout: float, options: Mapping[str, Any],
    ) -> None:
        self.connected: Future[None] = Future()
        """Done once the broker has answered, or could not be reached."""
        self.keeps_trying = False
        """Whether it looks on for a broker that is away at the start. Set before the thread begins."""
        self.last_poll: float | None = None
        """`time.monotonic()` at which Kafka was last asked for records."""
        self.last_turn = time.monotonic()
        """`time.monotonic()` at which the thread last began a turn."""
        self.watch: Watch | None = None
        self.hosts = hosts
        self._exchange = exchange
        self._gate = gate
        self._topic = topic
        self._group = group
        self._options = options_of(hosts=hosts, group=group, job_size=job_size, options=options)
        exchange.session_seconds = session_seconds = self._options["session_timeout_ms"] / 1000
        self.commits = Commits(topic, session_seconds)
        self.assignment = Assignment(exchange, self.commits, self._tell, revoke_seconds_of(self._options, revoke_timeout))
        self.topic = TopicWatch(Asked(hosts, "READ", topic, group), self._options)
        self._logs = LogWatch(topic, offset_policy == "latest", self.assignment)
        self._membership = Membership(hosts, group, session_seconds, self._options)
        self._client: Client | None = None
        self._requests: deque[Any] = deque()
        self._awaited: list[Any] = []
        """Milestones whose targets were told, and which may not be reached yet."""
        self._beginning: set[int] = set()
        self._ends: dict[int, int] = {}
        self.held: dict[int, str] = {}
        """Why nothing of a partition can be read for the moment. Replaced by the consumer's thread, any thread reads it."""
        self._positions_at = self._ends_at = 0.0
        self.away_since: float | None = None
        """`time.monotonic()` since which the broker does not answer; None if it does."""
        self._pause, self._asked_why = _SHORTEST_PAUSE_SECONDS, 0.0
        self._gathering = Gathering(exchange.host_load)
        self._stopping = threading.Event()
        self._committed_finally: bool | None = None

    # For other threads.

    def stop(self) -> None:
        """Commit what may be committed and leave, within about half a second. Worker's thread."""
        self.assignment.leaving = True
        self._stopping.set()

    def ask_ends(self, milestone: Any) -> None:
        """Have `milestone.set()` called once all that the partitions hold then is done. Any thread."""
        self._requests.append(milestone)

    @property
    def has_committed_all(self) -> bool:
        """Whether all that is done of its partitions is committed. Any thread."""
        if self.assignment.left_uncommitted:
            return False
        if self._committed_finally is None:
            return not self.commits.lacks(self.assignment.committable())
        return self._committed_finally

    def lag(self) -> dict[int, int]:
        """Records that are not done, by partition, as of the ends that Kafka told within the last seconds. Any thread."""
        return {
            partition: donemap.lag(0, max(end, progress.offset), progress.offset, progress.done)
            for partition, progress in self.assignment.committable().items()
            if (end := self._ends.get(partition)) is not None
        }

    def disinherit(self) -> None:
        """In a forked copy of the process: close its copies of the client's sockets."""
        if self._client is not None:
            self._client.disinherit()

    # The thread.

    def run(self) -> None:
        """Connect, then turn until stopped; whatever ends it early is told to the worker's thread."""
        self._exchange.host_load.leave_out_this_thread()
        try:
            self._client = self._connect_once_possible()
        except BaseException as error:  # noqa: BLE001  (the starter gets it)
            self.connected.set_exception(explained(error, self.topic.asked))
            return
        self.connected.set_result(None)
        self._broker_is_back()
        try:
            while not self._stopping.is_set():
                self._turn_or_wait()
            self._committed_finally = False
            self._committed_finally = self._commit_finally()
        except Exception as error:  # noqa: BLE001  (the worker fails with it)
            self._tell(ConsumerFailed(explained(error, self.topic.asked)))
        finally:
            logger.info("Closing consumer ...")
            self.assignment.leaving = True
            if self._client is not None:
                self._client.close(self._exchange.deadline.left(CLOSE_SECONDS))
                self._client = None  # a worker that has ended may be kept, and what it knew of the cluster is large

    def _turn_or_wait(self) -> None:
        try:
            if self._client is None:
                self._client = self._connect()
            self.turn(self._client)
            self._pause = _SHORTEST_PAUSE_SECONDS
        except (kafka_errors.KafkaError, BrokerUnavailable) as error:
            if isinstance(error, FATAL):
                raise
            self._broker_away(error)
            self._end_if_refused()
            self._wait_a_while()
        except OSError as error:
            if not is_shortage(error):
                raise
            self._broker_away(error)
            self._wait_a_while()

    def _wait_a_while(self) -> None:
        self._stopping.wait(self._pause)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)

    def turn(self, client: Client) -> None:
        """Wait for room, poll, pass on, commit."""
        if time.monotonic() > self.last_turn + self._exchange.session_seconds / 2:
            self.commits.hurry()  # this process was frozen: are the partitions still ours?
        self.last_turn = time.monotonic()
        if self.watch is not None:
            self.watch.look(self.last_turn)
        self._exchange.host_load.look(self.last_turn)
        client.steer(self._exchange.hot if self._exchange.backlog.wait_for_room(_ROOM_SECONDS) else None)
        if not self.topic.is_there(client):
            return
        self.commits.commit_as_asked(client.kafka, self._exchange, self.assignment.committable, self._beginning)
        self._gathering.wait()
        if self._stopping.is_set():
            return
        # Not beyond the moment from which on only the last commit counts.
        polled = client.poll(int(1000 * self._exchange.deadline.until_kill(_SHORTEST_POLL_SECONDS, _POLL_SECONDS)))
        self.last_poll = time.monotonic()
        if self._stopping.is_set():  # nothing of this will run here
            return
        self._gathering.came(sum(map(len, polled.values())), self.last_poll)
        self._tell_held(client.held())
        self._begin(client, polled)
        self._beginning.clear()
        for partition, records in polled.items():
            self._pass_on(client, partition, records)
        self._logs.look(client)
        self._answer_requests(client)
        self._tell_positions(client)
        self._look_for_ends(client)
        self._commit_if_due(client)
        if self._membership.is_lost(client, self.commits):
            self._replace(client)

    def _commit_if_due(self, client: Client) -> None:
        if not self.commits.may_be_due():
            return
        wanted = self.assignment.committable()
        if self.commits.due(wanted) and self.commits.commit(client.kafka, wanted):
            self._exchange.confirm(wanted)
            self._broker_is_back()

    def _connect(self) -> Client:
        return Client(self.hosts, self._topic, self.assignment.listener, self._options)

    def _connect_once_possible(self) -> Client:
        deadline = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                return self._connect()
            except BrokerUnavailable as error:
                if not self.keeps_trying or self._stopping.is_set():
                    raise
                self._broker_away(error)
                self._wait_a_while()
                continue
            except OSError as error:
                if not is_shortage(error):
                    raise
                if self._stopping.is_set() or time.monotonic() > deadline:
                    raise WorkerError(f"no connection to Kafka can be made: {cure_for(error)}") from error
            self._stopping.wait(RETRY_SECONDS)

    def _replace(self, client: Client) -> None:
        logger.warning(
            "Group %s does not know this consumer any more, which kafka-python has not noticed: a new one joins. "
            "What runs here goes on, and is not begun again.", self._group,
        )
        self.assignment.lose_all()
        self.commits.forget_all()
        self._logs.forget_client()
        self._client = None
        client.close()

    def _broker_away(self, error: BaseException) -> None:
        if isinstance(error, _TOPIC_GONE) and self._client is not None:
            self._client.look_for_topic_again()  # `topic` says whether it is gone
        elif self.away_since is None:
            self.away_since = time.monotonic()
            logger.warning(
                "Kafka at %s does not answer (%s). It is tried again until it does; jobs that run go on, and what is done "
                "and not committed by then is committed then.",
                self.hosts, cure_for(error) if isinstance(error, OSError) and is_shortage(error) else repr(error),
            )

    def _end_if_refused(self) -> None:
        """A certificate or password that was good when the worker started may be so no more; kafka-python would try for ever."""
        if time.monotonic() > self._asked_why + _ASK_WHY_SECONDS:
            reason = refused_for_good(self.hosts, self._options)
            self._asked_why = time.monotonic()
            if reason:
                raise BrokerRefused(reason)

    def _broker_is_back(self) -> None:
        if self.away_since is not None:
            self.away_since = None
            logger.info("Kafka at %s answers again.", self.hosts)

    # Records.

    def _begin(self, client: Client, polled: Mapping[int, list[Any]]) -> None:
        """Tell the worker's thread where the partitions that were assigned begin, before any record of them."""
        fresh = list(self.assignment.fresh)
        epochs = {partition: self.assignment.epoch(partition) for partition in fresh}
        if not fresh:
            return
        try:
            starts = self._logs.find_starts(client, fresh)
        except kafka_errors.KafkaError:
            for partition, records in polled.items():  # the position has passed all of them, and nobody else has them
                client.seek_back(partition, records)
            raise
        for partition in fresh:
            epoch = epochs[partition]
            if epoch is None or partition not in starts or self.assignment.epoch(partition) != epoch:
                client.seek_back(partition, polled.get(partition))
            else:
                self.assignment.fresh.discard(partition)
                start, records = starts[partition], polled.get(partition, [])
                self._ends[partition] = start.end
                self._tell(Assigned(partition, epoch, start.offset, start.metadata, start.topic, start.life))
                if not self._logs.begun(client, partition, start, records[0].offset if records else None):
                    records.clear()

    def _pass_on(self, client: Client, partition: int, records: list[Any]) -> None:
        epoch = self.assignment.epoch(partition)
        if epoch is None or partition in self.assignment.fresh:
            client.seek_back(partition, records)
        elif records:
            position = client.position(partition) or records[-1].offset + 1
            if not self._logs.is_sound(client, partition, records[0].offset, position):
                return
            runs = [self._gate.admit(partition, epoch, record) for record in records]
            if partition not in self._exchange.begun and any(run.refusal is None for run in runs):
                self._beginning.add(partition)
            size = sum([run.size for run in runs])
            self._exchange.backlog.coming(len(runs), size)
            self._tell(Batch(partition, epoch, runs, size, position))

    def _tell_held(self, held: Mapping[int, Held]) -> None:
        """Say once of each partition that it is held, and once that it is not any more."""
        if not held and not self.held:
            return
        told = {partition: f"the records from offset {each.offset} on {each.reason}" for partition, each in held.items()}
        for partition in told.keys() | self.held.keys():
            reason = told.get(partition)
            if reason is None:
                logger.info("Partition %d of topic %s is read again.", partition, self._topic)
            elif reason != self.held.get(partition):
                logger.warning(
                    "Partition %d of topic %s is held: %s. It is tried again every few seconds; the other partitions go on.",
                    partition, self._topic, reason,
                )
        self.held = told

    def _answer_requests(self, client: Client) -> None:
        self._awaited = [milestone for milestone in self._awaited if not milestone.reached]
        if self.assignment.lost:  # what was waited for may never come: whoever waits is told anew
            self.assignment.lost = False
            self._requests.extend(self._awaited)
            self._awaited = []
        if self._requests and self.assignment.joined.is_set() and not self.assignment.fresh:
            partitions = self.assignment.partitions
            targets = client.end_offsets(partitions)
            if not targets.keys() >= set(partitions) or not self._logs.see(client, targets):
                return  # their leader is found, or they begin anew, first
            while self._requests:
                self._awaited.append(self._requests.popleft())
                self._tell(Targets(self._awaited[-1], targets))

    def _tell_positions(self, client: Client) -> None:
        """What holds no record for us (transaction markers, compacted) moves a position without a batch."""
        if time.monotonic() < self._positions_at:
            return
        self._positions_at = time.monotonic() + _POSITIONS_SECONDS
        for partition, progress in self.assignment.committable().items():
            self._note_end(partition, client.last_known_end(partition))
            position = client.position(partition)
            if position is not None:
                self._logs.moved(client, partition, position)
            if position is not None and progress.offset < position:
                self._tell(Batch(partition, progress.epoch, (), 0, position))

    def _look_for_ends(self, client: Client) -> None:
        """What is paused is not fetched, so that no fetch tells how much came since."""
        if time.monotonic() < self._ends_at:
            return
        try:
            for partition, end in client.end_offsets(client.paused, _ENDS_MILLISECONDS).items():
                self._note_end(partition, end)
        except kafka_errors.KafkaError as error:  # an older end is known, and nothing but the lag depends on it
            logger.debug("The ends of paused partitions could not be asked for: %r", error)
        self._ends_at = time.monotonic() + _ENDS_SECONDS

    def _note_end(self, partition: int, end: int | None) -> None:
        if end is not None:
            self._ends[partition] = max(end, self._ends.get(partition, 0))

    # The end.

    def _commit_finally(self) -> bool:
        """Commit what is done, by the stop's deadline; whether all of it is committed."""
        deadline = time.monotonic() + FINAL_COMMIT_SECONDS
        while self.assignment.settles and time.monotonic() < deadline and self._exchange.deadline.left(1.0):
            time.sleep(PAUSE_SECONDS)
        return self._client is not None and self.commits.commit_finally(self._client, self._exchange, self.assignment.committable)

    def _tell(self, message: Message) -> None:
        try:
            self._exchange.inbox.put(message)
        except Closed:  # the worker's thread has ended; what it has published stands
            self._stopping.set()
