"""A short run of `make chaos`, and that its report would tell of a broken promise."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from chaos.faults import Event
from chaos.report import Report, make_report
from support import ROOT


@pytest.mark.needs("kafka", "kill", "pause")
@pytest.mark.hang_guard(300)
def test_a_short_run_keeps_every_promise(broker_kind: type) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-m", "chaos", "--seed=7", "--duration=25"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every promise was kept." in done.stdout


def report_of(folder: Path, notes: str, events: list[Event], acknowledged: tuple[int, ...] = (1, 2)) -> Report:
    (folder / "host-1.log").write_text(notes)
    load = SimpleNamespace(acknowledged=dict.fromkeys(acknowledged, "good"))
    return make_report(folder, load, events, [], dict.fromkeys(acknowledged, 0))  # type: ignore[arg-type]


GOOD = "1.0 begin 1 k\n1.1 end 1 k\n1.2 told 1 success\n2.0 begin 2 k\n2.1 end 2 k\n2.2 told 2 success\n"


def test_the_report_of_a_good_run_is_good(tmp_path: Path) -> None:
    assert report_of(tmp_path, GOOD, []).well


@pytest.mark.parametrize(
    ("notes", "what"),
    [
        (GOOD[: GOOD.index("2.0")], "lost"),
        (GOOD.replace("2.2 told 2 success\n", ""), "callbacks_missing"),
        (GOOD.replace("2 success", "2 failure"), "wrong_status"),
        (GOOD + "3.0 begin 2 k\n3.1 end 2 k\n", "unexplained"),
        (GOOD + "3.0 told 2 success\n", "unexplained"),
        ("2.0 begin 2 k\n2.1 end 2 k\n2.2 told 2 success\n3.0 begin 1 k\n3.1 end 1 k\n3.2 told 1 success\n", "order_broken"),
    ],
)
def test_the_report_tells_of_a_broken_promise(tmp_path: Path, notes: str, what: str) -> None:
    report = report_of(tmp_path, notes, [])
    assert getattr(report, what) and not report.well


def test_a_repeat_is_explained_by_the_hosts_death_only_if_it_can_be(tmp_path: Path) -> None:
    (tmp_path / "host-2.log").write_text("9.0 begin 2 k\n9.1 end 2 k\n9.2 told 2 success\n")
    assert report_of(tmp_path, GOOD, [Event("kill_host", "host-1", 2.3, 2.4)]).well
    assert not report_of(tmp_path, GOOD, [Event("kill_host", "host-1", 8.0, 8.1)]).well  # it had time to commit
    assert not report_of(tmp_path, GOOD, [Event("kill_host", "host-3", 2.3, 2.4)]).well
    assert not report_of(tmp_path, GOOD, []).well
