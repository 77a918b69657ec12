"""Faults that `make chaos` does not mix in: a cluster's leader killed, commits that are refused for
long, clocks that jump."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from brokers import Broker, Cluster
from kafka import errors as kafka_errors
from support import Recorder, fire_until, lag, lines, send_many, wait_until, with_admin

from embedkq import Queue, Worker

SESSION = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500}


def leader_of(hosts: str, topic: str) -> int:
    """Number of the node that leads partition 0; 0 while none does."""
    found = with_admin(hosts, lambda admin: admin.describe_topics([topic]))
    leaders = [
        part["leader_id"]
        for one in found
        for part in one["partitions"]
        if part["partition_index"] == 0
    ]
    return max(0, *leaders, 0)


@pytest.mark.needs("cluster", "kill")
@pytest.mark.hang_guard(240)
def test_the_leader_of_a_cluster_is_killed_under_load(
    broker: Broker, topic: str, group: str
) -> None:
    with Cluster(3, kind=type(broker)) as cluster:  # type: ignore[arg-type]
        with_admin(
            cluster.hosts,
            lambda admin: admin.create_topics(
                {topic: {"num_partitions": 3, "replication_factor": 3}}
            ),
        )
        led = wait_until(lambda: leader_of(cluster.hosts, topic), "partition 0 has a leader")
        recorder, sent, stop = Recorder(), [], threading.Event()

        def send() -> None:
            with Queue(hosts=cluster.hosts, topic=topic) as queue:
                while not stop.is_set():
                    sent.extend(job.id for job in queue.enqueue_many([workerjobs.echo] * 10))
                    stop.wait(0.02)

        sending = threading.Thread(target=send)
        with Worker(
            hosts=cluster.hosts,
            topic=topic,
            group=group,
            callback=recorder,
            processes=2,
            kafka=SESSION,
        ) as worker:
            sending.start()
            try:
                fire_until(worker, lambda: len(recorder) > 200, "it works")
                cluster.nodes[led - 1].kill()
                count = len(recorder)
                fire_until(
                    worker, lambda: len(recorder) > count + 500, "it goes on with the other two"
                )
            finally:
                stop.set()
                sending.join()
            fire_until(
                worker, lambda: set(sent) <= set(recorder.ids), "all that was acknowledged is done"
            )
            assert worker.stop()
        assert max(recorder.ids.values()) == 1


def test_commits_that_are_refused_for_long_are_no_reason_to_begin_anew(
    hosts: str, topic: str, group: str, caplog: Any
) -> None:
    """As in a rebalance that waits for a slow member: the broker lists this one, so nothing is
    replaced, lost or run twice."""
    recorder = Recorder()
    with Worker(
        hosts=hosts, topic=topic, group=group, callback=recorder, processes=2, kafka=SESSION
    ) as worker:
        ids = send_many(hosts, topic, workerjobs.echo, [()] * 50)
        fire_until(worker, lambda: len(recorder) == 50, "it works")
        client = worker._runtime.consumer._client
        commit, refused = client.kafka.commit, []

        def refuse(*_: Any, **__: Any) -> None:
            refused.append(time.monotonic())
            raise kafka_errors.RebalanceInProgressError

        client.kafka.commit = refuse
        ids += send_many(hosts, topic, workerjobs.echo, [()] * 50)
        fire_until(
            worker,
            lambda: refused and refused[-1] - refused[0] > 15,
            "refused for longer than two sessions",
        )
        client.kafka.commit = commit
        fire_until(worker, lambda: lag(hosts, group, topic) == 0, "all is committed")
        assert worker._runtime.consumer._client is client
    assert (
        recorder.ids == dict.fromkeys(ids, 1) and "Joining with a new consumer" not in caplog.text
    )


@pytest.mark.parametrize("jump", [-86_400.0, 86_400.0])
def test_clocks_that_jump_change_no_limit(
    hosts: str, topic: str, group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    """Limits are measured by a clock that is never set: what `time.time` says, in the host and in
    the child, is of no weight."""
    recorder, really = Recorder(), time.time
    with (
        Queue(hosts=hosts, topic=topic) as queue,
        Worker(hosts=hosts, topic=topic, group=group, callback=recorder) as worker,
    ):
        queue.using(key="k").enqueue(workerjobs.set_clock, jump)
        queue.using(key="k", timeout=30).enqueue(
            workerjobs.note_both_ends, str(tmp_path / "notes"), "good", 0.5
        )
        queue.using(key="k", timeout=0.5).enqueue(workerjobs.spin, str(tmp_path / "spin"))
        fire_until(worker, lambda: recorder.calls, "the child's clock is set")
        monkeypatch.setattr(time, "time", lambda: really() + jump)
        fire_until(worker, lambda: len(recorder) == 3, "all are done")
        began = float(lines(tmp_path / "spin")[0].split()[0])
        assert time.monotonic() - began < 20
    assert [call.status for call in recorder.calls] == ["success", "success", "timeout"]
