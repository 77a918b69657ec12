"""What becomes of one call in a child: `run_call` turns whatever it does into an outcome, and
raises nothing."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jobs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from poolharness import value_of

from embedkq import codec
from embedkq._child import job_call
from embedkq._child.job_call import failure, run_call
from embedkq._formats.outcome import Outcome
from embedkq.errors import JobCrashed, JobExited, JobFailed, ResultNotPicklable, ResultTooLarge


class Point(NamedTuple):
    x: int
    y: int


class Rude(BaseException):
    """No `Exception`, and with arguments that cannot be pickled."""


class Unequal:
    """Its repr and its comparisons raise; pickling it does not."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = None  # type: ignore[assignment]


def run(func: Callable[..., Any], *args: Any, describe: bool = False, **kwargs: Any) -> Outcome:
    return run_call(func, args, kwargs, describe)


def error_of(outcome: Outcome) -> Any:
    assert outcome.status == "failure" and outcome.traceback and outcome.type_name
    return value_of(outcome)


# Results.


@pytest.mark.parametrize(
    "value",
    [
        None,
        0,
        "text",
        b"bytes",
        [1, [2]],
        {"a": (1, 2)},
        {1, 2},
        Point(1, 2),
        float("inf"),
        2**200,
        ...,
        NotImplemented,
        int,
        len,
    ],
)
def test_a_result_is_a_success_that_carries_it(value: Any) -> None:
    outcome = run(lambda: value)
    assert outcome == ("success", outcome.payload, "", "", "", "")
    assert value_of(outcome) == value and type(value_of(outcome)) is type(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    )
)
def test_any_plain_value_comes_back_equal(value: Any) -> None:
    assert value_of(run(jobs.echo, value)) == value


def test_arguments_are_passed_on() -> None:
    assert value_of(run(lambda *args, **kwargs: (args, kwargs), 1, 2, z=3)) == ((1, 2), {"z": 3})


def test_a_coroutine_is_run_to_its_end() -> None:
    async def later(value: int) -> int:
        await asyncio.sleep(0)
        return value + 1

    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("later")

    assert value_of(run(later, 1)) == 2
    assert type(error_of(run(fail))) is LookupError


def test_a_result_that_cannot_be_pickled_is_a_failure_that_says_why() -> None:
    for value, name in (
        ((number for number in ()), "generator"),
        (memoryview(b"x"), "memoryview"),
        (sys._getframe(), "frame"),
    ):
        error = error_of(run(lambda value=value: value))
        assert type(error) is ResultNotPicklable and error.type_name == name and error.message


@pytest.mark.parametrize(
    "value", [jobs.Unreadable(), [jobs.Unreadable()], {"deep": (jobs.Unreadable(),)}]
)
def test_a_result_that_cannot_be_rebuilt_is_a_failure_here_and_not_in_the_host(value: Any) -> None:
    error = error_of(run(lambda: value))
    assert type(error) is ResultNotPicklable and "invalid literal" in error.message


def test_a_result_is_too_large_by_its_pickled_size(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(codec.encode_object(b"x" * 1_000))
    monkeypatch.setattr(job_call, "LARGEST_RESULT", size)
    assert run(jobs.return_bytes, 1_000).status == "success"
    error = error_of(run(jobs.return_bytes, 1_001))
    assert type(error) is ResultTooLarge and (error.size, error.limit) == (size + 1, size)


def test_a_result_is_described_only_when_asked_and_in_a_kilobyte() -> None:
    assert run(jobs.echo, [1, 2]).text == ""
    assert run(jobs.echo, [1, 2], describe=True).text == "[1, 2]"
    assert len(run(jobs.echo, "x" * 10_000, describe=True).text) <= 1024
    assert run(jobs.echo, Unequal(), describe=True).text == "<Unequal without repr>"


# Exceptions.


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a", 1),
        KeyError("k"),
        TimeoutError("own"),
        OSError(2, "No such file", "f"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        StopIteration(3),
        AssertionError(),
        RecursionError("deep"),
        MemoryError(),
        NotImplementedError(),
        JobCrashed(-9),
        asyncio.CancelledError,
    ],
)
def test_an_exception_comes_back_with_type_and_arguments(error: Any) -> None:
    def fail() -> None:
        raise error

    outcome = run(fail)
    rebuilt = error_of(outcome)
    if isinstance(error, type):  # no `Exception` since Python 3.8
        assert (
            type(rebuilt) is JobExited and rebuilt.type_name == "asyncio.exceptions.CancelledError"
        )
    else:
        assert (
            type(rebuilt) is type(error)
            and rebuilt.args == error.args
            and outcome.message == str(error)
        )
        assert (
            "in fail" in outcome.traceback
            and type(error).__name__ in outcome.traceback.rstrip().splitlines()[-1]
        )


def test_a_traceback_begins_in_the_jobs_own_code_and_tells_its_causes() -> None:
    outcome = run(jobs.raise_group)
    assert "embedkq/_child" not in outcome.traceback and "in raise_group" in outcome.traceback
    assert "ValueError: inner" in outcome.traceback and "direct cause" in outcome.traceback


def test_attributes_and_notes_of_an_exception_survive() -> None:
    def fail() -> None:
        error = LookupError("x")
        error.code = 7  # type: ignore[attr-defined]
        raise error

    assert error_of(run(fail)).code == 7


@pytest.mark.parametrize(
    ("func", "name", "message"),
    [
        (jobs.raise_two_arguments, "jobs.TwoArguments", "one and two"),
        (jobs.raise_unreadable, "jobs.UnreadableError", "cannot be read"),
        (jobs.raise_with_lock, "LookupError", "holds"),
        (jobs.raise_mute, "jobs.MuteError", "str() raises"),
    ],
)
def test_an_exception_that_cannot_travel_keeps_its_name_text_and_traceback(
    func: Any, name: str, message: str
) -> None:
    outcome = run(func)
    error = error_of(outcome)
    assert type(error) is JobFailed and error.type_name == outcome.type_name == name
    assert message in error.message and message in outcome.message
    assert func is jobs.raise_mute or name.rpartition(".")[2] in outcome.traceback


@pytest.mark.parametrize(
    ("raised", "name", "args"),
    [
        (SystemExit(2), "SystemExit", (2,)),
        (SystemExit(), "SystemExit", ()),
        (SystemExit(None), "SystemExit", (None,)),
        (KeyboardInterrupt(), "KeyboardInterrupt", ()),
        (GeneratorExit("x", 1.5), "GeneratorExit", ("x", 1.5)),
        (BaseException("bare"), "BaseException", ("bare",)),
        (Rude([1]), "test_runner.Rude", ("[1]",)),
        (Rude(Unequal()), "test_runner.Rude", ("<Unequal without repr>",)),
    ],
)
def test_what_is_no_exception_arrives_as_job_exited(
    raised: BaseException, name: str, args: tuple[Any, ...]
) -> None:
    def leave() -> None:
        raise raised

    outcome = run(leave)
    error = error_of(outcome)
    assert type(error) is JobExited and (error.type_name, error.exit_args) == (name, args)
    assert "in leave" in outcome.traceback


def test_a_recursion_without_end_is_a_failure() -> None:
    outcome = run(jobs.recurse)
    assert type(error_of(outcome)) is RecursionError and len(outcome.traceback) < 300_000


def test_texts_without_measure_are_cut() -> None:
    def fail() -> None:
        raise LookupError("x" * 2_000_000)

    outcome = run(fail)
    assert len(outcome.message) <= 16 * 1024 and len(outcome.traceback) <= 256 * 1024 + 4
    assert len(str(error_of(outcome))) == 2_000_000


def test_a_wrong_call_is_the_jobs_failure() -> None:
    error = error_of(run(jobs.echo, 1, 2, 3))
    assert type(error) is TypeError and "positional argument" in str(error)


def test_a_failure_tells_one_exception_and_traces_another() -> None:
    try:
        jobs.raise_timeout_error()
    except TimeoutError as raised:
        outcome = failure(JobCrashed(3), raised)
    assert (
        type(value_of(outcome)) is JobCrashed and "TimeoutError: the job's own" in outcome.traceback
    )
    assert failure(JobCrashed(3)).traceback


class Vicious:
    """Raises something else in whatever is asked of it."""

    def __init__(self, raised: type[BaseException]) -> None:
        self.raised = raised

    def __getattribute__(self, name: str) -> Any:
        if name in ("__class__", "__dict__"):
            return object.__getattribute__(self, name)
        raise object.__getattribute__(self, "raised")


@pytest.mark.parametrize(
    "raised", [ValueError, SystemExit, KeyboardInterrupt, RecursionError, MemoryError]
)
def test_nothing_that_a_result_does_raises_out(raised: type[BaseException]) -> None:
    assert run(lambda: Vicious(raised), describe=True).status in ("success", "failure")
