"""After a freeze nothing begins before Kafka has confirmed that the partitions are still ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from support import ROOT, lag, lines, send_many, wait_until

from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.control_thread.freeze_guard import FreezeGuard


def test_it_closes_at_a_gap_and_opens_with_the_next_commit() -> None:
    shared = SharedState()
    shared.session_seconds = 10.0
    fence = FreezeGuard(shared, longest_turn=1.0)
    assert fence.open
    for now in (100.0, 101.0, 106.9):
        fence.tick(now)
        assert fence.open
    fence.tick(113.0)
    assert not fence.open
    fence.tick(113.1)
    assert not fence.open
    shared.confirmed = 112.9
    assert not fence.open  # that commit was before
    shared.confirmed = 113.2
    assert fence.open


HOST = """
import sys, time
from embedkq import Worker
import workerjobs
hosts, topic, group, told = sys.argv[1:]
def callback(status, job, result, exception, traceback):
    workerjobs.note(told, f"{time.monotonic()} {job.args[1]}")
Worker(hosts=hosts, topic=topic, group=group, callback=callback, processes=1,
       kafka={"session_timeout_ms": 6000, "heartbeat_interval_ms": 500}).start()
"""


def test_a_host_that_wakes_up_begins_nothing_that_another_has_taken_over(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    (tmp_path / "host.py").write_text(HOST)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(tmp_path / "host.py"), hosts, topic, group, str(tmp_path / name)],
            env=environment,
        )

    import workerjobs

    send_many(
        hosts,
        topic,
        workerjobs.note_both_ends,
        [(str(tmp_path / "notes"), number, 0.1) for number in range(100)],
        partition=0,
    )
    first = start("first")
    second = None
    try:
        wait_until(
            lambda: len(lines(tmp_path / "first")) >= 10,
            "the first is at work, with the rest in its buffer",
        )
        first.send_signal(signal.SIGSTOP)
        second = start("second")
        wait_until(lambda: lag(hosts, group, topic) == 0, "the second has done the rest")
        woken = time.monotonic()
        first.send_signal(signal.SIGCONT)
        send_many(
            hosts,
            topic,
            workerjobs.note_both_ends,
            [(str(tmp_path / "notes"), number, 0.0) for number in range(100, 140)],
        )
        wait_until(lambda: lag(hosts, group, topic) == 0, "both are well")
        afterwards = [
            line.split() for line in lines(tmp_path / "first") if float(line.split()[0]) > woken
        ]
        assert (
            sum(int(number) < 100 for _, number in afterwards) <= 1
        )  # what its child was at work on when it froze
    finally:
        for host in (first, second):
            if host is not None:
                host.send_signal(signal.SIGCONT)
                host.kill()
                host.wait()
