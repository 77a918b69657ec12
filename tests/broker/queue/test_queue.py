"""Queue on a real broker: what reaches the topic, what is refused and how, and that nothing is lost
at forks, closes and exits."""

from __future__ import annotations

import copy
import itertools
import logging
import os
import pickle
import re
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dill
import pytest
import workerjobs
from brokers import Broker
from brokers.cluster import Cluster
from kafka import KafkaConsumer, TopicPartition
from kafka.admin import NewTopic
from support import end_offsets, run_script, wait_until, with_admin

from embedkq import Job, Queue, Worker, codec
from embedkq._formats import headers
from embedkq.errors import (
    BrokerRefused,
    BrokerUnavailable,
    Closed,
    EncodeError,
    EnqueueFailed,
    JobTooLarge,
    QueueIncomplete,
)

NOBODY = "127.0.0.1:1,127.0.0.1:2"
"""Where nothing listens: ports below 1024 that no broker of the tests takes."""
AT_MOST = 10.8
"""It is 10 s; the rest is for a machine that is busy."""


@pytest.fixture
def queue(hosts: str, topic: str) -> Iterator[Queue]:
    with Queue(hosts=hosts, topic=topic) as queue:
        yield queue


@pytest.fixture
def make_topic_with(hosts: str) -> Callable[..., str]:
    """Creates a topic of one partition with settings of its own."""

    def make(**settings: str) -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        configs = {setting.replace("_", "."): value for setting, value in settings.items()}
        wanted = NewTopic(name, num_partitions=1, replication_factor=1, topic_configs=configs)
        with_admin(hosts, lambda admin: admin.create_topics([wanted]))
        return name

    return make


def records(hosts: str, topic: str) -> list[Any]:
    """All that a topic holds now, by partition and offset."""
    ends = {
        TopicPartition(topic, partition): end
        for partition, end in end_offsets(hosts, topic).items()
    }
    consumer = KafkaConsumer(
        bootstrap_servers=hosts, auto_offset_reset="earliest", enable_auto_commit=False
    )
    try:
        consumer.assign(list(ends))
        found: list[Any] = []
        deadline = time.monotonic() + 60
        while any(consumer.position(partition) < end for partition, end in ends.items()):
            assert time.monotonic() < deadline, f"{len(found)} records read of {ends}"
            found += [
                record for batch in consumer.poll(timeout_ms=500).values() for record in batch
            ]
    finally:
        consumer.close()
    return sorted(found, key=lambda record: (record.partition, record.offset))


def jobs_in(hosts: str, topic: str) -> list[Job]:
    """The jobs that a topic holds, as a worker reads them."""
    found = []
    for record in records(hosts, topic):
        envelope = headers.read_headers(record.headers)
        found.append(
            Job(
                envelope.id,
                envelope.timestamp,
                topic,
                *codec.decode_call(record.value),
                envelope.timeout,
                record.key,
            )
        )
    return found


# What reaches the topic.


def test_enqueue_returns_the_job_that_is_on_the_topic(hosts: str, topic: str, queue: Queue) -> None:
    before = int(time.time() * 1000)
    job = queue.enqueue(workerjobs.echo, 1, "two", three=[3])
    after = int(time.time() * 1000)
    assert jobs_in(hosts, topic) == [job]  # at once: enqueue has waited for it
    assert job[2:] == (topic, workerjobs.echo, (1, "two"), {"three": [3]}, None, None)
    assert (
        str(uuid.UUID(job.id)) == job.id
        and before <= job.timestamp <= after
        and isinstance(job.timestamp, int)
    )


def test_the_record_on_the_wire(hosts: str, topic: str, queue: Queue) -> None:
    plain = queue.enqueue(workerjobs.echo, 1)
    limited = queue.using(timeout=2, key="ö").enqueue(workerjobs.echo, 1)
    by_id = {headers.read_headers(record.headers).id: record for record in records(hosts, topic)}
    record = by_id[plain.id]
    assert record.headers == [("embedkq", f"1;id={plain.id};timestamp={plain.timestamp}".encode())]
    assert record.key is None and record.value == pickle.dumps((workerjobs.echo, (1,), {}), 5)
    record = by_id[limited.id]
    assert (
        dict(record.headers)["embedkq"].endswith(b";timeout=2.0")
        and record.key == "ö".encode()
        and len(record.headers) == 1
    )
    assert limited.timeout == 2 and limited.key == "ö".encode()


def test_arguments_may_have_any_name(hosts: str, topic: str, queue: Queue) -> None:
    names = {
        name: name
        for name in ("self", "func", "timeout", "key", "partition", "topic", "args", "kwargs")
    }
    queue.enqueue(workerjobs.echo, **names)
    assert jobs_in(hosts, topic)[0].kwargs == names


def test_the_queues_own_timeout_goes_with_every_job(hosts: str, topic: str) -> None:
    with Queue(hosts=hosts, topic=topic, timeout=7.5) as queue:
        told = [
            used.enqueue(workerjobs.echo)
            for used in (queue, queue.using(timeout=None), queue.using(timeout=1))
        ]
        assert queue.timeout == 7.5
    assert [job.timeout for job in told] == [7.5, None, 1]
    assert {job.id: job.timeout for job in jobs_in(hosts, topic)} == {
        job.id: job.timeout for job in told
    }


def test_the_same_key_goes_to_the_same_partition_in_order(
    hosts: str, topic: str, queue: Queue
) -> None:
    for number in range(5):
        for key in ("a", "b", b"\xff"):
            queue.using(key=key).enqueue(workerjobs.echo, number)
    found = records(hosts, topic)
    for key in (b"a", b"b", b"\xff"):
        mine = [record for record in found if record.key == key]
        assert len({record.partition for record in mine}) == 1
        assert [codec.decode_call(record.value)[1] for record in mine] == [
            (number,) for number in range(5)
        ]


def test_using_sends_to_the_partition_that_is_named(hosts: str, topic: str, queue: Queue) -> None:
    for partition in (3, 0, 3):
        queue.using(partition=partition).enqueue(workerjobs.echo, partition)
    assert [
        (record.partition, codec.decode_call(record.value)[1][0])
        for record in records(hosts, topic)
    ] == [(0, 0), (3, 3), (3, 3)]


def test_a_partition_that_the_topic_does_not_have_is_refused(
    hosts: str, topic: str, queue: Queue
) -> None:
    with pytest.raises(ValueError, match=f"partition=4: topic '{topic}' has no such partition"):
        queue.using(partition=4).enqueue(workerjobs.echo)
    assert records(hosts, topic) == []


def test_using_leaves_the_queue_as_it_is_and_adds_up(hosts: str, topic: str) -> None:
    with Queue(hosts=hosts, topic=topic, timeout=4) as queue:
        bound = queue.using(key="k").using(timeout=9)
        assert (
            repr(bound)
            == f"Queue(topic={topic}).using(timeout=9, key=b'k', partition=None, retries=None, backoff=None)"
        )
        assert repr(queue) == f"Queue(topic={topic})"
        told = [
            bound.enqueue(workerjobs.echo),
            queue.enqueue(workerjobs.echo),
            bound.using(key=None).enqueue(workerjobs.echo),
        ]
    assert [(job.timeout, job.key) for job in told] == [(9, b"k"), (4, None), (9, None)]


def test_enqueue_many_takes_calls_in_all_their_forms(hosts: str, topic: str, queue: Queue) -> None:
    again = queue.using(key="k", timeout=3).enqueue(workerjobs.echo, "again")
    told = queue.enqueue_many(
        iter(
            [
                workerjobs.echo,
                (workerjobs.echo,),
                (workerjobs.echo, (1,)),
                (workerjobs.echo, [2], {"x": 3}),
                (workerjobs.echo, (), {}),
                again,
            ]
        )
    )
    assert [(job.func, job.args, job.kwargs, job.timeout, job.key) for job in told] == [
        (workerjobs.echo, args, kwargs, timeout, key)
        for args, kwargs, timeout, key in [
            ((), {}, None, None),
            ((), {}, None, None),
            ((1,), {}, None, None),
            ((2,), {"x": 3}, None, None),
            ((), {}, None, None),
            (("again",), {}, 3, b"k"),
        ]
    ]
    assert sorted(jobs_in(hosts, topic), key=lambda job: job.id) == sorted(
        [again, *told], key=lambda job: job.id
    )
    assert len({job.id for job in told}) == 6 and queue.enqueue_many([]) == []


def test_enqueue_many_sends_more_than_one_window_in_order(hosts: str, make_topic: Any) -> None:
    topic = make_topic(1)
    with Queue(hosts=hosts, topic=topic) as queue:
        told = queue.enqueue_many((workerjobs.echo, (number,)) for number in range(6000))
        assert [job.args[0] for job in told] == list(range(6000))
    found = [headers.read_headers(record.headers).id for record in records(hosts, topic)]
    assert found == [job.id for job in told]


@pytest.mark.parametrize(
    "call",
    [
        (),
        (workerjobs.echo, 1),
        (workerjobs.echo, (), []),
        (workerjobs.echo, (), {}, 1),
        (workerjobs.echo, "ab"),
        5,
        "echo",
        None,
        (5, ()),
    ],
)
def test_a_call_that_is_none_is_a_type_error_that_shows_it(
    hosts: str, topic: str, queue: Queue, call: Any
) -> None:
    with pytest.raises(TypeError) as caught:
        queue.enqueue_many([workerjobs.echo, call])
    assert repr(call[0] if call == (5, ()) else call) in str(caught.value)
    assert records(hosts, topic) == []  # the call before it was in the same window


def test_a_job_put_back_is_the_same_call_with_a_new_id(
    hosts: str, topic: str, queue: Queue
) -> None:
    first = queue.using(timeout=5, key="k").enqueue(workerjobs.echo, 1, two=2)
    second = queue.enqueue(first)
    assert second.id != first.id and second.timestamp >= first.timestamp and second[2:] == first[2:]
    assert [job.id for job in jobs_in(hosts, topic)] == [first.id, second.id]
    moved = queue.using(timeout=9, key="other").enqueue(first)
    assert (moved.timeout, moved.key, moved.args) == (9, b"other", (1,))
    assert queue.using(partition=2).enqueue(first).key is None


def test_a_job_put_back_with_arguments_or_without_a_function_is_refused(queue: Queue) -> None:
    job = Job("an-id", 1, "t", workerjobs.echo, (1,), {}, None, None)
    with pytest.raises(TypeError, match="keeps its arguments"):
        queue.enqueue(job, 1)
    with pytest.raises(TypeError, match="Job an-id could not be decoded here"):
        queue.enqueue(job._replace(func=None, args=None, kwargs=None))


@pytest.mark.parametrize("func", [5, "echo", None, (workerjobs.echo, ())])
def test_what_is_not_callable_is_refused_with_its_value(queue: Queue, func: Any) -> None:
    with pytest.raises(TypeError) as caught:
        queue.enqueue(func)
    assert repr(func) in str(caught.value)


def test_the_decorator_adds_delay_and_changes_nothing_else(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "decorated.py").write_text(f"""
from embedkq import Queue
queue = Queue(hosts={hosts!r}, topic={topic!r})
@queue.job(timeout=5, key="k")
def resize(path, width=80):
    "Docstring."
    return path, width
@queue.job
def plain(): return "plain"
@queue.job()
def called(): return "called"
""")
    script = tmp_path / "app.py"
    script.write_text("""
import pickle
import decorated as d
assert d.resize("a") == ("a", 80) and d.resize.__doc__ == "Docstring." and d.resize.__name__ == "resize"
assert pickle.loads(pickle.dumps(d.resize)) is d.resize
job = d.resize.delay("c.png", width=3)
assert (job.func, job.args, job.kwargs, job.timeout, job.key) == (d.resize, ("c.png",), {"width": 3}, 5, b"k")
assert d.plain.delay().timeout is None and d.called.delay()[3:6] == (d.called, (), {})
d.queue.close()
""")
    done = run_script(script)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert len(records(hosts, topic)) == 3


def test_enqueued_jobs_are_logged_and_long_ones_in_short(
    queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "embedkq.queue"):
        job = queue.enqueue(workerjobs.echo, 1)
        queue.enqueue(workerjobs.echo, "x" * 100_000)
    told = [record.getMessage() for record in caplog.records if record.name == "embedkq.queue"]
    assert (
        told[0] == f"Enqueued: {job!r}"
        and told[1].startswith("Enqueued: Job(id=")
        and len(told[1]) < 1100
    )


# Acknowledged by all replicas, or not at all.


@pytest.mark.needs("cluster", "pause", "keeps_data")
def test_a_job_is_acknowledged_once_all_replicas_have_it(broker_kind: Any) -> None:
    """Two replicas, and the one that is not the leader is frozen: who waits only for the leader
    would call the job sent."""
    # A busy machine may keep a node from its heartbeats for seconds: then it would not count as a
    # replica in sync any more.
    with Cluster(2, kind=broker_kind, properties={"broker.session.timeout.ms": "60000"}) as cluster:
        wanted = NewTopic(
            "shop",
            num_partitions=4,
            replication_factor=2,
            topic_configs={"min.insync.replicas": "2"},
        )
        with_admin(cluster.hosts, lambda admin: admin.create_topics([wanted]))
        partition = wait_until(
            lambda: led_by(cluster.hosts, "shop", 1), "node 1 leads a partition"
        )[0]
        with Queue(hosts=cluster.nodes[0].hosts, topic="shop") as queue:
            queue.using(partition=partition).enqueue(workerjobs.echo, "both")
            cluster.nodes[1].pause()
            assert unacknowledged(queue.using(partition=partition)).maybe_sent
            cluster.nodes[1].resume()
            cluster.wait_ready()
            queue.enqueue(workerjobs.echo, "both again")
        found = Counter(job.args[0] for job in jobs_in(cluster.hosts, "shop"))
        assert found["both"] == found["both again"] == 1 and set(found.values()) == {1}


def unacknowledged(queue: Any) -> BrokerUnavailable:
    """What enqueueing raises, within 10 s, at a broker that is being frozen; until all its threads
    stand still it may answer."""
    for number in itertools.count():
        begin = time.monotonic()
        try:
            queue.enqueue(workerjobs.echo, number)
        except BrokerUnavailable as error:
            assert time.monotonic() - begin < AT_MOST
            return error
        assert number < 3000, "it goes on acknowledging"
    raise AssertionError


def led_by(hosts: str, topic: str, node_id: int) -> list[int]:
    """Partitions of the topic that this node leads while both nodes are in sync."""
    described = with_admin(hosts, lambda admin: admin.describe_topics([topic]))[0]["partitions"]
    return [
        told["partition_index"]
        for told in described
        if told["leader_id"] == node_id and len(told["isr_nodes"]) == 2
    ]


# Too large.


def test_a_job_above_job_size_is_refused_with_both_sizes_and_not_sent(
    hosts: str, topic: str
) -> None:
    with Queue(hosts=hosts, topic=topic, job_size=5000) as queue:
        with pytest.raises(JobTooLarge) as caught:
            queue.enqueue(workerjobs.echo, b"x" * 6000)
        assert (
            6000 < caught.value.size < 6300
            and caught.value.limit == 5000
            and caught.value.limited_by == "job_size"
        )
        assert f"{caught.value.size:,}" in str(caught.value) and "5,000" in str(caught.value)
        with pytest.raises(JobTooLarge):
            queue.enqueue_many([workerjobs.echo, (workerjobs.echo, (b"x" * 6000,))])
    assert records(hosts, topic) == []


def test_job_size_bounds_payload_key_and_headers_together_to_the_byte(
    hosts: str, topic: str
) -> None:
    with Queue(hosts=hosts, topic=topic) as wide:
        job = wide.using(key="k" * 50, timeout=2).enqueue(workerjobs.echo, b"x" * 1000)
    record = records(hosts, topic)[0]
    size = (
        len(record.value)
        + len(record.key)
        + sum(len(name) + len(value) for name, value in record.headers)
    )
    with Queue(hosts=hosts, topic=topic, job_size=size) as queue:
        queue.enqueue(job)
    with (
        Queue(hosts=hosts, topic=topic, job_size=size - 1) as queue,
        pytest.raises(JobTooLarge) as caught,
    ):
        queue.enqueue(job)
    assert (caught.value.size, caught.value.limit) == (size, size - 1)
    assert len(records(hosts, topic)) == 2


def test_the_largest_job_by_default_is_taken_by_a_broker_with_default_settings(
    hosts: str, topic: str, queue: Queue
) -> None:
    payload = os.urandom(queue.job_size - 300)
    assert queue.enqueue(workerjobs.echo, payload).args == (payload,)
    assert jobs_in(hosts, topic)[0].args == (payload,)


def test_what_the_broker_refuses_is_too_large_with_both_sizes_and_not_there(
    hosts: str, make_topic_with: Any
) -> None:
    topic = make_topic_with(max_message_bytes="20000")
    with Queue(hosts=hosts, topic=topic) as queue:
        with pytest.raises(JobTooLarge) as caught:
            queue.enqueue(workerjobs.echo, b"x" * 30_000)
        error = caught.value
        assert (
            30_000 < error.size < 30_300
            and error.limit == 20_000
            and f"max.message.bytes of topic '{topic}'" in error.limited_by
        )
        assert f"{error.size:,} bytes" in str(error) and "20,000 bytes" in str(error)
        assert records(hosts, topic) == []
        queue.enqueue(workerjobs.echo, "the queue works on")
    assert [job.args for job in jobs_in(hosts, topic)] == [("the queue works on",)]


def test_small_jobs_that_only_make_up_a_large_batch_all_arrive_once(
    hosts: str, make_topic_with: Any
) -> None:
    topic = make_topic_with(max_message_bytes="20000")
    with Queue(hosts=hosts, topic=topic) as queue:
        told = queue.enqueue_many(
            (workerjobs.echo, (number, os.urandom(1000))) for number in range(100)
        )
    assert Counter(job.id for job in jobs_in(hosts, topic)) == Counter(job.id for job in told)


def test_enqueue_many_tells_which_the_broker_took_and_which_not(
    hosts: str, make_topic_with: Any
) -> None:
    """Those behind a refused one are given up by the client and may be there or not: then they
    count as failed."""
    topic = make_topic_with(max_message_bytes="20000")
    large = {3, 4, 7}
    with Queue(hosts=hosts, topic=topic) as queue:
        with pytest.raises(EnqueueFailed) as caught:
            queue.enqueue_many(
                (workerjobs.echo, (number, b"x" * (30_000 if number in large else 10)))
                for number in range(10)
            )
        error = caught.value
        failed, acknowledged = (
            [job.args[0] for job in jobs] for jobs in (error.failed, error.acknowledged)
        )
        assert sorted(failed + acknowledged) == list(range(10)) and set(failed) >= large
        assert failed == sorted(failed) and acknowledged == sorted(acknowledged)
        assert isinstance(error.__cause__, JobTooLarge) and error.__cause__.limit == 20_000
        assert str(error).startswith(
            f"{len(failed)} of 10 jobs were not acknowledged: the job takes"
        )
        there = Counter(job.args[0] for job in jobs_in(hosts, topic))
        assert (
            set(there.values()) == {1}
            and set(acknowledged) <= set(there)
            and not set(there) & large
        )
        queue.enqueue(workerjobs.echo, "the queue works on")
    assert [job.args[0] for job in jobs_in(hosts, topic)].count("the queue works on") == 1


def test_what_cannot_be_pickled_is_named_and_nothing_is_sent(
    hosts: str, topic: str, queue: Queue
) -> None:
    rows = (number for number in range(3))
    with pytest.raises(
        EncodeError,
        match=r"argument 'rows' of job workerjobs\.echo \(a 'generator'\) cannot be pickled",
    ):
        queue.enqueue(workerjobs.echo, 1, rows=rows)
    with pytest.raises(EncodeError, match=r"argument 1 of job workerjobs\.echo"):
        queue.enqueue_many([workerjobs.echo, (workerjobs.echo, (rows,))])
    assert records(hosts, topic) == []


# Brokers that do not answer, or refuse.


def all_at_once(*calls: Callable[[], Any]) -> list[tuple[float, Any]]:
    """Seconds that each call took, and what it raised (None for nothing), each on a thread of its
    own."""
    told: dict[int, tuple[float, Any]] = {}

    def work(number: int) -> None:
        begin, raised = time.monotonic(), None
        try:
            calls[number]()
        except Exception as error:
            raised = error
        told[number] = time.monotonic() - begin, raised

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [told[number] for number in range(len(calls))]


def test_hosts_that_do_not_answer_are_named_within_10_seconds_to_every_thread() -> None:
    queue, other = Queue(hosts=NOBODY), Queue(hosts=NOBODY)
    *singles, many = all_at_once(
        *[lambda: queue.enqueue(workerjobs.echo)] * 3,
        lambda: other.enqueue_many([workerjobs.echo] * 50),
    )
    for seconds, error in singles:
        assert type(error) is BrokerUnavailable and error.hosts == NOBODY and NOBODY in str(error)
        assert not error.maybe_sent and isinstance(error, ConnectionError)
        assert seconds < AT_MOST
    seconds, error = many
    assert type(error) is EnqueueFailed and seconds < AT_MOST
    assert (error.acknowledged, len(error.failed)) == ([], 50)
    assert (
        isinstance(error.__cause__, BrokerUnavailable)
        and not error.__cause__.maybe_sent
        and NOBODY in str(error)
    )
    queue.close()
    other.close()


@pytest.mark.needs("pause", "keeps_data")
def test_a_broker_that_falls_silent_leaves_it_open_whether_the_job_was_sent(
    make_broker: Callable[..., Broker],
) -> None:
    broker = make_broker()
    with Queue(hosts=broker.hosts, topic="shop") as queue:
        queue.enqueue(workerjobs.echo, "before")
        broker.pause()
        error = unacknowledged(queue)
        assert (
            error.maybe_sent and error.hosts == broker.hosts and "may have been sent" in str(error)
        )
        broker.resume()
        queue.enqueue(workerjobs.echo, "after")
    found = Counter(job.args[0] for job in jobs_in(broker.hosts, "shop"))
    assert found["before"] == found["after"] == 1 and set(found.values()) == {1}


def test_kafka_options_that_do_not_go_together_are_told_as_such(hosts: str, topic: str) -> None:
    with (
        Queue(hosts=hosts, topic=topic, kafka={"linger_ms": 20_000}) as queue,
        pytest.raises(ValueError, match="linger_ms"),
    ):
        queue.enqueue(workerjobs.echo)


# Threads, closing, exits, forks.


def test_many_threads_share_a_queue(hosts: str, topic: str, queue: Queue) -> None:
    told: list[Job] = []

    def work(number: int) -> None:
        for count in range(25):
            told.append(queue.enqueue(workerjobs.echo, number, count))
        told.extend(
            queue.using(key=str(number)).enqueue_many(
                [(workerjobs.echo, (number, count)) for count in range(25, 50)]
            )
        )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(told) == 400
    assert Counter(job.id for job in jobs_in(hosts, topic)) == Counter(job.id for job in told)


def test_the_first_job_of_many_threads_makes_one_connection(
    hosts: str, topic: str, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from embedkq._clients import producer

    made: list[object] = []
    original = producer.KafkaProducer

    def count(**options: Any) -> Any:
        made.append(threading.current_thread())
        return original(**options)

    monkeypatch.setattr(producer, "KafkaProducer", count)
    threads = [threading.Thread(target=queue.enqueue, args=(workerjobs.echo,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len(records(hosts, topic)) == 6


def test_a_closed_queue_says_so_and_closing_twice_does_no_harm(hosts: str, topic: str) -> None:
    queue = Queue(hosts=hosts, topic=topic)
    queue.enqueue(workerjobs.echo)
    queue.close()
    queue.close()
    with pytest.raises(Closed, match="closed"):
        queue.enqueue(workerjobs.echo)
    with pytest.raises(Closed):
        queue.enqueue_many([workerjobs.echo])
    assert len(records(hosts, topic)) == 1


def test_closing_ends_the_clients_thread(hosts: str, topic: str) -> None:
    before = set(threading.enumerate())
    with Queue(hosts=hosts, topic=topic) as queue:
        queue.enqueue(workerjobs.echo)
        assert set(threading.enumerate()) - before
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread.name


def waiting_records(queue: Queue) -> bool:
    """Whether the client holds records that the broker has not acknowledged."""
    client = queue._connection._kafka
    return client is not None and client._accumulator.has_incomplete


def test_close_sends_what_another_thread_has_handed_over(hosts: str, topic: str) -> None:
    queue = Queue(hosts=hosts, topic=topic, kafka={"linger_ms": 8000})
    told: list[Job] = []
    thread = threading.Thread(target=lambda: told.append(queue.enqueue(workerjobs.echo, "waits")))
    thread.start()
    wait_until(lambda: waiting_records(queue), "the record waits in the client")
    begin = time.monotonic()
    queue.close()
    thread.join()
    assert time.monotonic() - begin < 6, "it was only sent when its time had come"
    assert jobs_in(hosts, topic) == told and len(told) == 1


def test_the_end_of_the_program_without_a_close_sends_it_too(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    script = tmp_path / "app.py"
    script.write_text(f"""
import threading, time, workerjobs
from embedkq import Queue
queue = Queue(hosts={hosts!r}, topic={topic!r}, kafka={{"linger_ms": 8000}})
threading.Thread(target=queue.enqueue, args=(workerjobs.echo, "waits"), daemon=True).start()
deadline = time.monotonic() + 30
while time.monotonic() < deadline:
    client = queue._connection._kafka
    if client is not None and client._accumulator.has_incomplete:
        break
    time.sleep(0.005)
""")
    done = run_script(script)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert [job.args for job in jobs_in(hosts, topic)] == [("waits",)]


def test_a_program_that_never_closes_its_queue_ends(hosts: str, topic: str, tmp_path: Path) -> None:
    script = tmp_path / "app.py"
    script.write_text(f"""
import workerjobs
from embedkq import Queue
queue = Queue(hosts={hosts!r}, topic={topic!r})
unused = Queue(hosts={hosts!r}, topic={topic!r})
queue.enqueue(workerjobs.echo)
""")
    done = run_script(script)
    assert done.returncode == 0 and not done.stdout and not done.stderr, done.stderr
    assert len(records(hosts, topic)) == 1


def test_forks_of_a_process_that_is_sending_send_as_well(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    """The fork happens while threads of the parent are in the middle of enqueueing, and they go
    on."""
    script = tmp_path / "app.py"
    script.write_text(f"""
import os, signal, sys, threading, workerjobs
from embedkq import Queue
queue = Queue(hosts={hosts!r}, topic={topic!r})
queue.enqueue(workerjobs.echo, "parent")
stopping = threading.Event()
sent = []
def work():
    while not stopping.is_set():
        sent.append(queue.enqueue(workerjobs.echo, "parent"))
threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
codes = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        signal.alarm(40)
        queue.enqueue(workerjobs.echo, "child")
        queue.enqueue_many([(workerjobs.echo, ("child",))] * 4)
        queue.close()
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stopping.set()
for thread in threads:
    thread.join()
queue.enqueue(workerjobs.echo, "parent")
queue.close()
print(*codes, len(sent) + 2)
""")
    done = run_script(script)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    *codes, parents = done.stdout.split()
    assert codes == ["0"] * 4
    assert Counter(job.args[0] for job in jobs_in(hosts, topic)) == {
        "child": 20,
        "parent": int(parents),
    }


def test_a_child_that_only_leaves_does_not_disturb_its_parents_queue(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    script = tmp_path / "app.py"
    script.write_text(f"""
import os, sys, workerjobs
from embedkq import Queue
queue = Queue(hosts={hosts!r}, topic={topic!r})
queue.enqueue(workerjobs.echo)
pid = os.fork()
if pid == 0:
    queue.close()
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
queue.enqueue(workerjobs.echo)
queue.enqueue_many([workerjobs.echo] * 3)
""")
    done = run_script(script)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert len(records(hosts, topic)) == 5


# Secrets.


def test_a_queue_pickles_without_its_secrets(tmp_path: Path) -> None:
    files = {}
    for name in ("ca", "cert", "key"):
        (tmp_path / f"private-{name}.pem").write_text("x")
        files[f"{name}file"] = str(tmp_path / f"private-{name}.pem")
    kafka = {
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "anna-user",
        "sasl_plain_password": "hush-hush",
        "ssl_password": "key-password",
        "security_protocol": "SASL_SSL",
    }
    settings = {
        "timeout": 3,
        "job_size": 77_777,
        "retries": 0,
        "backoff": 1.5,
        "secret": "a-secret-of-16-bytes",
    }
    with Queue(hosts="a:1,b:2", topic="orders", kafka=kafka, **settings, **files) as queue:
        for data in (
            pickle.dumps(queue),
            dill.dumps(queue),
            codec.encode_call(workerjobs.echo, (queue, queue.using(key="k")), {}),
        ):
            for secret in (
                b"anna-user",
                b"hush-hush",
                b"key-password",
                b"private-",
                b"SASL",
                b"a-secret",
            ):
                assert secret not in data
        again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(queue))))
        bound = pickle.loads(pickle.dumps(queue.using(key="k", timeout=1)))
    assert (again.hosts, again.topic, again.timeout, again.job_size) == (
        "a:1,b:2",
        "orders",
        3,
        77_777,
    )
    assert (
        repr(again.using())
        == "Queue(topic=orders).using(timeout=3, key=None, partition=None, retries=0, backoff=1.5)"
    )
    assert (
        repr(bound)
        == "Queue(topic=orders).using(timeout=1, key=b'k', partition=None, retries=0, backoff=1.5)"
    )
    for text in (repr(queue), str(queue), repr(queue.using(key="k"))):
        assert "hush" not in text and "anna" not in text


@pytest.mark.parametrize(
    ("settings", "lacking"),
    [
        ({"secret": "a-secret-of-16-bytes"}, "without its secret, and"),
        ({"kafka": {"security_protocol": "SSL"}}, "without its TLS or login options, and"),
        (
            {
                "secret": b"a-secret-of-16-bytes",
                "kafka": {"ssl_cafile": None, "security_protocol": "SSL"},
            },
            "without its secret and its TLS or login options, and",
        ),
    ],
)
def test_a_queue_whose_secrets_did_not_travel_refuses_to_enqueue(
    settings: dict[str, Any], lacking: str
) -> None:
    queue = Queue(hosts="127.0.0.1:1", topic="orders", **settings)
    for again in (
        pickle.loads(pickle.dumps(queue)),
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(queue)))),
        copy.copy(queue),
    ):
        for enqueue in (
            lambda q=again: q.enqueue(workerjobs.echo, 1),
            lambda q=again: q.using(key="k").enqueue_many([workerjobs.echo]),
        ):
            with pytest.raises(
                QueueIncomplete, match=f"{lacking} so cannot enqueue .* make the Queue in a module"
            ):
                enqueue()


def test_a_job_on_a_signed_queue_that_travelled_fails_and_sends_nothing_unsigned(
    hosts: str, topic: str
) -> None:
    ended: list[tuple[str, Any]] = []
    secret = "a-secret-of-16-bytes"
    with Queue(hosts=hosts, topic=topic, secret=secret) as queue:
        queue.enqueue(workerjobs.enqueue_on, queue, 1)
        with Worker(
            hosts=hosts,
            topic=topic,
            secret=secret,
            callback=lambda *end: ended.append((end[0], end[3])),
        ) as worker:
            assert worker.drain(60)
    [(status, error)] = ended
    assert status == "failure" and isinstance(error, QueueIncomplete), error
    assert len(records(hosts, topic)) == 1


def test_a_queue_without_secrets_pickles_as_older_versions_read_it() -> None:
    """A child of the version before has no `__setstate__`."""
    assert Queue(hosts="a:1", topic="orders", timeout=3, kafka={"linger_ms": 3}).__reduce__() == (
        Queue,
        ("a:1", "orders", 3),
    )


def test_a_queue_that_was_pickled_enqueues(hosts: str, topic: str, queue: Queue) -> None:
    with pickle.loads(pickle.dumps(queue)) as again:
        job = again.enqueue(workerjobs.echo, "again")
    assert jobs_in(hosts, topic) == [job]


# TLS.


def openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def make_authority(folder: Path, name: str) -> None:
    told = [
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    ]
    openssl(
        folder,
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.pem",
        *told,
    )


def make_certificate(folder: Path, name: str, authority: str) -> None:
    """A key and a certificate for 127.0.0.1, as PEM files, signed by the authority."""
    (folder / "names.cnf").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    openssl(
        folder,
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        f"{name}.key",
        "-out",
        f"{name}.csr",
        "-subj",
        f"/CN={name}",
    )
    signer = [
        "-CA",
        f"{authority}.pem",
        "-CAkey",
        f"{authority}.key",
        "-CAcreateserial",
        "-extfile",
        "names.cnf",
    ]
    openssl(
        folder, "x509", "-req", "-in", f"{name}.csr", *signer, "-days", "2", "-out", f"{name}.pem"
    )


def make_revocation_lists(folder: Path) -> None:
    """nobody.crl, by which no certificate of the first authority is revoked, and server.crl, by
    which the server's is."""
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca = ours\n[ours]\ndatabase = index.txt\ncertificate = ours.pem\nprivate_key = ours.key\n"
        "default_md = sha256\ndefault_crl_days = 2\n"
    )
    (folder / "index.txt").touch()
    openssl(folder, "ca", "-config", "ca.cnf", "-gencrl", "-out", "nobody.crl")
    openssl(folder, "ca", "-config", "ca.cnf", "-revoke", "server.pem")
    openssl(folder, "ca", "-config", "ca.cnf", "-gencrl", "-out", "server.crl")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two authorities, a server's and a client's certificate of the first one."""
    folder = tmp_path_factory.mktemp("certificates")
    for authority in ("ours", "theirs"):
        make_authority(folder, authority)
    for name in ("server", "client"):
        make_certificate(folder, name, "ours")
    make_revocation_lists(folder)
    return folder


def tls_files(certificates: Path) -> dict[str, bytes]:
    server = (certificates / "server.key").read_bytes() + (certificates / "server.pem").read_bytes()
    return {"server.pem": server, "ours.pem": (certificates / "ours.pem").read_bytes()}


TLS_PROPERTIES = {
    "listener.name.tls.ssl.keystore.type": "PEM",
    "listener.name.tls.ssl.keystore.location": "{folder}/server.pem",
    "listener.name.tls.ssl.truststore.type": "PEM",
    "listener.name.tls.ssl.truststore.location": "{folder}/ours.pem",
}


@pytest.mark.needs("listeners", "properties")
def test_over_tls(make_broker: Callable[..., Broker], certificates: Path) -> None:
    """One broker for all of it: starting one takes seconds."""
    properties = {
        **TLS_PROPERTIES,
        "auto.create.topics.enable": "false",
        "listener.name.mutual.ssl.client.auth": "required",
    }
    properties |= {
        name.replace(".tls.", ".mutual."): value for name, value in TLS_PROPERTIES.items()
    }
    broker = make_broker(
        properties, listeners={"TLS": "SSL", "MUTUAL": "SSL"}, files=tls_files(certificates)
    )
    with_admin(
        broker.hosts,
        lambda admin: admin.create_topics(
            [NewTopic("shop", num_partitions=1, replication_factor=1)]
        ),
    )
    tls, mutual = broker.address("TLS"), broker.address("MUTUAL")
    ours, theirs = str(certificates / "ours.pem"), str(certificates / "theirs.pem")

    with Queue(hosts=tls, topic="shop", cafile=ours) as queue:
        queue.enqueue(workerjobs.echo, "by cafile")
        with (
            pytest.raises(JobTooLarge) as too_large,
            Queue(hosts=tls, topic="shop", cafile=ours, job_size=3_000_000) as large,
        ):
            large.enqueue(workerjobs.echo, b"x" * 2_000_000)
        assert too_large.value.limit == 1_048_588  # the broker's default, asked for over TLS
    with Queue(hosts=tls, topic="shop", kafka={"ssl_cafile": ours}) as queue:
        queue.enqueue(workerjobs.echo, "by option")
    own = {
        "certfile": str(certificates / "client.pem"),
        "keyfile": str(certificates / "client.key"),
    }
    with Queue(hosts=mutual, topic="shop", cafile=ours, **own) as queue:
        queue.enqueue(workerjobs.echo, "with a certificate of its own")
    with Queue(
        hosts=tls, topic="shop", cafile=ours, crlfile=str(certificates / "nobody.crl")
    ) as queue:
        queue.enqueue(workerjobs.echo, "not revoked")

    # A plaintext port is never used as one when TLS files are given, nor is a certificate left out
    # that is asked for.
    queues = {
        "certificate verify failed": Queue(hosts=tls, topic="shop", cafile=theirs),
        "TLS with .* fails": Queue(hosts=broker.hosts, topic="shop", cafile=ours),
        "certificate required|bad certificate": Queue(hosts=mutual, topic="shop", cafile=ours),
        "topic 'nowhere'.* does it exist": Queue(hosts=tls, topic="nowhere", cafile=ours),
        "certificate revoked": Queue(
            hosts=tls, topic="shop", cafile=ours, crlfile=str(certificates / "server.crl")
        ),
    }
    ended = all_at_once(
        *[partial(queue.enqueue, workerjobs.echo, "must not arrive") for queue in queues.values()]
    )
    for (told, queue), (seconds, error) in zip(queues.items(), ended, strict=True):
        assert (
            type(error) is (BrokerRefused if "certificate" in told else BrokerUnavailable)
            and seconds < AT_MOST
        )
        assert not getattr(error, "maybe_sent", False)
        assert queue.hosts in str(error) and re.search(told, str(error)), str(error)
        queue.close()
    found = [job.args[0] for job in jobs_in(broker.hosts, "shop")]
    assert sorted(found) == [
        "by cafile",
        "by option",
        "not revoked",
        "with a certificate of its own",
    ]


def test_a_tls_file_without_a_certificate_in_it_is_refused_clearly(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    with Queue(hosts=hosts, topic=topic, cafile=str(tmp_path / "empty.pem")) as queue:
        with pytest.raises(ValueError, match=r"cafile='.*empty\.pem'"):
            queue.enqueue(workerjobs.echo)
        with pytest.raises(EnqueueFailed, match=r"empty\.pem"):
            queue.enqueue_many([workerjobs.echo] * 3)
    assert records(hosts, topic) == []
