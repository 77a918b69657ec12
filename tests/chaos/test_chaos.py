"""A short run of `make chaos`, and that its report would tell of a broken promise."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata
from support import ROOT, Sender, send_many

from chaos.faults import STRANGERS, Event, flaw_of_health, move_group
from chaos.lives import Life, Record, is_all_done, read_life, topic_mark
from chaos.report import Report, make_report
from embedkq._formats import commit_metadata
from embedkq._formats.commit_metadata import TopicMark


@pytest.mark.needs("kill", "pause")
@pytest.mark.hang_guard(300)
def test_a_short_run_keeps_every_promise(broker_kind: type) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-m", "chaos", "--seed=7", "--duration=25"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every promise was kept." in done.stdout


def report_of(
    folder: Path,
    notes: str,
    events: Sequence[Event] = (),
    lives: Sequence[Life] = (),
    acknowledged: Sequence[int] = (1, 2),
) -> Report:
    """Of jobs each of which was sent and acknowledged at the second that is its number."""
    (folder / "host-1.log").write_text(notes)
    moments = {number: float(number) for number in acknowledged}
    load = SimpleNamespace(
        acknowledged=dict.fromkeys(acknowledged, "good"), acknowledged_at=moments, sent_at=moments
    )
    return make_report(folder, load, list(events), list(lives), [])  # type: ignore[arg-type]


def life(end: float = math.inf, **records: tuple[int, bool]) -> Life:
    """All of partition 0: `job_1=(offset, done)`."""
    return Life(
        {int(name.removeprefix("job_")): [Record(0, *where)] for name, where in records.items()},
        end,
    )


GOOD = "1.0 begin 1 k\n1.1 end 1 k\n1.2 told 1 success\n2.0 begin 2 k\n2.1 end 2 k\n2.2 told 2 success\n"


FIRST, SECOND = GOOD[: GOOD.index("2.0")], GOOD[GOOD.index("2.0") :]
AGAIN = "9.0 begin 2 k\n9.1 end 2 k\n9.2 told 2 success\n"


def test_the_report_of_a_good_run_is_good(tmp_path: Path) -> None:
    assert report_of(tmp_path, GOOD).well


@pytest.mark.parametrize(
    ("notes", "what"),
    [
        (GOOD[: GOOD.index("2.0")], "lost"),
        (GOOD.replace("2.2 told 2 success\n", ""), "callbacks_missing"),
        (GOOD.replace("2 success", "2 failure"), "wrong_status"),
        (GOOD + "3.0 begin 2 k\n3.1 end 2 k\n", "unexplained"),
        (GOOD + "3.0 told 2 success\n", "unexplained"),
        (
            "2.0 begin 2 k\n2.1 end 2 k\n2.2 told 2 success\n3.0 begin 1 k\n3.1 end 1 k\n3.2 told 1 success\n",
            "order_broken",
        ),
    ],
)
def test_the_report_tells_of_a_broken_promise(tmp_path: Path, notes: str, what: str) -> None:
    report = report_of(tmp_path, notes)
    assert getattr(report, what) and not report.well


RECREATED = Event("recreate_topic", "", 1.5, 1.9)


@pytest.mark.parametrize(
    ("lives", "gone", "lost"),
    [
        (
            [life(1.5, job_1=(0, False)), life(job_2=(0, True))],
            [1],
            [],
        ),  # it waited in the topic that was deleted
        (
            [life(1.5, job_1=(0, True)), life(job_2=(0, True))],
            [],
            [1],
        ),  # it was committed as done there
        ([life(1.5), life(job_1=(0, True), job_2=(1, True))], [], [1]),  # it is in the new topic
        ([life(1.5, job_1=(0, False)), life(job_1=(0, True), job_2=(1, True))], [], [1]),  # in both
        ([life(1.5), life(job_2=(0, True))], [], [1]),  # in none, and acknowledged before the fault
    ],
)
def test_only_what_waited_in_a_topic_goes_with_it(
    tmp_path: Path, lives: list[Life], gone: list[int], lost: list[int]
) -> None:
    report = report_of(tmp_path, SECOND, [RECREATED], lives)
    assert (report.gone, report.lost, report.well) == (gone, lost, not lost)


def test_a_job_may_go_that_was_acknowledged_while_its_topic_ended(tmp_path: Path) -> None:
    lives = [life(0.9), life(job_2=(0, True))]
    assert report_of(tmp_path, SECOND, [Event("wipe_broker", "", 0.9, 1.9)], lives).gone == [1]
    assert report_of(
        tmp_path, SECOND, [Event("kill_broker", "", 0.9, 1.9)], [life(job_2=(0, True))]
    ).lost == [1]
    assert report_of(
        tmp_path, FIRST, [Event("wipe_broker", "", 0.9, 1.9)], [life(0.9), life(job_1=(0, True))]
    ).lost == [2]


def test_a_job_that_ran_in_a_topic_that_is_gone_has_its_callback_or_was_not_committed(
    tmp_path: Path,
) -> None:
    untold = GOOD.replace("1.2 told 1 success\n", "")
    assert report_of(
        tmp_path, untold, [RECREATED], [life(1.5, job_1=(0, True)), life()]
    ).callbacks_missing == [1]
    assert report_of(tmp_path, untold, [RECREATED], [life(1.5, job_1=(0, False)), life()]).gone == [
        1
    ]


@pytest.mark.parametrize(
    ("event", "lives", "cause"),
    [
        (Event("reset_offsets", "", 8.0, 8.5, {0: 3}), [life(job_2=(3, True))], "reset_offsets"),
        (
            Event("reset_offsets", "", 8.0, 8.5, {0: 4}),
            [life(job_2=(3, True))],
            "",
        ),  # not so far back
        (
            Event("reset_offsets", "", 8.0, 8.5, {1: 0}),
            [life(job_2=(3, True))],
            "",
        ),  # another partition
        (Event("reset_offsets", "", 9.5, 9.6, {0: 0}), [life(job_2=(3, True))], ""),  # too late
        (Event("reset_offsets", "", 1.0, 1.5, {0: 0}), [life(job_2=(3, True))], ""),  # too early
        (
            Event("recreate_topic", "", 1.5, 1.9),
            [life(1.5), life(job_2=(0, True))],
            "recreate_topic",
        ),
        (
            Event("recreate_topic", "", 8.0, 8.5),
            [life(8.0, job_2=(0, True)), life()],
            "",
        ),  # it was of the old topic
        (
            Event("wipe_broker", "", 1.5, 2.5),
            [life(1.5), life()],
            "wipe_broker",
        ),  # it may have been in both
        (Event("freeze_idle_host", "host-1", 7.0, 8.5), [], "freeze_idle_host"),
        (Event("freeze_idle_host", "host-3", 7.0, 8.5), [], ""),
        (Event("kill_idle_host", "host-1", 2.3, 2.4), [], ""),  # it had committed all
        (Event("add_strangers", "", 2.3, 2.4), [], ""),
        (Event("join", "", 2.3, 2.4), [], ""),
        (Event("leave", "host-1", 2.3, 2.4), [], ""),
        (Event("kill_host", "host-1", 2.3, 2.4), [], "kill_host"),
        (Event("kill_host", "host-1", 8.0, 8.1), [], ""),  # it had time to commit
        (Event("kill_host", "host-3", 2.3, 2.4), [], ""),
        (Event("kill_broker", "", 7.0, 8.0), [], "kill_broker"),
        (Event("kill_broker", "", 9.5, 9.6), [], ""),
        (Event("freeze_broker", "", -40.0, -30.0), [], ""),
    ],
)
def test_a_repeat_is_explained_only_by_a_fault_that_can_have_caused_it(
    tmp_path: Path, event: Event, lives: list[Life], cause: str
) -> None:
    (tmp_path / "host-2.log").write_text(AGAIN)
    report = report_of(tmp_path, GOOD, [event], lives)
    assert (report.run_twice, report.well) == ([cause], bool(cause))


def test_a_host_that_dies_long_after_it_could_commit_explains_no_repeat_whatever_else_there_was(
    tmp_path: Path,
) -> None:
    (tmp_path / "host-2.log").write_text(AGAIN.replace("9.", "99."))
    assert not report_of(
        tmp_path, GOOD, [Event("kill_host", "host-1", 90.0, 90.1), Event("join", "", 89.0, 89.1)]
    ).well


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        (
            "7.0 WARNING The worker of topic chaos has stopped, but not in order: what was done runs again.",
            "unfinished_stop",
        ),
        (
            "7.0 WARNING Group chaos no longer knows this consumer, and kafka-python has not noticed.",
            "eviction",
        ),
        (
            "77.0 WARNING The worker of topic chaos has stopped, but not in order: it was long after.",
            "",
        ),
        ("7.0 INFO The worker of topic chaos has stopped.", ""),
    ],
)
def test_a_repeat_is_explained_by_what_the_host_of_the_first_run_has_warned_of(
    tmp_path: Path, said: str, cause: str
) -> None:
    (tmp_path / "host-2.log").write_text(AGAIN)
    (tmp_path / "host-1.own").write_text(f"{said}\n")
    assert report_of(tmp_path, GOOD).run_twice == [cause]
    (tmp_path / "host-1.own").rename(tmp_path / "host-2.own")
    assert report_of(tmp_path, GOOD).run_twice == [""]


def test_a_job_with_two_records_runs_twice_and_no_more_than_that(tmp_path: Path) -> None:
    twice = Life({2: [Record(0, 3, True), Record(0, 7, True)]})
    (tmp_path / "host-2.log").write_text(AGAIN)
    assert report_of(tmp_path, GOOD, lives=[twice]).run_twice == ["another_record"]
    (tmp_path / "host-3.log").write_text(AGAIN.replace("9.", "19."))
    assert report_of(tmp_path, GOOD, lives=[twice]).run_twice == ["another_record", ""]


@pytest.mark.parametrize(
    ("kind", "well"),
    [("join", False), ("add_strangers", False), ("kill_idle_host", False), ("freeze_host", True)],
)
def test_order_is_broken_only_by_what_has_jobs_run_again(
    tmp_path: Path, kind: str, well: bool
) -> None:
    assert (
        report_of(
            tmp_path,
            SECOND + "3.0 begin 1 k\n3.1 end 1 k\n3.2 told 1 success\n",
            [Event(kind, "host-9", 2.5, 2.6)],
        ).well
        is well
    )


@pytest.mark.parametrize(
    ("told", "flaw"),
    [
        ([12.0, {"reasons": [], "lag": {"0": 0}}], ""),
        ([12.0, {"reasons": ["the worker is stopped"], "lag": {}}], "the worker is stopped"),
        ([12.0, {"reasons": [], "lag": {"0": 0, "3": 7}}], "its lag is {'3': 7}"),
        ([9.0, {"reasons": [], "lag": {}}], "it has not told its health for 1 s"),
        (None, "it has not told its health"),
    ],
)
def test_a_host_with_nothing_left_to_do_has_to_be_healthy_and_without_lag(
    tmp_path: Path, told: Any, flaw: str
) -> None:
    if told is not None:
        (tmp_path / "host-1.health").write_text(json.dumps(told))
    assert flaw_of_health(tmp_path / "host-1.health", 10.0) == flaw


def test_a_topic_is_read_with_what_was_committed_of_it_and_not_with_what_was_committed_before(
    hosts: str, topic: str
) -> None:
    """Strangers' records in between are none of its jobs; commits with the mark of another topic do
    not count."""
    ids = send_many(hosts, topic, print, [(number,) for number in range(6)], partition=0)
    numbers = {job_id: number for number, job_id in enumerate(ids)}
    with Sender(hosts, topic) as sender:
        for stranger in STRANGERS:
            sender.producer.send(topic, partition=0, **stranger)
        sender.flush()
    for mark, done in ((topic_mark(hosts, topic), {0, 1, 2, 4}), (TopicMark(7, 4), set())):
        text = commit_metadata.encode(3, ((4, 5),), commit_metadata.NOTHING, topic=mark)
        place = TopicPartition(topic, 0)
        move_group(hosts, topic, {place: OffsetAndMetadata(3, text, -1)})
        found = read_life(hosts, topic, topic, numbers.get).records
        assert found == {number: [Record(0, number, number in done)] for number in range(6)}
    assert not is_all_done(hosts, topic, topic)
    move_group(hosts, topic, {place: OffsetAndMetadata(6 + len(STRANGERS), "", -1)})
    assert is_all_done(hosts, topic, topic)
