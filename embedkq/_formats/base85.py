"""Base 85 without a table of pairs.

The standard library's `b85encode` keeps a table of all pairs of digits from its first call on,
which is 0.3 MiB in each host. An idle worker encodes 20 bytes per partition, so it would pay for
that table and never gain by it. Reading needs no such table: use `base64.b85decode`.
"""

from __future__ import annotations

import struct

_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
_TO_DIGITS = _DIGITS + bytes(256 - len(_DIGITS))
"""A table for `bytes.translate`: the digit of each value below 85."""


def encode(data: bytes) -> str:
    """What `base64.b85encode` returns for the same bytes, as text."""
    padding = -len(data) % 4
    values = bytearray()
    for (word,) in struct.iter_unpack(">I", data + bytes(padding)):
        rest, fifth = divmod(word, 85)
        rest, fourth = divmod(rest, 85)
        rest, third = divmod(rest, 85)
        values += bytes((*divmod(rest, 85), third, fourth, fifth))
    text = values.translate(_TO_DIGITS).decode()
    return text[: len(text) - padding]
