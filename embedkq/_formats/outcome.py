"""How one run of a job ended, as it travels from the child to the owner: bytes, not yet
unpickled."""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

from embedkq.errors import DecodeError

Status = Literal["success", "failure", "timeout", "undecodable", "malformed"]

_STATUSES: tuple[Status, ...] = ("success", "failure", "timeout", "undecodable", "malformed")
NOT_LOADED: tuple[Status, ...] = ("undecodable", "malformed")
"""Statuses of a call that a child could not unpickle. The callback is told a failure, with
`DecodeError`."""
_NUMBER_OF = {status: number for number, status in enumerate(_STATUSES)}
_HEADER = struct.Struct("=BIIIII")


class Outcome(NamedTuple):
    """The one form that every ending takes: bytes from a child, its death, or its limit.

    Attributes:
        status: what the callback is told, or one of `NOT_LOADED`: `undecodable` if another host, or
            this one later, may be able to unpickle the call (a module is missing, its import raises
            or takes too long); `malformed` if the payload is no call anywhere.
        payload: the pickled result (success) or exception (failure). Empty where there is none.
        type_name: qualified name of the exception's type.
        message: the exception's text.
        traceback: formatted traceback, never empty where there is an exception.
        text: success: repr of the result for the log, at most 1 KiB, empty unless asked for. With
            an exception: qualified names of its type and of all that it derives from, one a line.
    """

    status: Status
    payload: bytes = b""
    type_name: str = ""
    message: str = ""
    traceback: str = ""
    text: str = ""

    def pack(self) -> bytes:
        """The outcome as bytes, without pickle: who reads them runs no code."""
        if not any(self[2:]):
            return (
                _HEADER.pack(_NUMBER_OF[self.status], len(self.payload), 0, 0, 0, 0) + self.payload
            )
        parts = (self.payload, *(part.encode("utf-8", "backslashreplace") for part in self[2:]))
        return _HEADER.pack(_NUMBER_OF[self.status], *map(len, parts)) + b"".join(parts)

    @classmethod
    def unpack(cls, data: bytes, start: int = 0) -> Outcome:
        """The outcome that `pack` made, read from `start` on.

        Raises:
            DecodeError: the bytes are no outcome.
        """
        try:
            number, payload, *lengths = _HEADER.unpack_from(data, start)
            status = _STATUSES[number]
        except (struct.error, IndexError) as error:
            raise DecodeError(f"not an outcome: {error}") from error
        position = start + _HEADER.size + payload
        if position + sum(lengths) != len(data):
            raise DecodeError(
                f"not an outcome: {len(data)} bytes where {position + sum(lengths)} are announced"
            )
        first = data[start + _HEADER.size : position]
        if not any(lengths):
            return cls(status, first)
        texts = []
        for length in lengths:
            texts.append(data[position : position + length].decode("utf-8", "replace"))
            position += length
        return cls(status, first, *texts)
