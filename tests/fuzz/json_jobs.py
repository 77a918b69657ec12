"""JSON jobs under random changes: only functions that `allow` names, defined where they are named."""

from __future__ import annotations

import json
from random import Random
from types import SimpleNamespace

from embedkq._child.runner import FROM_JSON
from embedkq._formats import json_job
from embedkq._partition import Partition
from embedkq.errors import DecodeError, RecordRefused
from embedkq.worker.consumer_thread.validator import RecordValidator

from .mutate import changed

_VALUES = (
    b'{"func": "workerjobs.echo", "args": [1, "two", null], "kwargs": {"three": {"four": [5.5]}}}',
    b'{"func":"workerjobs.os.system","args":["true"]}',
    b'{"func":"workerjobs.echo.__globals__.clear"}',
    b'{"func":"os.system","args":["true"],"func":"workerjobs.echo"}',
    b'{"func":"workerjobs.note","args":["path",1],"kwargs":{"text":2}}',
)
_HEADERS = (
    b"json",
    b"json;id=0f8fad5b-d9cb-469f-a165-70867728950e;timestamp=17;timeout=2.5;retries=3;backoff=1.0",
    b"1;id=0f8fad5b-d9cb-469f-a165-70867728950e;timestamp=17",
)
_VALIDATOR = RecordValidator(allow=["workerjobs.*"])


def make(chance: Random) -> tuple[bytes, bytes]:
    """A header's value and a record's."""
    header, value = chance.choice(_HEADERS[:2]), chance.choice(_VALUES)
    if chance.random() < 0.3:
        header = changed(chance, header, _HEADERS)
    if chance.random() < 0.8:
        value = changed(chance, value, _VALUES)
    return header, value


def read(made: tuple[bytes, bytes]) -> bool:
    """Read a record as a worker does."""
    header, value = made
    record = SimpleNamespace(
        offset=0, key=None, value=value, headers=[("embedkq", header)], timestamp=1, flaw=None
    )
    run = _VALIDATOR.validate(Partition("fuzz", 0), 0, record)
    if run.refusal is not None:
        assert isinstance(run.refusal, (DecodeError, RecordRefused)) and str(run.refusal)
        return False
    if run.form == FROM_JSON:
        assert json.loads(value)["func"].startswith("workerjobs."), value
    return True


def decode(made: tuple[bytes, bytes]) -> bool:
    """Decode a record as a child does, once its worker has accepted it. (The interpreter keeps the
    latest attribute names that were looked up, some thousand.)"""
    header, value = made
    if header.startswith(b"1") or not read(made):
        return False
    named = json.loads(value)["func"]
    try:
        func, args, kwargs = json_job.decode(value)
    except DecodeError as error:
        assert str(error)
        return False
    assert f"{func.__module__}.{func.__qualname__}" == named, named
    assert isinstance(args, tuple) and isinstance(kwargs, dict)
    return True
