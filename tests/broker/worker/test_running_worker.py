"""`embedkq.testing.RunningWorker`, as a test without pytest uses it, on a real broker."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support import HANG_SECONDS, end_offsets

from embedkq import Queue
from embedkq.errors import BrokerUnavailable, WorkerError
from embedkq.testing import RunningWorker


def test_it_waits_for_jobs_and_for_all(hosts: str, topic: str) -> None:
    with (
        Queue(hosts=hosts, topic=topic) as queue,
        RunningWorker(hosts=hosts, topic=topic, processes=2) as worker,
    ):
        slow = queue.using(timeout=0.2).enqueue(time.sleep, HANG_SECONDS)
        quick = queue.enqueue(pow, 3, 2)
        ended = worker.wait_for(quick)
        assert ended[:3] == ("success", quick, 9) and ended.exception is None
        assert worker.wait_for(slow).status == "timeout"
        queue.enqueue_many([(pow, (number, 2)) for number in range(50)])
        assert len(worker.drain()) == 52
        assert worker.is_clean()


def test_what_the_group_has_done_before_does_not_count(hosts: str, topic: str) -> None:
    with Queue(hosts=hosts, topic=topic) as queue:
        queue.enqueue_many([(pow, (number, 2)) for number in range(10)])
        with RunningWorker(hosts=hosts, topic=topic) as worker:
            assert len(worker.drain()) == 10
        queue.enqueue(pow, 11, 2)
        with RunningWorker(hosts=hosts, topic=topic) as worker:
            (ended,) = worker.drain()
            assert ended.result == 121 and worker.is_clean()


def test_offsets_without_a_job_do_not_hold_drain_up(hosts: str, topic: str) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=hosts, transactional_id=topic)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(topic, b"never seen", partition=0).get(HANG_SECONDS)
    producer.abort_transaction()
    producer.close()
    assert sum(end_offsets(hosts, topic).values()) == 2
    with (
        Queue(hosts=hosts, topic=topic) as queue,
        RunningWorker(hosts=hosts, topic=topic) as worker,
    ):
        queue.enqueue(pow, 3, 2)
        assert [ended.result for ended in worker.drain()] == [9]
        assert not worker.is_clean()


def test_time_that_is_up_is_a_timeout_error_with_what_is_known(hosts: str, topic: str) -> None:
    with (
        Queue(hosts=hosts, topic=topic) as queue,
        RunningWorker(hosts=hosts, topic=topic) as worker,
    ):
        worker.wait_for(queue.enqueue(pow, 2, 2))
        job = queue.enqueue(time.sleep, HANG_SECONDS)
        with pytest.raises(TimeoutError) as caught:
            worker.wait_for(job, timeout=0.5)
        assert str(caught.value).startswith(
            f"RunningWorker(topic={topic}) waited 0.5 s for job {job.id} to end: "
        )
        with pytest.raises(TimeoutError, match=r"waited 1.5 s for all jobs to end: 1 jobs are not"):
            worker.drain(timeout=1.5)
        assert not worker.is_clean()


def test_what_a_callback_raises_the_next_wait_raises(hosts: str, topic: str) -> None:
    def callback(*ended: Any) -> None:
        raise LookupError(ended[2])

    with (
        Queue(hosts=hosts, topic=topic) as queue,
        RunningWorker(callback, hosts=hosts, topic=topic) as worker,
    ):
        job = queue.enqueue(pow, 3, 2)
        with pytest.raises(LookupError, match="9"):
            worker.wait_for(job)
        queue.enqueue(pow, 4, 2)
        with pytest.raises(LookupError, match="16"):
            worker.drain()
        assert [ended.result for ended in worker.ended] == [9, 16]


def test_a_worker_that_has_ended_is_not_waited_for(hosts: str, topic: str) -> None:
    with (
        Queue(hosts=hosts, topic=topic) as queue,
        RunningWorker(hosts=hosts, topic=topic) as worker,
    ):
        job = queue.enqueue(time.sleep, HANG_SECONDS)
        assert worker.stop()
        with pytest.raises(WorkerError, match="is stopped"):
            worker.wait_for(job)


def test_without_a_broker_the_start_raises() -> None:
    with pytest.raises(BrokerUnavailable):
        RunningWorker(hosts="127.0.0.1:1").start()


def test_drain_waits_for_callbacks_that_are_slow(hosts: str, topic: str) -> None:
    received = []

    def callback(*ended: Any) -> None:
        time.sleep(0.3)
        received.append(ended[2])

    with (
        Queue(hosts=hosts, topic=topic) as queue,
        RunningWorker(callback, hosts=hosts, topic=topic) as worker,
    ):
        queue.enqueue_many([(pow, (2, 2)), (pow, (3, 2))])
        assert [ended.result for ended in worker.drain()] == received
        assert sorted(received) == [4, 9]
