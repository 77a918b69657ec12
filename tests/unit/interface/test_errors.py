"""Every exception of embedkq: it pickles whole, says what is promised, and stands where its family
tree says."""

from __future__ import annotations

import builtins
import copy
import inspect
import pickle
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkq import Job, errors

EXAMPLES: dict[str, Callable[[], errors.EmbedkqError]] = {
    "EmbedkqError": lambda: errors.EmbedkqError("any"),
    "BrokerUnavailable": lambda: errors.BrokerUnavailable("a:1,b:2", "no answer", maybe_sent=True),
    "BrokerRefused": lambda: errors.BrokerRefused("not allowed"),
    "EnqueueFailed": lambda: errors.EnqueueFailed([Job("1")], [Job("2"), Job("3")]),
    "QueueIncomplete": lambda: errors.QueueIncomplete("without its secret"),
    "EncodeError": lambda: errors.EncodeError("argument 1"),
    "DecodeError": lambda: errors.DecodeError("no call"),
    "JobTooLarge": lambda: errors.JobTooLarge(2_000_000, 1_000_000),
    "RecordRefused": lambda: errors.RecordRefused("not here"),
    "SignatureRefused": lambda: errors.SignatureRefused("altered"),
    "SecretUnknown": lambda: errors.SecretUnknown("0123456789abcdef"),
    "OtherGroup": lambda: errors.OtherGroup("mail"),
    "FunctionRefused": lambda: errors.FunctionRefused("os.system"),
    "LetterRefused": lambda: errors.LetterRefused("not signed"),
    "WorkerError": lambda: errors.WorkerError("no"),
    "WrongThread": lambda: errors.WrongThread("owned by"),
    "InsideCallback": lambda: errors.InsideCallback("request_stop"),
    "WorkerFailed": lambda: errors.WorkerFailed("ended"),
    "ChildStartFailed": lambda: errors.ChildStartFailed("initializer"),
    "Closed": lambda: errors.Closed("closed"),
    "JobError": lambda: errors.JobError("any"),
    "JobCrashed": lambda: errors.JobCrashed(-11),
    "HostCrashed": lambda: errors.HostCrashed(3),
    "JobExited": lambda: errors.JobExited("SystemExit", (2, "text")),
    "JobFailed": lambda: errors.JobFailed("shop.SoldOut", "no tea"),
    "ResultNotPicklable": lambda: errors.ResultNotPicklable("generator", "cannot pickle"),
    "ResultTooLarge": lambda: errors.ResultTooLarge(70_000_000, 64_000_000),
}


def kinds() -> dict[str, type[errors.EmbedkqError]]:
    found = vars(errors).values()
    return {
        kind.__name__: kind
        for kind in found
        if isinstance(kind, type) and issubclass(kind, errors.EmbedkqError)
    }


def test_there_is_an_example_of_each() -> None:
    assert set(EXAMPLES) == set(kinds())
    assert all(type(make()).__name__ == name for name, make in EXAMPLES.items())


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_it_comes_whole_out_of_a_pickle(name: str) -> None:
    error = EXAMPLES[name]()
    copies = [
        pickle.loads(pickle.dumps(error, protocol))
        for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)
    ]
    for again in (*copies, copy.copy(error), copy.deepcopy(error)):
        assert type(again) is type(error)
        assert (str(again), vars(again), again.args) == (str(error), vars(error), error.args)


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_its_text_is_one_line_for_people(name: str) -> None:
    text = str(EXAMPLES[name]())
    assert text and "\n" not in text and "object at 0x" not in text


def test_the_family_tree_in_the_docstring_is_the_real_one() -> None:
    above = ["EmbedkqError"]
    drawn = set(above)
    for line in (inspect.getdoc(errors) or "").splitlines():
        if found := re.match(r"    ([│ ]*)[├└]── (\w+)(?: \((\w+)\))?(?:  +\S.*)?$", line):
            depth = len(found[1]) // 4
            del above[depth + 1 :]
            kind = kinds()[found[2]]
            assert issubclass(kind, kinds()[above[-1]]) and kind is not kinds()[above[-1]]
            assert found[3] is None or issubclass(kind, getattr(builtins, found[3]))
            above.append(found[2])
            drawn.add(found[2])
    assert drawn == set(kinds())


# Texts and attributes.


def test_broker_unavailable_names_the_hosts_and_says_whether_it_may_have_been_sent() -> None:
    error = errors.BrokerUnavailable("a:1,b:2", "no answer within 10 s")
    assert (error.hosts, error.reason, error.maybe_sent) == (
        "a:1,b:2",
        "no answer within 10 s",
        False,
    )
    assert (
        "a:1,b:2" in str(error)
        and "no answer within 10 s" in str(error)
        and "may have been sent" not in str(error)
    )
    maybe = errors.BrokerUnavailable("a:1", "no answer", maybe_sent=True)
    assert maybe.maybe_sent and "may have been sent" in str(maybe) and "twice" in str(maybe)


def test_enqueue_failed_counts_and_gives_the_first_reason() -> None:
    error = errors.EnqueueFailed((Job("1"),), (Job("2"), Job("3")))
    assert (error.acknowledged, error.failed) == ([Job("1")], [Job("2"), Job("3")])
    assert str(error) == "2 of 3 jobs were not acknowledged"
    error.__cause__ = errors.BrokerUnavailable("a:1", "gone")
    assert str(error).startswith("2 of 3 jobs were not acknowledged: no Kafka broker at a:1: gone")


def test_job_too_large_gives_both_sizes_and_who_limits() -> None:
    error = errors.JobTooLarge(2_000_000, 1_000_000)
    assert (error.size, error.limit, error.limited_by) == (2_000_000, 1_000_000, "job_size")
    assert "2,000,000 bytes" in str(error) and "job_size allows (1,000,000 bytes)" in str(error)
    by_broker = str(errors.JobTooLarge(2_000_000, None, "the broker"))
    assert "2,000,000 bytes" in by_broker and "the broker allows." in by_broker


@pytest.mark.parametrize(
    ("exitcode", "number", "text"),
    [
        (None, None, "the job's process died"),
        (0, None, "the job's process exited with status 0"),
        (3, None, "the job's process exited with status 3"),
        (-signal.SIGSEGV, signal.SIGSEGV, "the job's process was killed by SIGSEGV"),
        (
            -signal.SIGKILL,
            signal.SIGKILL,
            "the job's process was killed by SIGKILL (out of memory?)",
        ),
        (-250, 250, "the job's process was killed by signal 250"),
    ],
)
def test_job_crashed_tells_status_or_signal(
    exitcode: int | None, number: int | None, text: str
) -> None:
    error = errors.JobCrashed(exitcode)
    assert (error.exitcode, error.signal, str(error)) == (exitcode, number, text)


def test_job_exited_keeps_type_and_arguments() -> None:
    error = errors.JobExited("SystemExit", (2, "text"))
    assert (error.type_name, error.exit_args, str(error)) == (
        "SystemExit",
        (2, "text"),
        "the job raised SystemExit(2, 'text')",
    )
    assert str(errors.JobExited("KeyboardInterrupt")) == "the job raised KeyboardInterrupt()"


def test_stand_ins_keep_name_and_message() -> None:
    failed = errors.JobFailed("shop.SoldOut", "no tea")
    assert (failed.type_name, failed.message, str(failed)) == (
        "shop.SoldOut",
        "no tea",
        "shop.SoldOut: no tea",
    )
    unsound = errors.ResultNotPicklable("generator", "cannot pickle")
    assert str(unsound) == "the job's result of type generator cannot be sent back: cannot pickle"
    assert isinstance(unsound, errors.JobFailed)
    large = errors.ResultTooLarge(70_000_000, 64_000_000)
    assert (large.size, large.limit) == (
        70_000_000,
        64_000_000,
    ) and "70,000,000 bytes, more than 64,000,000" in str(large)


@given(
    name=st.text(),
    message=st.text(),
    number=st.none() | st.integers(),
    flag=st.booleans(),
    rest=st.lists(st.text() | st.integers()),
)
def test_any_arguments_survive(
    name: str, message: str, number: int | None, flag: bool, rest: list[Any]
) -> None:
    for error in (
        errors.BrokerUnavailable(name, message, maybe_sent=flag),
        errors.JobFailed(name, message),
        errors.JobExited(name, tuple(rest)),
        errors.JobCrashed(number),
        errors.JobTooLarge(5, number, name),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_a_note_that_somebody_added_stays() -> None:
    for make in EXAMPLES.values():
        error = make()
        error.told_by = "shop"  # type: ignore[attr-defined]
        assert pickle.loads(pickle.dumps(error)).told_by == "shop"
