"""An offset is a record's name only within one life of its topic: whatever starts a log anew, no
acknowledged job is passed over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import workerjobs
from brokers import Broker
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata
from partitions import P0, numbered
from support import (
    HANG_SECONDS,
    Recorder,
    Sender,
    committed,
    create_topic,
    fire_until,
    group_offsets,
    put_back,
    recreate_topic,
    send_many,
    wait_until,
    with_admin,
)

from embedkq import Queue, Worker
from embedkq._clients.consumer import ConsumerClient
from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.commit_metadata import NOTHING, UNKNOWN_TOPIC, CommitMetadata, TopicMark
from embedkq._formats.partition_progress import Committed, Log
from embedkq.worker.between_threads import backlog
from embedkq.worker.between_threads.messages import Assigned, JobRun
from embedkq.worker.consumer_thread.partition_starts import PartitionStarts
from embedkq.worker.control_thread.partition_ledger import PartitionLedger


def enqueue(hosts: str, topic: str, *numbers: int, partition: int | None = None) -> None:
    with Queue(hosts, topic) as queue:
        queue.using(partition=partition).enqueue_many(
            [(workerjobs.echo, (number,)) for number in numbers]
        )


def numbers_of(recorder: Recorder) -> list[int]:
    return [result[0][0] for result in recorder.results]


def anew(caplog: Any) -> list[str]:
    return [text for text in caplog.messages if "restarts at offset" in text]


@pytest.mark.parametrize(
    ("before", "after"), [(50, 20), (5, 60)], ids=["fewer than before", "more than before"]
)
@pytest.mark.parametrize("partitions", [1, 3])
def test_all_jobs_of_a_topic_that_was_made_anew_run(
    hosts: str,
    make_topic: Callable[[int], str],
    caplog: Any,
    before: int,
    after: int,
    partitions: int,
) -> None:
    """More than before: then no offset is out of range, and only the topic's id tells."""
    topic, recorder = make_topic(1), Recorder()
    with Worker(hosts, topic, callback=recorder) as worker:
        enqueue(hosts, topic, *range(before))
        assert worker.drain(HANG_SECONDS) and len(recorder) == before
        recreate_topic(hosts, topic, partitions)
        enqueue(hosts, topic, *range(1000, 1000 + after))
        fire_until(
            worker,
            lambda: {*range(1000, 1000 + after)} <= {*numbers_of(recorder)},
            "all new jobs are done",
        )
        assert worker.drain(HANG_SECONDS) and worker.health().healthy
    told = [text for text in anew(caplog) if "Partition 0 " in text]
    assert len(told) == 1 and f"of topic {topic} restarts at offset 0" in told[0], anew(caplog)
    again = Recorder()
    Worker(hosts, topic, callback=again).start(burst=True)
    assert not again.calls, "what was committed is of the new topic"


def test_drain_waits_for_the_jobs_of_a_topic_that_was_made_anew(
    hosts: str, make_topic: Callable[[int], str]
) -> None:
    topic, recorder = make_topic(1), Recorder()
    with Worker(hosts, topic, callback=recorder) as worker:
        enqueue(hosts, topic, *range(30))
        assert worker.drain(HANG_SECONDS)
        recreate_topic(hosts, topic, 1)
        enqueue(hosts, topic, *range(1000, 1010))
        assert worker.drain(HANG_SECONDS)
        assert {*range(1000, 1010)} <= {*numbers_of(recorder)}
        assert worker.stop(HANG_SECONDS), (
            "what could not be committed of the old topic is no concern of this stop"
        )


def test_a_job_that_runs_meanwhile_has_its_callback_and_moves_nothing(
    hosts: str, make_topic: Callable[[int], str], tmp_path: Any, caplog: Any
) -> None:
    """The new record at its offset is another job. (What is read before the worker knows of the new
    life may run twice.)"""
    topic, recorder, gate = make_topic(1), Recorder(), tmp_path / "gate"
    with Worker(hosts, topic, callback=recorder, processes=2) as worker:
        with Queue(hosts, topic) as queue:
            old = queue.enqueue(workerjobs.note_and_wait, str(tmp_path / "notes"), "old", str(gate))
        wait_until(lambda: (tmp_path / "notes").exists(), "the old job runs")
        recreate_topic(hosts, topic, 1)
        wait_until(lambda: anew(caplog), "the worker knows that the topic is another")
        enqueue(hosts, topic, 1, 2, 3)
        fire_until(worker, lambda: len(recorder) >= 3, "the new jobs are done beside the old one")
        gate.touch()
        fire_until(worker, lambda: old.id in recorder.ids, "the old job has its callback")
        assert worker.drain(HANG_SECONDS)
    assert set(recorder.ids.values()) == {1} and len(recorder) == 4


def test_a_topic_that_was_made_anew_while_no_worker_ran_is_read_from_its_start(
    hosts: str, make_topic: Callable[[int], str], caplog: Any
) -> None:
    topic, recorder = make_topic(1), Recorder()
    enqueue(hosts, topic, *range(5))
    Worker(hosts, topic, callback=Recorder()).start(burst=True)
    kept = group_offsets(hosts, topic)
    recreate_topic(hosts, topic, 1)
    put_back(hosts, topic, kept)
    enqueue(hosts, topic, *range(1000, 1010))
    Worker(hosts, topic, callback=recorder).start(burst=True)
    assert sorted(numbers_of(recorder)) == [*range(1000, 1010)]
    assert len(anew(caplog)) == 1


def test_an_offset_beyond_the_end_is_told_and_the_log_read_from_its_start(
    hosts: str, make_topic: Callable[[int], str], caplog: Any
) -> None:
    topic, recorder = make_topic(1), Recorder()
    enqueue(hosts, topic, 1, 2, 3)
    Worker(hosts, topic, callback=Recorder()).start(max_jobs=1)
    with_admin(
        hosts,
        lambda admin: admin.alter_group_offsets(
            topic, {TopicPartition(topic, 0): OffsetAndMetadata(99, "", -1)}
        ),
    )
    Worker(hosts, topic, callback=recorder).start(burst=True)
    assert sorted(numbers_of(recorder)) == [1, 2, 3]
    assert "its log ends at offset 3, before the committed offset 99" in anew(caplog)[0]


@pytest.mark.needs("kill")
@pytest.mark.hang_guard(240)
def test_a_broker_that_comes_back_empty_has_all_its_new_jobs_run(
    make_broker: Callable[..., Broker], caplog: Any
) -> None:
    broker, recorder = make_broker(), Recorder()
    create_topic(broker.hosts, "wiped", 1)
    quick = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 1000}
    with Worker(broker.hosts, "wiped", callback=recorder, kafka=quick) as worker:
        enqueue(broker.hosts, "wiped", *range(20))
        assert worker.drain(HANG_SECONDS)
        broker.wipe()
        broker.start()
        create_topic(broker.hosts, "wiped", 1)
        enqueue(broker.hosts, "wiped", *range(1000, 1030))
        fire_until(
            worker,
            lambda: {*range(1000, 1030)} <= {*numbers_of(recorder)},
            "all new jobs are done",
            120,
        )
        assert worker.drain(HANG_SECONDS)


@pytest.mark.parametrize("policy", ["earliest", "latest"])
def test_what_retention_has_left_runs_and_what_it_took_is_counted(
    hosts: str, make_topic: Callable[[int], str], caplog: Any, policy: str
) -> None:
    topic, recorder = make_topic(1), Recorder()
    with Worker(hosts, topic, offset_policy=policy) as worker:
        worker.drain(HANG_SECONDS)
        enqueue(hosts, topic, 1, 2)
        assert worker.drain(HANG_SECONDS)
    enqueue(hosts, topic, *range(10, 40))
    with_admin(hosts, lambda admin: admin.delete_records({TopicPartition(topic, 0): 12}))
    Worker(hosts, topic, callback=recorder, offset_policy=policy).start(burst=True)
    assert sorted(numbers_of(recorder)) == [*range(20, 40)]
    assert any(
        f"10 records of partition 0 of topic {topic} are lost" in text for text in caplog.messages
    ), caplog.messages


@pytest.mark.parametrize("lost", [1, 4])
def test_what_retention_takes_from_under_a_worker_is_counted(
    hosts: str,
    make_topic: Callable[[int], str],
    tmp_path: Any,
    caplog: Any,
    monkeypatch: pytest.MonkeyPatch,
    lost: int,
) -> None:
    monkeypatch.setattr(backlog, "MOST_RECORDS", 1)  # then nothing is fetched while jobs wait
    topic, recorder, gate = make_topic(1), Recorder(), tmp_path / "gate"
    send_many(
        hosts,
        topic,
        workerjobs.note_and_wait,
        [(str(tmp_path / "notes"), number, str(gate)) for number in range(8)],
    )
    with Worker(hosts, topic, callback=recorder, kafka={"fetch_max_wait_ms": 20}) as worker:
        consumer = worker._runtime.consumer
        wait_until(
            lambda: consumer._client and consumer._client.position(numbered(0, topic)) == 8,
            "all that there is was fetched",
        )
        for _ in range(
            3
        ):  # each of these polls waits for half a second, so that no fetch is under way any more
            last = consumer.last_poll
            wait_until(
                lambda last=last: (
                    consumer.last_poll != last and consumer._client.paused == [numbered(0, topic)]
                ),
                "it polls without a fetch",
            )
        enqueue(hosts, topic, *range(lost + 2))
        with_admin(hosts, lambda admin: admin.delete_records({TopicPartition(topic, 0): 8 + lost}))
        gate.touch()
        fire_until(worker, lambda: len(recorder) == 10, "what is left is done")
        assert worker.drain(HANG_SECONDS)
    records = (
        "1 record of partition 0 of topic {} is lost"
        if lost == 1
        else "4 records of partition 0 of topic {} are lost"
    )
    told = [text for text in caplog.messages if "lost" in text]
    assert (
        len(told) == 1
        and records.format(topic) in told[0]
        and f"before offset {8 + lost}" in told[0]
    ), told


def test_what_is_missing_for_another_reason_is_no_loss_and_costs_no_question(
    hosts: str, make_topic: Callable[[int], str], caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The marker of each transaction leaves a hole of one, each that was aborted a larger one."""
    topic, recorder, asked = make_topic(1), Recorder(), []
    logs = ConsumerClient.logs
    monkeypatch.setattr(
        ConsumerClient,
        "logs",
        lambda client, partitions, mark: asked.append(partitions) or logs(client, partitions, mark),
    )
    with Worker(hosts, topic, callback=recorder) as worker:
        assert worker.drain(HANG_SECONDS)
        asked.clear()
        with Sender(hosts, topic, transactional_id=topic) as sender:
            sender.producer.init_transactions()
            for number in range(20):
                sender.producer.begin_transaction()
                sender.send(workerjobs.echo, number)
                sender.flush()
                (
                    sender.producer.abort_transaction
                    if number % 5 == 4
                    else sender.producer.commit_transaction
                )()
        fire_until(worker, lambda: len(recorder) == 16, "all that was committed is done")
        wait_until(lambda: committed(hosts, topic, topic)[0][0] == 40, "the last marker is passed")
    assert not asked and not [
        text for text in caplog.messages if "lost" in text or "restarts" in text
    ]


def test_latest_counts_for_a_group_that_never_committed(
    hosts: str, make_topic: Callable[[int], str]
) -> None:
    topic, recorder = make_topic(1), Recorder()
    enqueue(hosts, topic, 1, 2)
    with Worker(hosts, topic, callback=recorder, offset_policy="latest") as worker:
        assert worker.drain(HANG_SECONDS)
        enqueue(hosts, topic, 3)
        assert worker.drain(HANG_SECONDS)
    assert numbers_of(recorder) == [3]


# Where a partition begins, by itself.


OLD, NEW = TopicMark(11, 4), TopicMark(22, 4)


def start_of(
    committed: Committed | None,
    log: Log,
    *,
    latest: bool = False,
    known: tuple[TopicMark, int] | None = None,
) -> Any:
    starts = PartitionStarts(latest)
    if known is not None:
        first = starts.find(P0, None, Log(0, 0, known[0]))
        starts.started(P0, first)
        starts.reached(P0, known[1])
    return starts.find(P0, committed, log)


@pytest.mark.parametrize(
    ("committed", "log", "known", "begins", "says"),
    [
        (Committed(5, ""), Log(0, 9, NEW), None, 5, None),
        (
            Committed(5, commit_metadata.encode(5, (), NOTHING, topic=NEW)),
            Log(0, 9, NEW),
            None,
            5,
            None,
        ),
        (
            Committed(5, commit_metadata.encode(5, (), NOTHING, topic=OLD)),
            Log(0, 9, NEW),
            None,
            0,
            "deleted and created again",
        ),
        (Committed(5, ""), Log(0, 3, UNKNOWN_TOPIC), None, 0, "ends at offset 3"),
        (None, Log(2, 9, NEW), None, 2, None),
        (None, Log(0, 9, NEW), (OLD, 7), 0, "deleted and created again"),
        (None, Log(0, 3, UNKNOWN_TOPIC), (UNKNOWN_TOPIC, 7), 0, "ends at offset 3"),
        (
            Committed(2, commit_metadata.encode(2, (), NOTHING, topic=NEW)),
            Log(0, 9, NEW),
            (OLD, 7),
            2,
            None,
        ),
        (
            Committed(5, commit_metadata.encode(5, ((7, 8),), NOTHING)),
            Log(9, 20, NEW),
            None,
            5,
            "3 records",
        ),
    ],
)
def test_a_partition_begins_where_its_log_and_the_commit_say(
    committed: Committed | None,
    log: Log,
    known: tuple[TopicMark, int] | None,
    begins: int,
    says: str | None,
) -> None:
    start = start_of(committed, log, known=known)
    assert start.offset == begins
    assert (start.warning is None) if says is None else (says in start.warning)


@given(
    st.integers(0, 2**50),
    st.integers(1, 2**62),
    st.integers(0, 5000),
    st.dictionaries(st.integers(0, 300), st.integers(1, 9), max_size=20),
)
def test_the_topic_travels_beside_map_and_notes(
    start: int, topic: int, partitions: int, attempts: dict[int, int]
) -> None:
    noted = CommitMetadata(
        attempts={start + offset: count for offset, count in attempts.items()}, hosts=("a-host",)
    )
    mark = TopicMark(topic, partitions)
    text = commit_metadata.encode(start, ((start + 1, start + 3),), noted, topic=mark)
    assert commit_metadata.decode_all(start, text) == (((start + 1, start + 3),), noted, mark)


class Polled:
    key, value, headers, timestamp = None, b"", (), 0

    def __init__(self, offset: int) -> None:
        self.offset = offset


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40), st.integers(0, 10))
def test_no_end_of_an_old_job_marks_a_new_one_done(
    ends: list[tuple[bool, int]], admitted: int
) -> None:
    """Records of two lives with the same offsets, whose ends come in any order."""
    ledger = PartitionLedger()
    ledger.assign(Assigned(P0, 1, 0, "", OLD, 0))
    old = [JobRun(P0, 1, Polled(number)) for number in range(10)]
    for run in old:
        ledger.tracker.admit(P0, run.offset)
    ledger.assign(Assigned(P0, 2, 0, "", NEW, 1))
    new = [JobRun(P0, 2, Polled(number)) for number in range(admitted)]
    for run in new:
        run.life = 1
        ledger.tracker.admit(P0, run.offset)
    done: set[int] = set()
    for is_old, number in ends:
        if is_old:
            ledger.finish(old[number])
        elif number < admitted:
            ledger.finish(new[number])
            done.add(number)
    progress = ledger.snapshot()[P0]
    known = {
        *range(progress.offset),
        *(offset for first, last in progress.done for offset in range(first, last)),
    }
    assert known == done
    assert offset_map.lag(0, admitted, progress.offset, progress.done) == admitted - len(done)
