"""Lag: how many records are not done, as `kq info`, `health()` and the offsets in Kafka tell it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata
from support import Recorder, fire_until, lines, send_many, wait_until, with_admin

from embedkq import Worker
from embedkq._clients.admin import describe
from embedkq._formats import offset_map
from embedkq.worker.between_threads import backlog


@given(
    first=st.integers(0, 40),
    length=st.integers(0, 40),
    start=st.integers(0, 90),
    done=st.sets(st.integers(0, 90)),
)
def test_the_lag_is_what_a_log_holds_and_is_not_done(
    first: int, length: int, start: int, done: set[int]
) -> None:
    end = first + length
    _, runs = offset_map.merge(
        start, (), start, [(offset, offset + 1) for offset in sorted(done) if offset > start]
    )
    above = {offset for below, last in runs for offset in range(below, last)}
    if start > end:
        assert offset_map.lag(first, end, start, runs) == length
    else:
        assert offset_map.lag(first, end, start, runs) == len(
            set(range(max(first, start), end)) - above
        )


def known(worker: Worker) -> dict[int, int]:
    return dict(worker.health().lag or {})


def test_what_is_done_above_a_slow_job_is_no_lag(
    hosts: str, make_topic: Any, group: str, tmp_path: Path
) -> None:
    topic, gate, recorder = make_topic(1), tmp_path / "gate", Recorder()
    send_many(
        hosts, topic, workerjobs.note_and_wait, [(str(tmp_path / "noted"), "slow", str(gate))]
    )
    with Worker(hosts=hosts, topic=topic, group=group, callback=recorder, processes=2) as worker:
        wait_until(lambda: lines(tmp_path / "noted"), "the slow job runs")
        send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(500)])
        fire_until(worker, lambda: len(recorder) == 500, "the quick ones are done")
        wait_until(lambda: known(worker) == {0: 1}, "health() tells that one job is not done")
        wait_until(
            lambda: describe(hosts, topic, group).lag == 1, "kq info tells that one job is not done"
        )
        assert describe(hosts, topic, group).partitions[0].committed == 0
        gate.touch()
        assert worker.drain(60)
        wait_until(lambda: known(worker) == {0: 0}, "nothing is left")
        wait_until(lambda: describe(hosts, topic, group).lag == 0, "nothing is left")


def test_a_partition_that_is_not_read_for_a_while_has_the_lag_that_it_has(
    hosts: str, make_topic: Any, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MOST_RECORDS", 5)
    topic, gate, recorder = make_topic(1), tmp_path / "gate", Recorder()
    with Worker(hosts=hosts, topic=topic, group=group, callback=recorder) as worker:
        send_many(
            hosts,
            topic,
            workerjobs.note_and_wait,
            [(str(tmp_path / "noted"), number, str(gate)) for number in range(10)],
        )
        wait_until(
            lambda: known(worker) == {0: 10}, "ten jobs wait, more than the worker reads ahead"
        )
        send_many(hosts, topic, workerjobs.echo, [()] * 60)
        wait_until(
            lambda: known(worker) == {0: 70},
            "what came meanwhile is lag, though it was not fetched",
        )
        gate.touch()
        fire_until(worker, lambda: len(recorder) == 70, "all are done")
        wait_until(lambda: known(worker) == {0: 0}, "nothing is left")


def test_an_empty_partition_and_the_end_of_a_transaction_are_no_lag(
    hosts: str, make_topic: Any, group: str
) -> None:
    topic, recorder = make_topic(3), Recorder()
    with Worker(hosts=hosts, topic=topic, group=group, callback=recorder) as worker:
        wait_until(lambda: known(worker) == {0: 0, 1: 0, 2: 0}, "an empty topic has no lag")
        producer = KafkaProducer(bootstrap_servers=hosts, transactional_id=f"{topic}-writer")
        producer.init_transactions()
        for _ in range(
            3
        ):  # each of them leaves a marker behind its record, to which no job belongs
            producer.begin_transaction()
            producer.send(topic, b"no job", partition=1)
            producer.commit_transaction()
        producer.close()
        wait_until(
            lambda: describe(hosts, topic, group).partitions[1].committed == 6,
            "markers are passed over",
        )
        wait_until(lambda: known(worker) == {0: 0, 1: 0, 2: 0}, "nothing is left")
        assert describe(hosts, topic, group).lag == 0


def test_offsets_that_were_committed_of_another_log_are_no_progress(
    hosts: str, make_topic: Callable[[int], str], group: str
) -> None:
    topic = make_topic(1)
    send_many(hosts, topic, workerjobs.echo, [()] * 4)
    with_admin(
        hosts,
        lambda admin: admin.alter_group_offsets(
            group, {TopicPartition(topic, 0): OffsetAndMetadata(70, "", -1)}
        ),
    )
    assert describe(hosts, topic, group).lag == 4
    with_admin(
        hosts,
        lambda admin: admin.alter_group_offsets(
            group, {TopicPartition(topic, 0): OffsetAndMetadata(3, "not a map", -1)}
        ),
    )
    assert describe(hosts, topic, group).lag == 1
