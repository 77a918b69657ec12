"""Plain records under random changes: each reaches its handler as it was, or is refused in words."""

from __future__ import annotations

import json
from random import Random
from types import SimpleNamespace
from typing import Any

from embedkq import Record
from embedkq._child import plain
from embedkq._child.current_job import JOB_HEADER
from embedkq._formats.plain_record import Handling, unpack_told
from embedkq._partition import Partition
from embedkq.errors import DecodeError, OtherGroup
from embedkq.worker.consumer_thread.validator import PlainRecordValidator

from .mutate import changed

_VALUES = (
    b'{"item": "tea", "count": 2, "notes": [null, true, 1.5e300, "\\u00fc"]}',
    b"[[[[[[1]]]]]]",
    b"12345678901234567890123456789012345678901234567890",
    b"\x00\x00\x00\x00\x07\x02tea",
    b"",
)
_HEADERS = (b"embedkq.group", b"embedkq", b"traceparent", b"dead-letter-group", "ü".encode())


def make(chance: Random) -> tuple[str, Any]:
    """The name of a decoder, and a record."""
    value: bytes | None = chance.choice(_VALUES)
    if chance.random() < 0.8:
        value = changed(chance, value or b"", _VALUES)
    headers = [
        (
            changed(chance, chance.choice(_HEADERS), _HEADERS).decode("utf-8", "replace"),
            chance.choice((None, b"", b"fuzz", changed(chance, b"00-1-2-01", _VALUES))),
        )
        for _ in range(chance.choice((0, 0, 1, 3)))
    ]
    record = SimpleNamespace(
        offset=chance.randrange(2**62),
        key=chance.choice((None, b"", changed(chance, b"key", _VALUES))),
        value=None if chance.random() < 0.05 else value,
        headers=headers,
        timestamp=chance.randrange(-1, 2**62),
        flaw=None,
    )
    return chance.choice(("record", "bytes", "json")), record


def handle(made: tuple[str, Any]) -> bool:
    """Take a record from the validator to the call of the handler in a child, and its arguments to
    the callback."""
    decoder, record = made
    handling = Handling(repr, decoder)
    run = PlainRecordValidator(handling, True, group="fuzz").validate(
        Partition("fuzz", 3), 0, record
    )
    if run.refusal is not None:
        assert isinstance(run.refusal, OtherGroup) and str(run.refusal)
        return False
    head, payload = run.parts()
    plain._handling = handling
    fields = JOB_HEADER.unpack_from(head)
    try:
        _, args, _ = plain.call_of(fields, memoryview(head)[JOB_HEADER.size :], payload)
    except DecodeError as error:
        assert decoder == "json" and "not JSON" in str(error)
        return False
    (found,) = args
    if decoder == "record":
        kept = tuple(each for each in record.headers if each[0] != "embedkq.group")
        place = ("fuzz", 3, record.offset, record.timestamp)
        assert found == Record(record.value, record.key, kept, *place)
    elif decoder == "bytes" or record.value is None:
        assert found == record.value
    else:
        assert json.dumps(found) == json.dumps(json.loads(record.value))
    assert json.dumps(run.arguments(), default=repr) == json.dumps(args, default=repr)
    return True


def told(content: bytes) -> bool:
    """Read what a child tells of a handler's arguments."""
    args, text = unpack_told(content)
    assert len(args) + len(text) <= len(content)
    return bool(args)
