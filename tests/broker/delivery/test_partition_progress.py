"""What a group has committed counts for the log that it was committed for, and is shown, moved and
run by that, whoever looks."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import workerjobs
from commandline import run
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata
from support import Recorder, committed, group_offsets, put_back, recreate_topic, send_many

from embedkq import Worker
from embedkq._clients import admin
from embedkq._formats import commit_metadata
from embedkq._formats.commit_metadata import NOTHING, UNKNOWN_TOPIC, TopicMark
from embedkq._formats.partition_progress import (
    Committed,
    Log,
    PartitionProgress,
    count_lag,
    make_commit,
    read_progress,
)

OLD, NEW = TopicMark(11, 4), TopicMark(22, 4)


@pytest.mark.parametrize(
    ("found", "log", "expected", "lag"),
    [
        (None, Log(3, 9, NEW), None, 6),
        (Committed(5, ""), Log(0, 9, NEW), PartitionProgress(5), 4),
        (make_commit(5, ((7, 9),), NEW)[0], Log(0, 9, NEW), PartitionProgress(5, ((7, 9),)), 2),
        (make_commit(5, ((7, 9),), OLD)[0], Log(0, 9, NEW), None, 9),
        (
            make_commit(5, ((7, 9),), OLD)[0],
            Log(0, 9, UNKNOWN_TOPIC),
            PartitionProgress(5, ((7, 9),)),
            2,
        ),
        (
            make_commit(5, ((7, 9),), UNKNOWN_TOPIC)[0],
            Log(0, 9, NEW),
            PartitionProgress(5, ((7, 9),)),
            2,
        ),
        (Committed(10, ""), Log(0, 9, NEW), None, 9),
        (make_commit(2, (), NEW)[0], Log(6, 9, NEW), PartitionProgress(2), 3),
    ],
)
def test_a_commit_counts_for_its_own_log(
    found: Committed | None, log: Log, expected: PartitionProgress | None, lag: int
) -> None:
    assert read_progress(found, log) == expected
    assert count_lag(expected, log) == lag


def test_metadata_of_another_program_leaves_the_offset_and_says_why() -> None:
    progress = read_progress(Committed(5, "not a map"), Log(0, 9, NEW))
    assert progress is not None and progress[:2] == (5, ()) and "'no'" in progress.damage


@given(
    st.integers(0, 2**40),
    st.sets(st.integers(1, 3000), max_size=60),
    st.integers(0, 2**63 - 1),
    st.integers(0, 5000),
)
def test_what_is_committed_reads_back(
    offset: int, done: set[int], topic: int, partitions: int
) -> None:
    runs = tuple((offset + 2 * number, offset + 2 * number + 1) for number in sorted(done))
    mark = TopicMark(topic, partitions)
    found, has_room = make_commit(offset, runs, mark)
    assert has_room and read_progress(found, Log(0, 2**60, mark)) == PartitionProgress(offset, runs)
    assert not topic or commit_metadata.read_topic(*found) == mark


def test_what_has_no_room_is_told() -> None:
    runs = tuple((offset, offset + 1 + offset % 3) for offset in range(1, 400_000, 7))
    found, has_room = make_commit(0, runs, NEW)
    assert (
        not has_room and len(found.metadata) <= 4096 and commit_metadata.read_topic(*found) == NEW
    )


# Each door, on a broker. The jobs of the old topic are done; the new one has more than them, so
# that no offset is out of range.


@pytest.fixture
def recreated(hosts: str, make_topic: Callable[[int], str], group: str) -> str:
    """A topic with eight jobs in one partition, whose group has committed five of another topic of
    the same name."""
    topic = make_topic(1)
    send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(5)])
    Worker(hosts, topic, group=group).start(burst=True)
    kept = group_offsets(hosts, group)
    assert kept[TopicPartition(topic, 0)].offset == 5
    recreate_topic(hosts, topic, 1)
    put_back(hosts, group, kept)
    send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(100, 108)])
    return topic


def moved(hosts: str, topic: str, group: str, verb: str, *arguments: str) -> Any:
    done = run(
        verb,
        f"--hosts={hosts}",
        f"--topic={topic}",
        f"--group={group}",
        "--json",
        "--yes",
        *arguments,
    )
    assert done.status == 0, done
    return json.loads(done.out)


def run_all(hosts: str, topic: str, group: str) -> list[int]:
    recorder = Recorder()
    Worker(hosts, topic, group=group, callback=recorder).start(burst=True)
    return sorted(result[0][0] for result in recorder.results)


def test_info_takes_no_commit_of_another_topic_for_progress(
    hosts: str, recreated: str, group: str
) -> None:
    (found,) = admin.describe(hosts, recreated, group).partitions
    assert (found.committed, found.lag, found.last) == (None, 8, 8)
    shown = run("info", f"--hosts={hosts}", f"--topic={recreated}", "--json")
    assert json.loads(shown.out)["lag"] == 8
    assert run_all(hosts, recreated, group) == [*range(100, 108)], (
        "a worker sees it as `kq info` does"
    )
    (found,) = admin.describe(hosts, recreated, group).partitions
    assert (found.committed, found.lag) == (8, 0)


def test_a_purge_passes_over_what_a_worker_would_run(
    hosts: str, recreated: str, group: str
) -> None:
    told = moved(hosts, recreated, group, "purge")
    assert told["partitions"] == [{"partition": 0, "committed": None, "target": 8, "records": 8}]
    assert run_all(hosts, recreated, group) == []


def test_a_rewind_skips_no_job_of_the_new_topic(hosts: str, recreated: str, group: str) -> None:
    assert moved(hosts, recreated, group, "rewind", "--to-offset=2")["partitions"] == []
    assert run_all(hosts, recreated, group) == [*range(100, 108)]


@pytest.mark.parametrize("verb", [["purge"], ["rewind", "--to-offset=1"]], ids=" ".join)
def test_what_was_moved_in_one_topic_says_nothing_of_the_next(
    hosts: str, make_topic: Callable[[int], str], group: str, verb: list[str]
) -> None:
    topic = make_topic(1)
    send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(3)])
    Worker(hosts, topic, group=group).start(max_jobs=2)
    assert moved(hosts, topic, group, *verb)["done"]
    kept = group_offsets(hosts, group)
    recreate_topic(hosts, topic, 1)
    put_back(hosts, group, kept)
    send_many(hosts, topic, workerjobs.echo, [(number,) for number in range(100, 104)])
    assert admin.describe(hosts, topic, group).lag == 4
    assert run_all(hosts, topic, group) == [*range(100, 104)]


def test_jobs_that_come_and_are_done_while_info_looks_are_no_lag(
    hosts: str, make_topic: Callable[[int], str], group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end that was asked for before the commits would lie below them, as that of another log
    does."""
    topic = make_topic(1)
    send_many(hosts, topic, workerjobs.echo, [()] * 5)
    ask = admin.Inspector._committed

    def ask_later(inspector: Any, groups: Any) -> Any:
        send_many(hosts, topic, workerjobs.echo, [()])
        put_back(
            hosts,
            group,
            {
                TopicPartition(topic, 0): OffsetAndMetadata(
                    6, commit_metadata.encode(6, (), NOTHING), -1
                )
            },
        )
        return ask(inspector, groups)

    monkeypatch.setattr(admin.Inspector, "_committed", ask_later)
    (found,) = admin.describe(hosts, topic, group).partitions
    assert (found.committed, found.lag) == (6, 0)
    assert committed(hosts, group, topic)[0][0] == 6
