"""`embedkq.testing.captured` and `redirected`: where jobs go in tests."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from embedkq import Queue, errors
from embedkq.testing import captured, redirected


def square(number: int) -> int:
    return number * number


def test_a_captured_job_is_the_one_that_enqueue_returns() -> None:
    queue = Queue(hosts="127.0.0.1:1", topic="shop")
    with captured() as jobs:
        made = queue.using(timeout=2, key="k").enqueue(square, 3)
        assert jobs == [made] and jobs[0] is made
    assert (made.topic, made.func, made.args, made.timeout, made.key) == (
        "shop",
        square,
        (3,),
        2,
        b"k",
    )


def test_of_nested_blocks_the_innermost_gets_the_jobs() -> None:
    queue = Queue(hosts="127.0.0.1:1")
    with captured() as outer:
        queue.enqueue(square, 1)
        with captured() as inner:
            queue.enqueue(square, 2)
        queue.enqueue(square, 3)
    assert [[job.args for job in jobs] for jobs in (outer, inner)] == [[(1,), (3,)], [(2,)]]


def test_a_block_that_raises_captures_no_more() -> None:
    queue = Queue(eager=True)
    with pytest.raises(LookupError), captured() as jobs:
        raise LookupError
    with pytest.raises(TypeError):
        queue.enqueue(square, "text")
    assert jobs == []


def test_jobs_of_all_threads_and_of_eager_queues_are_captured() -> None:
    queue = Queue(eager=True)
    with captured() as jobs:
        threads = [threading.Thread(target=queue.enqueue, args=(square, n)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(job.args for job in jobs) == [(number,) for number in range(8)]


class Sent:
    """Stands for a queue's producer."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def check_open(self) -> None:
        pass

    def send(self, message: Any) -> None:
        if len(self.messages) == 3:
            raise errors.BrokerUnavailable("a:1", "away")
        self.messages.append(message)


def test_a_redirected_job_keeps_all_but_its_topic() -> None:
    target, queue = Queue(topic="test"), Queue(topic="shop", secret="0123456789abcdef")
    sent = Sent()
    target._connection = sent  # type: ignore[assignment]
    with redirected(target) as given:
        assert given is target
        job = queue.using(partition=2).enqueue(square, 3)
        queue.using(key="k").enqueue_many([(square, (4,))])
        target.enqueue(square, 5)
        with pytest.raises(errors.BrokerUnavailable):
            queue.enqueue(square, 6)
    assert job.topic == "shop"
    assert [(each.topic, each.partition, each.key) for each in sent.messages] == [
        ("test", 2, None),
        ("test", None, b"k"),
        ("test", None, None),
    ]
