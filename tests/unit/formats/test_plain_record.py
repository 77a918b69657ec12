"""Plain records on their way to a handler: nothing of them is lost, and nothing of them runs."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import handlers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from partitions import numbered

from embedkq import Record, Worker
from embedkq._child import plain, runner
from embedkq._child.current_job import JOB_HEADER
from embedkq._formats import plain_record
from embedkq._formats.plain_record import Handling
from embedkq.errors import DecodeError
from embedkq.worker.between_threads.other_runs import PlainRun, TellingPlainRun


def polled(offset: int, key: bytes | None, value: bytes | None, headers: Any, time: int = 0) -> Any:
    names = {"offset": offset, "key": key, "value": value, "headers": headers, "timestamp": time}
    return SimpleNamespace(**names, flaw=None)


values = st.none() | st.binary(max_size=50)
texts = st.text(st.characters(codec="utf-8"), max_size=10)
header_lists = st.lists(st.tuples(texts, values), max_size=5)


@pytest.fixture(autouse=True)
def no_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain, "_handling", None)


def received(run: PlainRun) -> Any:
    """What the handler in a child is called with for this run."""
    head, payload = run.parts()
    fields = JOB_HEADER.unpack_from(head)
    function, args, kwargs = plain.call_of(fields, memoryview(head)[JOB_HEADER.size :], payload)
    assert fields[2] == len(payload) and function is run.handling.handler and kwargs == {}
    return args[0]


@given(value=values, key=values, headers=header_lists, timestamp=st.integers(-1, 2**62))
def test_a_record_arrives_in_a_child_as_it_was(
    value: bytes | None, key: bytes | None, headers: Any, timestamp: int
) -> None:
    handling = Handling(handlers.give, "record")
    record = polled(2**40, key, value, headers, timestamp)
    run = PlainRun(numbered(3, "töpic"), 1, record, handling)
    plain._handling = handling
    kept = tuple(each for each in headers if each[0] != "embedkq.group")
    expected = Record(value, key, kept, "töpic", 3, 2**40, timestamp)
    assert received(run) == expected and run.arguments() == (expected,)


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_malformed(value: bytes) -> None:
    record = Record(value, None, (), "t", 0, 0, 0)
    try:
        found = Handling(handlers.give, "json").argument(record)
    except DecodeError as error:
        assert "not JSON" in str(error)
    else:
        assert json.dumps(found) == json.dumps(json.loads(value))


@given(st.binary(max_size=100))
def test_what_a_child_tells_of_arguments_is_read_or_is_text(content: bytes) -> None:
    args, rest = plain_record.unpack_told(content)
    assert len(args) + len(rest) <= len(content)
    assert plain_record.unpack_told(plain_record.pack_told(args) + b"text") == (args, b"text")


def test_a_run_knows_the_arguments_once_a_child_has_told_them() -> None:
    run = TellingPlainRun(
        numbered(0), 1, polled(0, None, b"a b", []), Handling(handlers.give, handlers.words)
    )
    assert run.form == runner.PLAIN | runner.TELL_ARGS and run.arguments() is None
    assert run.begun(plain.pack_args((["a", "b"],)) + b"text") == "text"
    assert run.arguments() == (["a", "b"],)
    run.begun(plain_record.pack_told(b"no pickle") + b"text")
    with pytest.raises(DecodeError, match="cannot be unpickled here"):
        run.arguments()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"handler": 7}, TypeError, "handler must be callable, as handler\\(value\\), not 7"),
        ({"handler": lambda: 1}, TypeError, "handler must take one positional argument"),
        ({"handler": str, "decode": "jsno"}, ValueError, "decode='jsno'.*did you mean 'json'"),
        ({"handler": str, "decode": 7}, TypeError, "decode must be callable"),
        ({"handler": str, "decode": lambda: 1}, TypeError, "decode must take one positional"),
        ({"handler": str, "decode": handlers.give_later}, TypeError, "decode=.*async def"),
        ({"decode": "json"}, ValueError, "decode='json' is for the handler.*set handler="),
        ({"handler": str, "secret": "s" * 40}, ValueError, "secret is for embedkq's own jobs"),
        ({"handler": str, "allow": ["a.*"]}, ValueError, "allow is for embedkq's own jobs"),
        ({"handlr": str}, TypeError, "did you mean 'handler'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_any_connection(
    options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        Worker(hosts="127.0.0.1:1", **options)


def test_json_loads_is_the_json_of_the_host_too() -> None:
    worker = Worker(handler=str, decode=json.loads)
    assert worker._settings.handling == Handling(str, "json")
