"""A topic that is deleted under a worker: it says so, waits, and takes the jobs of the one that is
created in its place."""

from __future__ import annotations

from collections.abc import Iterator

import brokers
import pytest
import workerjobs
from brokers import Broker
from support import (
    HANG_SECONDS,
    Recorder,
    create_topic,
    fire_until,
    send_many,
    wait_until,
    with_admin,
)

from embedkq import Worker
from embedkq.errors import WorkerFailed
from embedkq.worker.consumer_thread import topic_watch

pytestmark = pytest.mark.needs("properties")


@pytest.fixture(scope="module")
def strict(broker_kind: type[Broker]) -> Iterator[Broker]:
    """A broker that creates no topic that it is asked for."""
    if "properties" not in broker_kind.capabilities:
        pytest.skip(f"{broker_kind.kind} cannot be set up so")
    with brokers.make(broker_kind, {"auto.create.topics.enable": "false"}) as made:
        yield made


def test_a_worker_whose_topic_is_gone_is_unhealthy_until_it_is_there_again(
    strict: Broker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "embedkq")
    monkeypatch.setattr(topic_watch, "_UNKNOWN_SECONDS", HANG_SECONDS)
    hosts, recorder = strict.hosts, Recorder()
    create_topic(hosts, "goes", 2)
    with Worker(hosts, "goes", callback=recorder) as worker:
        send_many(hosts, "goes", workerjobs.echo, [(1,)])
        assert worker.drain(HANG_SECONDS) and worker.health().healthy
        with_admin(hosts, lambda admin: admin.delete_topics(["goes"]))
        wait_until(lambda: not worker.health().healthy, "that it is gone is seen")
        (reason,) = worker.health().reasons
        assert reason.startswith(
            f"topic 'goes' does not exist at {hosts} any more: create the topic"
        ), reason
        began = worker._runtime.consumer.last_turn
        wait_until(lambda: worker._runtime.consumer.last_turn > began + 3, "it goes on looking")
        assert worker.state == "running" and worker.health().reasons == (reason,)
        create_topic(hosts, "goes", 2)
        wait_until(lambda: worker.health().healthy, "that it is there again is seen")
        send_many(hosts, "goes", workerjobs.echo, [(number,) for number in range(100, 120)])
        fire_until(worker, lambda: len(recorder) >= 21, "the new jobs are done")
        assert worker.drain(HANG_SECONDS) and worker.health().healthy
    assert sorted(result[0][0] for result in recorder.results) == [1, *range(100, 120)]
    told = [record for record in caplog.records if "does not exist" in record.getMessage()]
    assert [(record.levelname, record.getMessage()) for record in told] == [
        ("WARNING", f"Cannot fetch jobs: {reason}.")
    ]
    assert caplog.messages.count("Topic goes exists.") == 1 and "does not answer" not in caplog.text


def test_a_worker_whose_topic_never_was_there_is_unhealthy_and_ends(
    strict: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_watch, "_UNKNOWN_SECONDS", 4.0)
    worker = Worker(strict.hosts, "never", callback=Recorder()).start_background()
    wait_until(
        lambda: "topic 'never' does not exist" in str(worker.health().reasons),
        "that it is missing is seen",
    )
    wait_until(lambda: worker.state == "failed", "it ends")
    with pytest.raises(
        WorkerFailed,
        match=r"topic 'never' does not exist at .* does not create topics: create the topic",
    ):
        worker.run_callbacks()


def test_a_worker_takes_a_topic_that_comes_while_it_waits(strict: Broker) -> None:
    worker = Worker(strict.hosts, "late", callback=Recorder()).start_background()
    wait_until(lambda: worker.health().reasons, "it is missing")
    create_topic(strict.hosts, "late", 1)
    wait_until(lambda: worker.health().healthy, "it is there")
    assert worker.stop(HANG_SECONDS)
