"""A start while Kafka is away, and in a group that is another program's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import workerjobs
from brokers import Broker
from kafka import KafkaConsumer
from support import HANG_SECONDS, Recorder, fire_until, wait_until

from embedkq import Queue, Worker
from embedkq.errors import BrokerRefused

AWAY = pytest.mark.needs("kill", "keeps_data")


@pytest.fixture
def away(make_broker: Callable[..., Broker]) -> Broker:
    """A broker whose address is known, and that does not run."""
    broker = make_broker()
    broker.kill()
    return broker


def enqueue(hosts: str, topic: str) -> None:
    with Queue(hosts, topic) as queue:
        queue.enqueue(workerjobs.echo, 1)


@AWAY
def test_a_background_worker_waits_for_kafka_and_says_so(away: Broker, caplog: Any) -> None:
    recorder = Recorder()
    began = time.monotonic()
    worker = Worker(away.hosts, "late", callback=recorder).start_background(wait=False)
    assert time.monotonic() < began + 5, "it returns at once, and not after the 10 s of an attempt"
    wait_until(
        lambda: any("does not answer" in text for text in caplog.messages),
        "the first attempt has failed",
    )
    assert worker.state == "starting" and worker.run_callbacks() == 0
    health = worker.health()
    assert not health.healthy and "the worker is starting" in health.reasons
    away.start()
    enqueue(away.hosts, "late")
    fire_until(worker, lambda: len(recorder) == 1, "the job is done")
    assert worker.state == "running" and worker.health().healthy, worker.health()
    assert sum("does not answer" in text for text in caplog.messages) == 1
    assert worker.stop(HANG_SECONDS)


@AWAY
def test_a_worker_in_the_foreground_waits_for_kafka(away: Broker) -> None:
    recorder = Recorder()
    worker = Worker(away.hosts, "late", callback=recorder)
    thread = threading.Thread(target=worker.start, kwargs={"wait": False, "max_jobs": 1})
    thread.start()
    wait_until(lambda: worker.state == "starting", "it has begun")
    away.start()
    enqueue(away.hosts, "late")
    thread.join(HANG_SECONDS)
    assert not thread.is_alive() and worker.state == "stopped" and len(recorder) == 1


@AWAY
def test_an_app_on_asyncio_serves_while_kafka_is_away(away: Broker) -> None:
    told: list[Any] = []

    async def callback(*end: Any) -> None:
        told.append(end[0])

    async def serve() -> None:
        worker = Worker(away.hosts, "late", callback=callback)
        worker.start_background(wait=False)
        await asyncio.sleep(0)
        assert worker.state == "starting"
        await asyncio.to_thread(away.start)
        await asyncio.to_thread(enqueue, away.hosts, "late")
        while not told:
            await asyncio.sleep(0.05)
        assert await worker.astop(HANG_SECONDS)

    asyncio.run(asyncio.wait_for(serve(), 2 * HANG_SECONDS))
    assert told == ["success"]


@AWAY
def test_a_flask_app_serves_while_kafka_is_away(away: Broker) -> None:
    flask = pytest.importorskip("flask")
    from embedkq.flask import EmbedKQ

    told: list[Any] = []
    app = flask.Flask("late")
    app.config.update(EMBEDKQ_HOSTS=away.hosts, EMBEDKQ_TOPIC="late", EMBEDKQ_HEALTH_URL="/health")
    kq = EmbedKQ(app, callback=lambda *end: told.append(end[0]))
    client = app.test_client()
    assert client.get("/health").status_code == 503
    away.start()
    enqueue(away.hosts, "late")
    wait_until(lambda: told == ["success"], "the job is done")
    wait_until(lambda: client.get("/health").status_code == 200, "the app is healthy")
    assert kq.stop(HANG_SECONDS, app)


def test_a_worker_that_waits_for_kafka_stops_at_once() -> None:
    worker = Worker("127.0.0.1:1").start_background(wait=False)
    time.sleep(0.2)
    began = time.monotonic()
    worker.stop(1)
    assert time.monotonic() < began + 4 and worker.state == "stopped"


def test_burst_waits_for_kafka_too(make_broker: Callable[..., Broker]) -> None:
    broker = make_broker()
    enqueue(broker.hosts, "late")
    recorder = Recorder()
    Worker(broker.hosts, "late", callback=recorder).start(burst=True, wait=False)
    assert len(recorder) == 1


def test_the_group_of_another_program_is_named_with_what_to_do(
    hosts: str, topic: str, group: str
) -> None:
    other = KafkaConsumer(bootstrap_servers=hosts, group_id=group)
    try:
        other.subscribe([topic])
        wait_until(
            lambda: other.poll(500) is not None and other.assignment(),
            "the other program has joined",
        )
        stop = threading.Event()
        polling = threading.Thread(
            target=lambda: [other.poll(200) for _ in iter(stop.is_set, True)]
        )
        polling.start()
        try:
            told = rf"group '{group}' at .* has members that are not workers of embedkq.*set group=\.\.\. to a name"
            with pytest.raises(BrokerRefused, match=told):
                Worker(hosts, topic, group=group).start()
        finally:
            stop.set()
            polling.join()
    finally:
        other.close()
