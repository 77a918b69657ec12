"""Hosts of this version and of 38cc483 share a group during a deploy: each reads what the other has
committed, and loses nothing of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT
from version_38cc483 import donemap as old_donemap
from version_38cc483 import notes as old

from embedkq._formats import commit_metadata, offset_map
from embedkq._formats.commit_metadata import NOTHING, UNKNOWN_TOPIC, CommitMetadata, TopicMark
from embedkq._formats.partition_progress import (
    Committed,
    Log,
    PartitionProgress,
    make_commit,
    read_progress,
)

WRITTEN = json.loads((ROOT / "tests" / "version_38cc483" / "written.json").read_text())
"""Texts as that version wrote them, each with what that version reads in it."""
BEYOND_ANY_LOG = 2**61
"""Attempts at offsets from here on are what that version knows nothing of, and carries along."""

topics = st.builds(TopicMark, st.integers(1, 2**63 - 1), st.integers(0, 10_000))
hosts = st.lists(st.text("abcdefghij-", min_size=1, max_size=80), max_size=5).map(
    lambda names: tuple(name[:64] for name in names)
)


def runs_above(start: int, lengths: list[tuple[int, int]]) -> offset_map.OffsetRanges:
    runs, last = [], start
    for gap, length in lengths:
        runs.append((last + gap, last + gap + length))
        last = runs[-1][1]
    return tuple(runs)


lengths = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 50)), max_size=40)


@pytest.mark.parametrize(
    "text",
    WRITTEN,
    ids=[f"{len(each['text'])} characters from {each['start']}" for each in WRITTEN],
)
def test_what_the_old_version_wrote_is_read(text: dict[str, Any]) -> None:
    done, noted, topic = commit_metadata.decode_all(text["start"], text["text"])
    assert [list(run) for run in done] == text["done"]
    assert (noted.starts, noted.suspect) == (text["starts"], text["suspect"])
    assert sorted(map(list, noted.crashes.items())) == text["crashes"]
    assert sorted(map(list, noted.attempts.items())) == text["attempts"]
    assert topic == UNKNOWN_TOPIC and noted.hosts == ()
    log = Log(0, 2**60, TopicMark(7, 1))  # of a topic that it knew nothing of
    assert read_progress(Committed(text["start"], text["text"]), log) == PartitionProgress(
        text["start"], done
    )


def test_the_modules_beside_the_texts_are_those_that_wrote_them() -> None:
    for text in WRITTEN:
        done, noted = old.decode(text["start"], text["text"])
        assert [list(run) for run in done] == text["done"] and sorted(
            map(list, noted.attempts.items())
        ) == text["attempts"]
        assert old.encode(text["start"], done, noted) == text["text"]


@given(
    st.integers(0, 2**50),
    lengths,
    st.integers(0, 9),
    st.booleans(),
    st.dictionaries(st.integers(0, 300), st.integers(1, 9), max_size=12),
    st.dictionaries(st.integers(0, 300), st.integers(1, 9), max_size=20),
    hosts,
    topics,
)
def test_what_this_version_writes_the_old_one_reads_and_carries_along(
    start: int,
    done: list[tuple[int, int]],
    starts: int,
    suspected: bool,
    crashes: dict[int, int],
    attempts: dict[int, int],
    names: tuple[str, ...],
    topic: TopicMark,
) -> None:
    runs = runs_above(start, done)
    noted = CommitMetadata(
        starts,
        start if suspected else None,
        {start + offset: count for offset, count in crashes.items()},
        {start + offset: count for offset, count in attempts.items()},
        names,
    )
    their_done, theirs = old.decode(start, commit_metadata.encode(start, runs, noted, topic=topic))
    known = {offset: count for offset, count in theirs.attempts.items() if offset < BEYOND_ANY_LOG}
    assert (their_done, theirs.starts, theirs.suspect, theirs.crashes, known) == (
        runs,
        noted.starts,
        noted.suspect,
        noted.crashes,
        noted.attempts,
    )
    open_there = theirs.of_open(start, their_done)
    done_again, again, topic_again = commit_metadata.decode_all(
        start, old.encode(start, their_done, open_there)
    )
    assert (done_again, topic_again, again.hosts) == (runs, topic, noted.hosts)


def test_what_a_command_commits_the_workers_of_the_old_version_read() -> None:
    committed, _ = make_commit(5, ((7, 9), (12, 20)), TopicMark(99, 3))
    assert old.decode(*committed)[0] == ((7, 9), (12, 20))
    assert old.decode(*make_commit(5, (), TopicMark(99, 3))[0])[0] == ()


@given(st.integers(0, 2**50), lengths)
def test_the_map_alone_is_the_same_in_both_versions(
    start: int, done: list[tuple[int, int]]
) -> None:
    runs = runs_above(start, done)
    text = offset_map.encode(start, runs).text
    assert (
        text == old_donemap.encode(start, runs).text == commit_metadata.encode(start, runs, NOTHING)
    )
    assert old_donemap.decode(start, text) == offset_map.decode(start, text) == runs
