"""`kq demo`: what a new user sees first, and that it would not be silent about a callback too few,
too many or wrong."""

from __future__ import annotations

import json
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest
from brokers import is_open
from commandline import SCRIPT, Ended, Program, run
from support import wait_until, with_admin

from embedkq import Job
from embedkq.cli import demo_tally
from embedkq.cli.demo_tally import GOOD, HANGING, RAISING, Tally
from embedkq.errors import JobCrashed

JOBS = 27
"""Enough for each kind of job, and for one of them to hang only once."""
EXPECTED = {"return a result": 23, "raise": 2, "hang past 0.5 s": 1, "kill their process": 1}


def cells(done: Ended) -> dict[str, list[str]]:
    """The final table: the cells of each row behind its first one."""
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in done.out.splitlines()
        if line.startswith("│")
    ]
    return {row[0]: row[1:] for row in rows}


def demo_topics(hosts: str) -> list[str]:
    topics = with_admin(hosts, lambda admin: [known["name"] for known in admin.describe_topics()])
    return [name for name in topics if name.startswith("embedkq-demo-")]


def test_as_a_new_user_runs_it(embedded_broker_program: None, tmp_path: Path) -> None:
    done = run("demo", program=SCRIPT, cwd=tmp_path)
    assert (done.status, done.err) == (0, ""), done
    assert cells(done) == {
        "return a result": ["168", "success", "the result", "168"],
        "raise": ["16", "failure", "ZeroDivisionError", "16"],
        "hang past 0.5 s": ["8", "timeout", "-", "8"],
        "kill their process": ["8", "failure", "JobCrashed", "8"],
        "total": ["200", "", "", "200"],
    }, done
    assert re.search(
        r"^200 callbacks in \d+\.\d s: \d+ jobs/s, although 8 of them hung for 0\.5 s\.$",
        done.out,
        re.M,
    ), done
    assert "\nEvery job had exactly one correct callback, on the main thread.\n" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    (hosts,) = re.findall(r"^Embedded broker at (127\.0\.0\.1:\d+) ", done.out)
    assert not is_open(hosts)
    assert not list(tmp_path.iterdir())


def test_on_a_cluster_it_has_a_topic_of_its_own_and_deletes_it(hosts: str) -> None:
    before = demo_topics(hosts)
    done = run("demo", f"--jobs={JOBS}", "--json", env={"EMBEDKQ_DEMO_HOSTS": hosts})
    assert done.status == 0, done
    told = json.loads(done.out)
    assert {kind["name"]: kind["right"] for kind in told["kinds"]} == EXPECTED
    assert {kind["name"]: kind["enqueued"] for kind in told["kinds"]} == EXPECTED
    counts = {
        name: told[name]
        for name in (
            "well",
            "jobs",
            "callbacks",
            "missing",
            "doubled",
            "wrong",
            "elsewhere",
            "strange",
        )
    }
    assert counts == {
        "well": True,
        "jobs": JOBS,
        "callbacks": JOBS,
        "missing": 0,
        "doubled": 0,
        "wrong": 0,
        "elsewhere": 0,
        "strange": 0,
    }
    assert told["seconds"] > 0 and told["rate"] > 0
    (topic,) = re.findall(r"embedkq-demo-[0-9a-f]{8}", done.err)
    assert f"Cluster at {hosts}" in done.err
    wait_until(lambda: topic not in demo_topics(hosts), "its topic is gone")
    assert topic not in before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_all_that_is_its(
    number: signal.Signals, hosts: str, tmp_path: Path
) -> None:
    with Program(tmp_path, "demo", f"--hosts={hosts}", "--jobs=100000") as running:
        running.says("Worker with 2 processes")
        (topic,) = re.findall(r"embedkq-demo-[0-9a-f]{8}", " ".join(running.out))
        wait_until(lambda: topic in demo_topics(hosts), "its topic is there")
        family = running.family()
        running.send(number)
        done = running.end()
    assert done.status == 1 and done.err.split() == ["Aborted!"], done
    assert not psutil.wait_procs(family, 10)[1]
    wait_until(lambda: topic not in demo_topics(hosts), "its topic is gone")


# That it tells what is wrong.

SABOTAGE = """
import sys
from embedkq.cli import demo, demo_tally, kq
sys.modules["embedkq.cli.demo"]._SILENCE_SECONDS = 3.0
count = demo_tally.Tally.callback


def callback(self, status, job, result, exception, traceback):
    number = self._numbers[job.id]
    told = (status, job, result, exception, traceback)
    {harm}


demo_tally.Tally.callback = callback
kq(["demo", "--jobs=6", "--hosts=" + sys.argv[1]])
"""
HARM = {
    "missing": ("number == 2 or count(self, *told)", (1, 0, 0, 0), "5"),
    "doubled": ("count(self, *told); number == 2 and count(self, *told)", (0, 1, 0, 0), "7"),
    "wrong": (
        "count(self, status, job, 5 if number == 2 else result, exception, traceback)",
        (0, 0, 1, 0),
        "5",
    ),
    "elsewhere": (
        "import threading; thread = threading.Thread(target=count, args=(self, *told)); thread.start(); thread.join()",
        (0, 0, 0, 6),
        "6",
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_what_is_wrong_is_told_and_its_status_is_1(harm: str, hosts: str) -> None:
    code, (missing, doubled, wrong, elsewhere), right = HARM[harm]
    done = run(hosts, program=[sys.executable, "-c", SABOTAGE.format(harm=code)])
    assert done.status == 1 and not done.err, done
    text = " ".join(done.out.split())
    assert (
        f"The demo failed. Jobs without a callback: {missing}; with several: {doubled}. "
        f"Callbacks with a wrong status or value: {wrong}; on another thread: {elsewhere}; for other jobs: 0."
    ) in text, done
    assert "Every job had exactly one correct callback" not in text
    assert cells(done)["total"] == ["6", "", "", right], done


def job(number: int) -> Job:
    return Job(f"id-{number}", 0, "topic", None, (number,), {}, None, None)


def tally_of(count: int) -> Tally:
    tally = Tally()
    tally.expect([job(number) for number in range(count)])
    return tally


def test_a_tally_is_well_when_each_job_was_told_of_once() -> None:
    tally = tally_of(14)
    assert not tally.well and (tally.missing, tally.rate, tally.seconds) == (14, None, 0.0)
    for number in range(14):
        kind = demo_tally.kind_of(number)
        error = {
            "ZeroDivisionError": ZeroDivisionError("division by zero"),
            "JobCrashed": JobCrashed(-9),
        }.get(kind.outcome)
        assert not tally.well
        tally.callback(
            kind.status, job(number), number * number if kind is GOOD else None, error, None
        )
    assert tally.well and tally.fired == 14
    assert [(kind.name, enqueued, right) for kind, enqueued, right in tally.kinds()] == [
        ("return a result", 11, 11),
        ("raise", 1, 1),
        ("hang past 0.5 s", 1, 1),
        ("kill their process", 1, 1),
    ]


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (0, ("failure", 0, None)),
        (0, ("success", 1, None)),
        (0, ("success", 0, ValueError())),
        (0, ("timeout", None, None)),
        (3, ("success", 9, None)),
        (3, ("failure", None, ValueError())),
        (3, ("failure", 9, ZeroDivisionError())),
        (7, ("failure", None, JobCrashed(-9))),
        (7, ("timeout", 1, None)),
        (13, ("failure", None, ValueError())),
        (13, ("timeout", None, None)),
    ],
)
def test_a_callback_that_is_told_something_else_is_wrong(
    number: int, told: tuple[str, object, object]
) -> None:
    tally = tally_of(number + 1)
    status, result, error = told
    tally.callback(status, job(number), result, error, None)
    assert (tally.wrong, tally.fired, tally.well) == (1, 1, False)


def test_a_job_that_nobody_has_enqueued_is_strange() -> None:
    tally = tally_of(0)
    assert tally.well
    tally.callback("success", job(5), 25, None, None)
    assert (tally.strange, tally.fired, tally.well) == (1, 0, False)


def test_one_round_holds_each_kind() -> None:
    kinds = [demo_tally.kind_of(number) for number in range(25)]
    assert (kinds.count(GOOD), kinds.count(RAISING), kinds.count(HANGING)) == (21, 2, 1)
