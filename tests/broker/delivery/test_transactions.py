"""Jobs that are sent in a transaction run if it is committed, and only then."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from support import Recorder, Sender, committed, end_offsets, fire_until, lag, wait_until

from embedkq import Worker


def in_transaction(
    hosts: str,
    topic: str,
    numbers: range,
    commit: bool,
    before_the_end: Callable[[], Any] = lambda: None,
) -> None:
    """Send one job for each number in a transaction of a real producer, then commit or abort it."""
    with Sender(hosts, topic, transactional_id=f"t-{uuid.uuid4().hex[:12]}") as sender:
        sender.producer.init_transactions()
        sender.producer.begin_transaction()
        for number in numbers:
            sender.send(divmod, 2 * number, 100, partition=0)
        sender.flush()
        before_the_end()
        if commit:
            sender.producer.commit_transaction()
        else:
            sender.producer.abort_transaction()


def test_a_job_of_an_aborted_transaction_does_not_run(hosts: str, make_topic: Any) -> None:
    topic = make_topic(1)
    in_transaction(hosts, topic, range(3), commit=False)
    in_transaction(hosts, topic, range(3, 6), commit=True)
    calls = Recorder()
    with Worker(hosts=hosts, topic=topic, callback=calls) as worker:
        in_transaction(hosts, topic, range(6, 9), commit=False)
        in_transaction(hosts, topic, range(9, 12), commit=True)
        assert worker.drain(30)
        fire_until(worker, lambda: len(calls) >= 6, "what was committed has run")
        assert calls.results == [(0, 2 * number) for number in (3, 4, 5, 9, 10, 11)]
    assert lag(hosts, topic, topic) == 0, "what was aborted, and the markers, count as done"


def test_a_job_of_an_open_transaction_waits_for_its_end(hosts: str, make_topic: Any) -> None:
    topic = make_topic(1)
    calls = Recorder()
    with Worker(hosts=hosts, topic=topic, callback=calls) as worker:

        def look() -> None:
            assert worker.drain(30), "an open transaction is nothing to wait for"
            until = time.monotonic() + 1
            fire_until(worker, lambda: time.monotonic() > until, "a while")
            assert not calls

        in_transaction(hosts, topic, range(3), commit=True, before_the_end=look)
        fire_until(worker, lambda: len(calls) == 3, "it has run")
    assert calls.results == [(0, 0), (0, 2), (0, 4)]
    wait_until(
        lambda: committed(hosts, topic, topic)[0][0] >= 3 and end_offsets(hosts, topic)[0] == 4,
        "all of it is committed",
    )


def test_kafka_can_ask_for_jobs_of_aborted_transactions_too(hosts: str, make_topic: Any) -> None:
    topic = make_topic(1)
    in_transaction(hosts, topic, range(3), commit=False)
    calls = Recorder()
    with Worker(
        hosts=hosts, topic=topic, callback=calls, kafka={"isolation_level": "read_uncommitted"}
    ) as worker:
        fire_until(worker, lambda: len(calls) == 3, "all have run")
    assert calls.results == [(0, 0), (0, 2), (0, 4)]
