"""What the development broker costs while nothing happens."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from commandline import Program
from support import wait_until

from embedkq import Worker

SECONDS = 10.0
SHARE = 0.003


def used(processes: list[psutil.Process]) -> float:
    """Seconds of processor time that the processes have had so far, of all their threads."""
    return (
        sum(
            int(path.read_text().split()[0])
            for process in processes
            for path in Path(f"/proc/{process.pid}/task").glob("*/schedstat")
        )
        / 1e9
    )


def least_share(processes: list[psutil.Process]) -> float:
    """Of one core, the least of up to three looks: neighbours make each wake-up dearer."""
    least = 1.0
    for _ in range(3):
        before, began = used(processes), time.monotonic()
        time.sleep(SECONDS)
        least = min(least, (used(processes) - before) / (time.monotonic() - began))
        if least <= SHARE:
            break
    return least


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="only Linux tells processor time that finely"
)
@pytest.mark.usefixtures("embedded_broker_program")
def test_an_idle_broker_takes_next_to_nothing(tmp_path: Path) -> None:
    with Program(tmp_path, "broker", "--port=0", f"--data={tmp_path}/kafka") as running:
        running.says("Ctrl-C to stop it")
        family = running.family()
        assert len(family) == 2
        shares = {}
        for with_worker in (False, True):
            worker = (
                Worker(hosts=running.out[0], topic="idle").start_background()
                if with_worker
                else None
            )
            try:
                if worker is not None:
                    wait_until(
                        lambda worker=worker: (
                            worker.health().seconds_since_commit is not None or worker.drain(30)
                        ),
                        "it has joined",
                    )
                shares[with_worker] = least_share(family)
            finally:
                if worker is not None:
                    worker.stop()
    assert shares[False] <= SHARE and shares[True] <= SHARE, shares
