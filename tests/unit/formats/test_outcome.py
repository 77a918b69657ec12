"""Outcomes as bytes: what goes in comes out, and what is none is refused."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedkq._formats.outcome import Outcome
from embedkq.errors import DecodeError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
OUTCOMES = st.builds(
    Outcome,
    st.sampled_from(["success", "failure", "timeout", "undecodable"]),
    st.binary(max_size=2_000),
    TEXTS,
    TEXTS,
    TEXTS,
    TEXTS,
)


@given(OUTCOMES)
@example(Outcome("timeout"))
@example(Outcome("success", b"\x80\x05N."))
@example(Outcome("failure", b"x", "LookupError", "ünïcode \N{SNOWMAN} \0", "Traceback\n", ""))
def test_an_outcome_comes_back_as_it_was(outcome: Outcome) -> None:
    assert Outcome.unpack(outcome.pack()) == outcome


@given(OUTCOMES, st.binary(max_size=40))
def test_an_outcome_is_read_from_behind_a_header(outcome: Outcome, header: bytes) -> None:
    assert Outcome.unpack(header + outcome.pack(), len(header)) == outcome


@given(OUTCOMES, st.data())
def test_a_part_of_an_outcome_is_none(outcome: Outcome, data: st.DataObject) -> None:
    packed = outcome.pack()
    with pytest.raises(DecodeError):
        Outcome.unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(DecodeError):
        Outcome.unpack(packed + b"x")


@given(st.binary(max_size=200))
def test_any_other_bytes_are_refused_or_read_without_running_code(data: bytes) -> None:
    try:
        outcome = Outcome.unpack(data)
    except DecodeError:
        return
    assert outcome.pack()[0] == data[0]


def test_a_status_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DecodeError):
        Outcome.unpack(bytes([250]) + Outcome("success").pack()[1:])


def test_text_that_is_no_unicode_is_escaped() -> None:
    assert (
        Outcome.unpack(Outcome("failure", message="half \ud800 of a pair").pack()).message
        == "half \\ud800 of a pair"
    )


def test_unpacking_runs_no_pickle() -> None:
    payload = pickle.dumps(Bomb())
    assert Outcome.unpack(Outcome("success", payload).pack()).payload == payload


class Bomb:
    def __reduce__(self) -> object:
        return _explode, ()


def _explode() -> None:
    raise AssertionError("unpickled")
