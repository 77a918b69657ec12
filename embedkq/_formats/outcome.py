"""The outcome of an attempt, as it travels from the child to the owner: bytes that are not yet
unpickled."""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

from embedkq.errors import DecodeError

Status = Literal["success", "failure", "timeout", "undecodable", "malformed"]

_STATUSES: tuple[Status, ...] = ("success", "failure", "timeout", "undecodable", "malformed")
NOT_LOADED: tuple[Status, ...] = ("undecodable", "malformed")
"""Statuses of a call that a child could not unpickle. The callback receives a failure with
`DecodeError`."""
_NUMBER_OF = {status: number for number, status in enumerate(_STATUSES)}
_HEADER = struct.Struct("=BIIIII")


class Outcome(NamedTuple):
    """The outcome of an attempt, whether the child replied, died, or reached a limit.

    Attributes:
        status: the callback's status, or one of `NOT_LOADED`: `undecodable` if another host, or
            this one later, may be able to unpickle the call (a module is missing, or its import
            raises or takes too long); `malformed` if the payload is not a valid call on any host.
        payload: the pickled result (success) or exception (failure), or empty.
        type_name: qualified name of the exception's type.
        message: the exception's text.
        traceback: formatted traceback; never empty if there is an exception.
        text: for a success, the repr of the result for the log, at most 1 KiB, if requested. With
            an exception, the qualified names of its type and of all base classes, one per line.
    """

    status: Status
    payload: bytes = b""
    type_name: str = ""
    message: str = ""
    traceback: str = ""
    text: str = ""

    def pack(self) -> bytes:
        """Encode the outcome without pickle, so that reading it runs no code."""
        if not (self.type_name or self.message or self.traceback or self.text):
            return (
                _HEADER.pack(_NUMBER_OF[self.status], len(self.payload), 0, 0, 0, 0) + self.payload
            )
        parts = (self.payload, *(part.encode("utf-8", "backslashreplace") for part in self[2:]))
        return _HEADER.pack(_NUMBER_OF[self.status], *map(len, parts)) + b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes, start: int = 0) -> Outcome:
        """Decode an outcome that `pack` encoded, from position `start` on.

        Raises:
            DecodeError: the bytes are not an outcome.
        """
        try:
            number, payload, a, b, c, d = _HEADER.unpack_from(data, start)
            status = _STATUSES[number]
        except (struct.error, IndexError) as error:
            raise DecodeError(f"not an outcome: {error}") from error
        position = start + _HEADER.size + payload
        if position + a + b + c + d != len(data):
            raise DecodeError(
                f"not an outcome: it announces {position + a + b + c + d} bytes and has {len(data)}"
            )
        first = data[start + _HEADER.size : position]
        if not (a or b or c or d):
            return cls(status, first)
        texts = []
        for length in (a, b, c, d):
            texts.append(data[position : position + length].decode("utf-8", "replace"))
            position += length
        return cls(status, first, *texts)
