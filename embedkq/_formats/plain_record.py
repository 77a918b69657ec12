"""Plain records, which any program may have written, as calls of a worker's handler. Pure, except
that a decoder of the user's own runs his code; host and child.

The host reads nothing of a value. Only where a callback wants the job's arguments, it decodes what
needs no code of the user's once more; what a decoder of his own made comes home from the child.
"""

from __future__ import annotations

import json
import marshal
import struct
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from embedkq._formats.headers import GROUP_HEADER
from embedkq.errors import DecodeError
from embedkq.record import Record

LARGEST_ARGUMENTS = 16 * 1024 * 1024
"""Bytes of pickled arguments that a child sends home for the callback."""
_LENGTH = struct.Struct("=I")
Decoder = str | Callable[[bytes], Any]


class Handling(NamedTuple):
    """What a worker does with plain records.

    Attributes:
        handler: called with one argument for each record.
        decoder: makes the argument: "record" is the record itself, "bytes" its value, "json" what
            its value is as JSON, and a function makes it of the value. Without a value the argument
            is None, except for "record".
    """

    handler: Callable[[Any], Any]
    decoder: Decoder

    @property
    def is_own(self) -> bool:
        """Whether the decoder is the user's, so that the host cannot decode."""
        return not isinstance(self.decoder, str)

    def argument(self, record: Record) -> Any:
        """What the handler is called with.

        Raises:
            DecodeError: the value is not JSON.
            Exception: whatever a decoder of the user's raises.
        """
        if self.decoder == "record":
            return record
        value = record.value
        if value is None or self.decoder == "bytes":
            return value
        return _from_json(value) if isinstance(self.decoder, str) else self.decoder(value)


def _from_json(value: bytes) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"the value is not JSON: {error}") from None


def visible(headers: Iterable[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes | None], ...]:
    """A record's headers without the one that embedkq adds to a dead letter that is retried."""
    return tuple((name, value) for name, value in headers if name != GROUP_HEADER)


def as_text(headers: Iterable[tuple[str, bytes | None]]) -> dict[str, str]:
    """The headers for `current_job()` and the callback's job; of several with one name the last."""
    return {name: (value or b"").decode("utf-8", "replace") for name, value in headers}


# Messages from a child to its host about such a job.


def pack_told(args: bytes) -> bytes:
    """Put the pickled arguments before the rest of a message."""
    return _LENGTH.pack(len(args)) + args


def unpack_told(content: bytes) -> tuple[bytes, bytes]:
    """The pickled arguments, empty if there are none, and the rest of the message. What `pack_told`
    did not make is all rest."""
    if len(content) < _LENGTH.size:
        return b"", content
    end = _LENGTH.size + _LENGTH.unpack_from(content)[0]
    return (content[_LENGTH.size : end], content[end:]) if end <= len(content) else (b"", content)


# On the way to a child.


def pack(
    value: bytes | None, headers: tuple[tuple[str, bytes | None], ...], timestamp: int
) -> bytes:
    """What a child must know of a record beside its place and key."""
    return marshal.dumps((value, headers, timestamp))


def unpack(
    payload: bytes | memoryview,
) -> tuple[bytes | None, tuple[tuple[str, bytes | None], ...], int]:
    """Decode what `pack` made. A host of the same machine and Python did, so marshal fits."""
    value, headers, timestamp = marshal.loads(payload)
    return value, headers, timestamp
