"""A worker that is started again and again leaves nothing behind."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import pytest
import workerjobs
from kafka import KafkaConsumer
from kafka.cluster import ClusterMetadata

from embedkq import Queue, Worker
from embedkq._clients import private
from embedkq.worker.control_thread.control_loop import ControlLoop
from embedkq.worker.runtime import Runtime

WATCHED = (private.Consumer, KafkaConsumer, private.Producer, ClusterMetadata, Runtime, ControlLoop)


def alive() -> Counter[str]:
    gc.collect()
    return Counter(
        kind.__name__ for each in gc.get_objects() for kind in WATCHED if type(each) is kind
    )


def run_once(worker: Worker, queue_options: dict[str, Any]) -> None:
    with worker, Queue(**queue_options) as queue:
        queue.enqueue(workerjobs.echo, 1)
        assert worker.drain(60)


@pytest.mark.parametrize("same", [True, False])
def test_restarts_leave_no_client_behind(hosts: str, topic: str, same: bool) -> None:
    def make() -> Worker:
        return Worker(hosts=hosts, topic=topic, callback=lambda *ended: None)

    worker = make()
    run_once(worker, {"hosts": hosts, "topic": topic})
    before = alive()
    for _ in range(4):
        worker = worker if same else make()
        run_once(worker, {"hosts": hosts, "topic": topic})
    assert alive() - before == Counter()


def test_a_worker_that_has_ended_and_is_kept_keeps_no_client(hosts: str, topic: str) -> None:
    before = alive()
    worker = Worker(hosts=hosts, topic=topic)
    run_once(worker, {"hosts": hosts, "topic": topic})
    left = alive() - before
    assert left["Consumer"] == left["ClusterMetadata"] == left["Producer"] == 0
    assert worker.state == "stopped"


def test_a_worker_asks_for_its_own_topic_only(
    hosts: str, topic: str, make_topic: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_topic(1)
    asked: list[bool] = []
    known: set[str] = set()
    really, update = ClusterMetadata.metadata_request, ClusterMetadata.update_metadata

    def note_request(cluster: Any) -> Any:
        asked.append(cluster.need_all_topic_metadata)
        return really(cluster)

    def note_topics(cluster: Any, metadata: Any) -> Any:
        known.update(each.name for each in metadata.topics)
        return update(cluster, metadata)

    monkeypatch.setattr(ClusterMetadata, "metadata_request", note_request)
    monkeypatch.setattr(ClusterMetadata, "update_metadata", note_topics)
    run_once(Worker(hosts=hosts, topic=topic), {"hosts": hosts, "topic": topic})
    assert asked and not any(asked) and known == {topic}
