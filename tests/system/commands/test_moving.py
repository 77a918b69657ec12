"""`kq rewind` and `kq purge`: jobs run once more, or not at all, and nothing else changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import workerjobs
from commandline import Ended, run
from partitions import numbered
from support import HANG_SECONDS, Recorder, committed, lag, wait_until

from embedkq import Queue, Worker
from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.partition_progress import Committed


class Place:
    """A topic, a group and what ran there."""

    def __init__(self, hosts: str, topic: str, group: str) -> None:
        self.hosts, self.topic, self.group = hosts, topic, group

    def enqueue(self, *numbers: int, partition: int = 0) -> None:
        with Queue(self.hosts, self.topic) as queue:
            queue.using(partition=partition).enqueue_many(
                [(workerjobs.echo, (number,)) for number in numbers]
            )

    def run(self, **how: Any) -> list[int]:
        """Have a worker do what there is; what its jobs returned."""
        recorder = Recorder()
        Worker(self.hosts, self.topic, group=self.group, callback=recorder).start(
            **{"burst": True, **how}
        )
        return sorted(result[0][0] for result in recorder.results)

    def kq(self, verb: str, *arguments: str) -> Ended:
        return run(
            verb,
            f"--hosts={self.hosts}",
            f"--topic={self.topic}",
            f"--group={self.group}",
            *arguments,
        )

    def moved(self, verb: str, *arguments: str) -> dict[str, Any]:
        ended = self.kq(verb, "--json", "--yes", *arguments)
        assert ended.status == 0, ended
        told: dict[str, Any] = json.loads(ended.out)
        return told


@pytest.fixture
def place(hosts: str, make_topic: Callable[[int], str], group: str) -> Place:
    return Place(hosts, make_topic(2), group)


def test_all_runs_once_more_from_the_start(place: Place) -> None:
    place.enqueue(1, 2, 3)
    place.enqueue(4, partition=1)
    assert place.run() == [1, 2, 3, 4]
    assert place.moved("rewind", "--to-start") == {
        "topic": place.topic,
        "group": place.group,
        "records": 4,
        "done": True,
        "partitions": [
            {"partition": 0, "committed": 3, "target": 0, "records": 3},
            {"partition": 1, "committed": 1, "target": 0, "records": 1},
        ],
    }
    assert lag(place.hosts, place.group, place.topic) == 4
    assert place.run() == [1, 2, 3, 4]


def test_what_was_enqueued_since_a_time_runs_once_more(place: Place) -> None:
    place.enqueue(1, 2)
    time.sleep(1.1)  # the next moment that whole seconds can name
    since = time.strftime("%Y-%m-%dT%H:%M:%S")
    place.enqueue(3, 4)
    assert place.run() == [1, 2, 3, 4]
    assert place.moved("rewind", f"--to-time={since}")["records"] == 2
    assert place.run() == [3, 4]
    assert place.moved("rewind", "--to-time=2100-01-01")["records"] == 0
    assert place.moved("rewind", "--to-time=1h")["records"] == 4


def test_a_rewind_to_an_offset_never_skips_a_job(place: Place) -> None:
    place.enqueue(1, 2, 3)
    place.enqueue(4, 5, 6, partition=1)
    assert place.run() == [1, 2, 3, 4, 5, 6]
    assert place.moved("rewind", "--to-offset=1", "--partition=1")["records"] == 2
    assert place.moved("rewind", "--to-offset=2")["partitions"] == [
        {"partition": 0, "committed": 3, "target": 2, "records": 1}
    ]
    assert place.run() == [3, 5, 6]
    assert place.moved("rewind", "--to-offset=99")["records"] == 0


def test_what_was_done_above_the_committed_offset_runs_once_more_too(place: Place) -> None:
    """The map of it goes with the old offset."""
    place.enqueue(*range(6))
    commit(place, 2, ((4, 6),))
    assert place.moved("rewind", "--to-offset=1")["records"] == 3
    assert place.run() == [1, 2, 3, 4, 5]


def test_what_waits_is_passed_over_and_comes_back_with_a_rewind(place: Place) -> None:
    place.enqueue(1, 2)
    assert place.run() == [1, 2]
    place.enqueue(3, 4)
    place.enqueue(5, partition=1)
    assert place.moved("purge")["records"] == 3
    assert place.run() == [] and lag(place.hosts, place.group, place.topic) == 0
    place.enqueue(6)
    assert place.run() == [6]
    assert place.moved("rewind", "--to-offset=2", "--partition=0")["records"] == 3
    assert place.run() == [3, 4, 6]


def test_a_group_that_never_ran_can_be_purged(place: Place) -> None:
    place.enqueue(1, 2)
    assert place.moved("purge")["records"] == 2
    place.enqueue(3)
    assert place.run() == [3]


def test_only_what_is_older_is_passed_over(place: Place) -> None:
    place.enqueue(1, 2)
    time.sleep(1.1)
    before = time.strftime("%Y-%m-%dT%H:%M:%S")
    place.enqueue(3)
    assert place.moved("purge", f"--before={before}")["records"] == 2
    assert place.run() == [3]


def test_a_purge_keeps_what_is_known_to_be_done_behind_it(place: Place) -> None:
    place.enqueue(1, 2)
    time.sleep(1.1)
    before = time.strftime("%Y-%m-%dT%H:%M:%S")
    place.enqueue(3, 4, 5)
    commit(place, 0, ((1, 2), (3, 4)))
    assert place.moved("purge", f"--before={before}")["records"] == 1
    assert place.run() == [3, 5]


def commit(place: Place, offset: int, done: offset_map.OffsetRanges) -> None:
    """As a worker that has done this above the offset."""
    from embedkq._clients.reader import TopicReader

    with TopicReader(place.hosts, place.group, {}) as client:
        text = commit_metadata.encode(offset, done, commit_metadata.NOTHING)
        client.commit({numbered(0, place.topic): Committed(offset, text)})


@pytest.mark.parametrize("verb", [["rewind", "--to-start"], ["purge"]], ids=" ".join)
def test_a_group_with_members_is_left_alone(place: Place, verb: list[str]) -> None:
    place.enqueue(1)
    with Worker(place.hosts, place.topic, group=place.group) as worker:
        assert worker.drain(HANG_SECONDS)
        wait_until(
            lambda: committed(place.hosts, place.group, place.topic).get(0, (0,))[0] == 1,
            "the job is committed",
        )
        ended = place.kq(*verb, "--yes")
    assert (
        ended.status == 1
        and f"group {place.group!r} has 1 members" in ended.err
        and "stop these workers first" in ended.err
    ), ended
    assert place.run() == []


@pytest.mark.parametrize("verb", [["rewind", "--to-start"], ["purge"]], ids=" ".join)
def test_it_is_shown_first_and_not_done_unasked(place: Place, verb: list[str]) -> None:
    place.enqueue(1, 2, 3)
    place.run(burst=False, max_jobs=2)
    shown = place.kq(*verb, "--dry-run")
    assert (
        shown.status == 0 and "Partition" in shown.out and f"by group {place.group}: " in shown.err
    ), shown
    asked = place.kq(*verb)
    assert (
        asked.status == 2 and "There is no terminal to ask for confirmation: use --yes" in asked.err
    ), asked
    assert place.run() == [3]
    done = place.kq(*verb, "--yes")
    assert done.status == 0 and done.err.splitlines()[-1] == (
        "Done." if verb[0] == "rewind" else "Nothing to do."
    ), done


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["rewind"], 2, "Error: no target: use one of --to-time, --to-offset and --to-start"),
        (["rewind", "--to-start", "--to-offset=3"], 2, "Error: no target: use one of"),
        (
            ["rewind", "--to-time=yesterday"],
            2,
            "'yesterday' is neither a time such as 2026-11-26T08:00 nor an age such as 90s,",
        ),
        (["purge", "--before=5 minutes"], 2, "'5 minutes' is neither"),
        (["rewind", "--to-offset=-1"], 2, "-1 is not in the range"),
        (["purge", "--partition=7"], 1, "has no partition 7: its partitions are 0 to 1"),
    ],
    ids=str,
)
def test_what_cannot_work_is_told_in_a_line(
    place: Place, arguments: list[str], status: int, message: str
) -> None:
    ended = place.kq(*arguments)
    assert ended.status == status and message in ended.err and "Traceback" not in ended.err, ended


def test_a_topic_that_is_not_there_is_told_and_not_created(hosts: str, group: str) -> None:
    place = Place(hosts, f"missing-{group}", group)
    for _ in range(2):
        ended = place.kq("purge", "--yes")
        assert ended.status == 1 and f"there is no topic 'missing-{group}'" in ended.err, ended
