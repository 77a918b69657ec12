"""What `worker.health()` tells, and that a worker without progress says so by itself."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from support import Recorder, fire_until, lines, send_many, wait_until

from embedkq import Queue, Worker
from embedkq.worker import progress_watch


@pytest.fixture
def make_worker(hosts: str, topic: str, group: str) -> Callable[..., Worker]:
    def make(callback: Any = None, **options: Any) -> Worker:
        return Worker(hosts=hosts, topic=topic, group=group, callback=callback, **options)

    return make


@pytest.fixture
def quick_to_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_watch, "NO_PROGRESS_SECONDS", 2.5)


def test_a_worker_that_works_is_healthy_and_counts(
    make_worker: Any, hosts: str, topic: str, tmp_path: Path
) -> None:
    gate, notes, recorder = tmp_path / "gate", tmp_path / "notes", Recorder()
    worker = make_worker(recorder, processes=2)
    assert not worker.health().healthy and worker.health().reasons == ("the worker is new",)
    send_many(hosts, topic, workerjobs.echo, [()] * 20)
    send_many(hosts, topic, workerjobs.note_and_fail, [(str(notes), 1)])
    send_many(hosts, topic, workerjobs.spin, [(str(tmp_path / "spin"),)], timeout=0.2)
    with worker:
        fire_until(worker, lambda: len(recorder) == 22, "all are done")
        send_many(hosts, topic, workerjobs.note_and_wait, [(str(notes), 2, str(gate))])
        wait_until(lambda: len(lines(notes)) == 2, "one runs")
        wait_until(
            lambda: worker.health().lag and sum(worker.health().lag.values()) == 1,
            "the lag is known",
        )
        now = worker.health()
        assert now.healthy and now.state == "running" and now.reasons == ()
        assert (
            now.in_flight == 1
            and now.oldest_running_seconds is not None
            and now.oldest_running_seconds < 30
        )
        assert now.ended == {"success": 20, "failure": 1, "timeout": 1, "undecodable": 0}
        assert now.children_alive == 2 and now.children_started == 3 and now.waiting_callbacks == 0
        assert now.seconds_since_poll is not None and now.seconds_since_poll < 10
        assert now.seconds_since_commit is not None and now.seconds_since_callback is not None
        assert json.loads(json.dumps(now.as_dict()))["ended"]["timeout"] == 1
        with pytest.raises(FrozenInstanceError):
            now.state = "else"
        gate.touch()
        assert worker.drain(60)
    assert worker.health().reasons == ("the worker is stopped",)


def test_a_stuck_consumer_is_seen_and_told_by_the_workers_thread(
    make_worker: Any, quick_to_judge: None, monkeypatch: Any, caplog: Any
) -> None:
    caplog.set_level("INFO", "embedkq")
    gate = threading.Event()
    with make_worker() as worker:
        wait_until(lambda: worker.health().healthy, "it is well")
        consumer = worker._runtime.consumer
        monkeypatch.setattr(consumer._drains, "answer", lambda client: gate.wait(60))
        wait_until(lambda: "consumer thread has made no turn" in caplog.text, "it is told")
        assert not worker.health().healthy and "consumer thread" in worker.health().reasons[0]
        monkeypatch.undo()
        gate.set()
        wait_until(lambda: "makes progress again" in caplog.text, "its recovery is told")
        assert worker.health().healthy


def test_a_stuck_loop_is_seen_and_told_by_the_consumers_thread(
    make_worker: Any, quick_to_judge: None, monkeypatch: Any, caplog: Any
) -> None:
    gate = threading.Event()
    with make_worker() as worker:
        wait_until(lambda: worker.health().healthy, "it is well")
        monkeypatch.setattr(worker._runtime.loop, "_settle", lambda: gate.wait(60))
        wait_until(lambda: "control thread has made no turn" in caplog.text, "it is told")
        assert not worker.health().healthy
        monkeypatch.undo()
        gate.set()
        wait_until(lambda: worker.health().healthy, "it is well again")


def test_missing_children_and_waiting_callbacks_are_unhealthy(
    make_worker: Any, quick_to_judge: None, hosts: str, topic: str, monkeypatch: Any
) -> None:
    with make_worker(Recorder()) as worker:
        wait_until(lambda: worker.health().healthy, "it is well")
        supervisor = worker._runtime.loop.pool._supervisor
        wait_until(lambda: supervisor.children, "the child is there")
        monkeypatch.setattr(supervisor, "_schedule", lambda slot: None)
        monkeypatch.setattr(supervisor, "look", lambda now: None)
        os.kill(next(iter(supervisor.children)), signal.SIGKILL)
        wait_until(lambda: not worker.health().healthy, "the missing child is seen")
        assert "child processes have been missing" in worker.health().reasons[0]
        monkeypatch.undo()
    with make_worker(Recorder()) as worker:
        send_many(hosts, topic, workerjobs.echo, [()])
        wait_until(lambda: worker.health().waiting_callbacks, "a callback waits")
        wait_until(lambda: not worker.health().healthy, "that nobody fires it is seen")
        assert "must call run_callbacks()" in worker.health().reasons[0]
        worker.run_callbacks()


def test_a_long_job_is_no_want_of_progress(
    make_worker: Any, quick_to_judge: None, hosts: str, topic: str, tmp_path: Path
) -> None:
    recorder = Recorder()
    with Queue(hosts=hosts, topic=topic) as queue, make_worker(recorder) as worker:
        queue.enqueue(workerjobs.note_both_ends, str(tmp_path / "notes"), "long", 6)
        while not recorder.calls:
            worker.run_callbacks(0.5)
            assert worker.state != "running" or worker.health().healthy, worker.health().reasons
