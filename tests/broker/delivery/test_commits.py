"""What is committed and in which requests: many partitions, and brokers that accept little."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import (
    InvalidCommitOffsetSizeError,
    KafkaTimeoutError,
    OffsetMetadataTooLargeError,
    RebalanceInProgressError,
    UnknownError,
)
from partitions import P0, P1, P2, P7, numbered
from support import committed, logged, wait_until

from embedkq._formats import commit_metadata
from embedkq._formats.commit_metadata import CommitMetadata
from embedkq._partition import Partition
from embedkq.worker.between_threads.messages import Assigned, Message, Released, Revoked
from embedkq.worker.between_threads.progress import Progress
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.consumer_thread import commit_requests
from embedkq.worker.consumer_thread import committer as commits_module
from embedkq.worker.consumer_thread.assignment import Assignment
from embedkq.worker.consumer_thread.committer import Committer


def gaps(start: int, jobs: int, seed: int = 1) -> Progress:
    """A partition in which every third job waits for another attempt."""
    chance = random.Random(seed)
    waiting = [start, *(start + offset for offset in range(1, 3 * jobs) if chance.random() < 1 / 3)]
    done = tuple((below + 1, above) for below, above in pairwise(waiting) if above > below + 1)
    return Progress(start, done, 1, CommitMetadata(attempts=dict.fromkeys(waiting, 1)))


class Broker:
    """A client whose broker accepts so much in one request, and so much metadata of a partition."""

    def __init__(
        self,
        request_bytes: int = 10**9,
        metadata: int = 4096,
        error: type[Exception] = UnknownError,
    ) -> None:
        self.request_bytes, self.metadata, self.error = request_bytes, metadata, error
        self.kept: dict[Partition, tuple[int, str]] = {}
        self.requests: list[int] = []
        self.refuses_after: int | None = None

    def commit(self, offsets: Mapping[TopicPartition, Any], timeout_ms: int = 0) -> None:
        if self.refuses_after is not None and len(self.requests) >= self.refuses_after:
            raise RebalanceInProgressError
        self.requests.append(len(offsets))
        if sum(len(known.metadata) + 50 for known in offsets.values()) > self.request_bytes:
            raise self.error
        good = {
            Partition(*place): known
            for place, known in offsets.items()
            if len(known.metadata) <= self.metadata
        }
        self.kept.update(
            {partition: (known.offset, known.metadata) for partition, known in good.items()}
        )
        if len(good) < len(offsets):
            raise OffsetMetadataTooLargeError

    async def commit_async(self, offsets: Mapping[TopicPartition, Any]) -> None:
        self.commit(offsets)

    def read(self) -> dict[Partition, Progress]:
        return {
            p: Progress(offset, *self._known(offset, metadata))
            for p, (offset, metadata) in self.kept.items()
        }

    @staticmethod
    def _known(offset: int, metadata: str) -> Any:
        done, noted = commit_metadata.decode(offset, metadata)
        return done, 1, noted


def test_offsets_of_four_hundred_partitions_reach_kafka_with_their_maps(
    hosts: str, make_topic: Any, group: str
) -> None:
    topic = make_topic(400)
    wanted = {
        numbered(number, topic): gaps(1_000 * number, 1_200, seed=number) for number in range(400)
    }
    assert (
        sum(len(commit_metadata.encode(*wanted[p][:2], wanted[p].notes)) for p in wanted)
        > 1_048_588
    )
    kafka = KafkaConsumer(bootstrap_servers=hosts, group_id=group, enable_auto_commit=False)
    kafka.assign([TopicPartition(*partition) for partition in wanted])
    committer = Committer(10.0)

    def is_committed() -> bool:
        try:
            return committer.commit(kafka, wanted)
        except KafkaTimeoutError:  # a broker under load: the consumer's thread tries again, too
            return False

    try:
        wait_until(is_committed, "all is committed")
    finally:
        kafka.close(autocommit=False)
    kept = committed(hosts, group, topic)
    assert {number: offset for number, (offset, _) in kept.items()} == {
        partition.number: progress.offset for partition, progress in wanted.items()
    }
    for number, (offset, metadata) in kept.items():
        done, noted = commit_metadata.decode(offset, metadata)
        assert done == wanted[numbered(number, topic)].done and noted.attempts


@pytest.mark.parametrize("error", [UnknownError, InvalidCommitOffsetSizeError])
def test_a_broker_that_accepts_small_requests_is_given_small_ones(error: type[Exception]) -> None:
    wanted = {numbered(number): gaps(100, 400, seed=number) for number in range(100)}
    broker, commits = Broker(request_bytes=20_000, error=error), Committer(10.0)
    assert commits.commit(broker, wanted) and not commits.pending(wanted)
    assert broker.read() == wanted


def test_a_partition_with_too_much_metadata_takes_none_from_the_others(
    caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {P0: gaps(100, 3), P1: gaps(100, 3_000), P2: gaps(100, 6)}
    broker, commits = Broker(metadata=500), Committer(10.0)
    assert commits.commit(broker, wanted)
    kept = broker.read()
    assert kept[P0] == wanted[P0] and kept[P2] == wanted[P2]
    assert kept[P1].offset == 100 and 10 < len(kept[P1].done) < len(
        wanted[P1].done
    )  # as much as fits
    text = logged(caplog)
    assert (
        text.startswith("WARNING") and text.count("\n") == 1 and "offset.metadata.max.bytes" in text
    )

    broker.metadata = 4096
    monkeypatch.setattr(commit_requests, "_LIMITED_SECONDS", -1.0)
    commits._limits._lifted_at = 0.0  # a minute has passed
    again = {**wanted, P1: wanted[P1]._replace(epoch=2)}
    assert commits.commit(broker, again)
    assert len(broker.read()[P1].done) > len(kept[P1].done)


def test_a_broker_that_accepts_no_metadata_at_all_is_given_offsets() -> None:
    wanted = {numbered(number): gaps(100 + number, 3) for number in range(3)}
    broker, commits = Broker(metadata=0), Committer(10.0)
    assert commits.commit(broker, wanted)
    assert broker.kept == {numbered(number): (100 + number, "") for number in range(3)}


def test_only_what_is_new_is_committed_and_the_rest_again_in_turn() -> None:
    wanted = {numbered(number): Progress(number, (), 1) for number in range(250)}
    broker, commits = Broker(), Committer(10.0)
    assert commits.commit(broker, wanted) and broker.requests == [250]
    wanted[P7] = Progress(8, (), 1)
    assert commits.pending(wanted) and commits.commit(broker, wanted) and broker.requests[1:] == [1]
    broker.kept.clear()
    for _ in range(3):
        assert not commits.pending(wanted) and commits.commit(broker, wanted)
    assert broker.requests[2:] == [100, 100, 50] and broker.kept.keys() == wanted.keys()


def test_what_was_accepted_before_a_refusal_is_not_sent_again() -> None:
    wanted = {numbered(number): gaps(100, 1_000, seed=number) for number in range(200)}
    broker, commits = Broker(), Committer(10.0)
    broker.refuses_after = 1
    assert (
        not commits.commit(broker, wanted)
        and commits.pending(wanted)
        and commits.refused_since is not None
    )
    broker.refuses_after = None
    assert commits.commit(broker, wanted) and commits.refused_since is None
    assert sum(broker.requests) == 200 and broker.kept.keys() == wanted.keys()


class Consumer(Broker):
    """A client that is a member of a group."""

    later: Any = None

    def rejoin_after(self, function: Any, *args: Any) -> None:
        self.later = function, args

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)

    async def within(self, future: Any, seconds: float) -> Any:
        return await future


async def given_up(
    assignment: Assignment, consumer: Consumer, partitions: frozenset[Partition]
) -> None:
    await assignment.give_up(consumer, partitions, lost=False)
    function, args = consumer.later
    await function(*args)


@pytest.fixture
def shared() -> Iterator[SharedState]:
    shared = SharedState()
    yield shared
    shared.inbox.close()


def test_partitions_that_are_given_up_are_committed_in_requests_that_the_broker_accepts(
    shared: SharedState,
) -> None:
    wanted = {numbered(number): gaps(100, 400, seed=number) for number in range(100)}
    told: list[Message] = []

    def tell(message: Message) -> None:
        told.append(message)
        if isinstance(message, Revoked):
            message.snapshot = {
                p: wanted[p]._replace(epoch=assignment.epoch(p) or epochs[p])
                for p in message.partitions
            }
            message.settled = True

    assignment = Assignment(shared, Committer(10.0), tell, 1.0)
    assignment.add(frozenset(wanted))
    epochs = {partition: assignment.epoch(partition) or 0 for partition in wanted}
    assignment.fresh.clear()
    broker = Consumer(request_bytes=20_000)
    asyncio.run(given_up(assignment, broker, frozenset(wanted)))
    assert {p: progress._replace(epoch=1) for p, progress in broker.read().items()} == wanted
    assert isinstance(told[-1], Released) and not any(
        isinstance(message, Assigned) for message in told
    )


@pytest.mark.parametrize("thrown_away", [False, True])
def test_a_consumer_that_was_expelled_commits_nothing_of_what_it_was_about_to_give_up(
    shared: SharedState, thrown_away: bool
) -> None:
    told: list[Message] = []
    assignment = Assignment(shared, Committer(10.0), told.append, 1_000.0)
    assignment.add(frozenset({P0, P1, P2}))
    assignment.fresh.clear()
    consumer = Consumer()
    asyncio.run(assignment.give_up(consumer, frozenset({P0, P1}), lost=False))
    assert assignment.settles and assignment.partitions == [P2] and len(told) == 1
    if thrown_away:
        assignment.lose_all()
    else:
        asyncio.run(assignment.give_up(consumer, frozenset({P2}), lost=True))
    assert not assignment.settles and told[1] == Released(frozenset({P0, P1}))
    assignment.add(
        frozenset({P0, P1})
    )  # it has joined again before the wait for its jobs has seen that it is over
    function, args = consumer.later
    asyncio.run(function(*args))
    assert not consumer.requests and not any(isinstance(message, Released) for message in told[2:])
    assert sorted(assignment.partitions) == [P0, P1]


def test_who_serves_questions_goes_on_at_once_when_the_last_one_is_answered(
    shared: SharedState, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each poll that brings a partition's first job would be followed by a wait of a tenth of
    a second."""
    broker, commits, waits = Broker(), Committer(10.0), []
    shared.serial_mode = True

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        if (
            len(waits) == 2
        ):  # the worker's thread has seen the commit, and says that nothing waits any more
            shared.begun.add(P0)
            shared.serial_mode = False
        return True

    monkeypatch.setattr(shared.asked, "wait", wait)
    commits.commit_as_asked(broker, shared, lambda: {P0: Progress(0, (), 1)}, {P0})
    assert len(waits) == 2 and broker.requests == [1]


# The last commit.


class Leaving:
    """A client whose broker refuses commits, or does not answer, for so many seconds; with
    `refuses`, because of a rebalance."""

    def __init__(self, seconds: float, refuses: bool) -> None:
        self.kafka, self.broker = self, Broker()
        self.until, self.refuses = time.monotonic() + seconds, refuses

    def set_paused(self, partitions: Any) -> None:
        """It polls for the group's sake only."""

    def poll(self, milliseconds: int) -> None:
        time.sleep(0.01)

    def commit(self, offsets: Mapping[TopicPartition, Any], timeout_ms: int = 0) -> None:
        if time.monotonic() < self.until:
            raise RebalanceInProgressError if self.refuses else KafkaTimeoutError
        self.broker.commit(offsets)


@pytest.mark.parametrize(
    ("seconds", "refuses", "session", "is_committed"),
    [
        (0.0, True, 1.0, True),
        (0.5, True, 1.0, True),
        (60.0, True, 0.5, False),
        (0.5, False, 60.0, False),
        (60.0, False, 60.0, False),
    ],
)
def test_the_last_commit_waits_for_a_rebalance_and_not_for_a_broker_that_does_not_answer(
    seconds: float,
    refuses: bool,
    session: float,
    is_committed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commits_module, "FINAL_COMMIT_SECONDS", 0.2)
    shared, client, wanted = SharedState(), Leaving(seconds, refuses), {P0: gaps(100, 3)}
    shared.session_seconds = session
    commits = Committer(session)
    assert commits.commit_finally(client, shared, lambda: wanted) is is_committed  # type: ignore[arg-type]
    assert (client.broker.read() == wanted) is is_committed


def test_the_last_commit_is_over_with_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, client, wanted = SharedState(), Leaving(60.0, True), {P0: gaps(100, 3)}
    shared.deadline.kill_now()
    began = time.monotonic()
    assert not Committer(60.0).commit_finally(client, shared, lambda: wanted)  # type: ignore[arg-type]
    assert time.monotonic() - began < commits_module.FINAL_COMMIT_SECONDS
