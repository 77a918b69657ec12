"""The headers that users give their jobs. Pure; any thread, host and child.

On the wire they are headers of the record under their own names, so that other programs can read
them. The header `embedkq.headers` lists those names, separated by semicolons: other headers, such
as those of a tracer, come and go without the job or its signature knowing of them. A record without
such headers has no list either, and is as it was before there were any.

Older versions run such a job without showing it its headers. If it is signed they refuse it,
because they do not know that the signature covers the headers.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from embedkq._formats.dead_letter import GROUP
from embedkq._formats.headers import HEADER
from embedkq.errors import DecodeError

NAMES_HEADER = HEADER + ".headers"
MOST_HEADERS = 32
MOST_BYTES = 8 * 1024
"""Of names and values together."""
_SEPARATOR = ";"
_LENGTH = struct.Struct(">q").pack

Pairs = tuple[tuple[str, bytes], ...]


def encode(headers: Mapping[str, str] | None) -> Pairs:
    """The record headers for a job's headers; empty if there are none.

    Raises:
        TypeError, ValueError: they cannot be headers. The message names the fault and the cure.
    """
    if headers is None:
        return ()
    if not isinstance(headers, Mapping):
        raise TypeError(
            'headers must be a mapping of names to strings, such as {"tenant": "a"}, or None, not'
            f" {headers!r}"
        )
    pairs = [(_checked_name(name), _encoded(name, value)) for name, value in headers.items()]
    size = sum(len(name.encode()) + len(value) for name, value in pairs)
    if len(pairs) > MOST_HEADERS or size > MOST_BYTES:
        raise ValueError(
            f"headers={_shown(headers)}: {len(pairs)} headers with {size:,} bytes; at most"
            f" {MOST_HEADERS} headers and {MOST_BYTES:,} bytes are possible. Pass the rest as an"
            " argument"
        )
    names = _SEPARATOR.join(name for name, _ in pairs)
    return ((NAMES_HEADER, names.encode()), *pairs) if pairs else ()


def decode(headers: Sequence[tuple[str, bytes | None]]) -> dict[str, str]:
    """The job's headers among those of a record.

    Raises:
        DecodeError: they are not as `encode` makes them; the message says why.
    """
    decoded = {}
    for name, value in _listed(headers):
        try:
            decoded[name] = value.decode()
        except UnicodeDecodeError:
            raise DecodeError(f"header {name!r} is not UTF-8: {value[:64]!r}") from None
    return decoded


def signed_part(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """What a signature covers of the job's headers; empty if there are none.

    Raises:
        DecodeError: as `decode`, but for values that are not UTF-8.
    """
    listed = _listed(headers)
    parts = [part for name, value in listed for part in (name.encode(), value)]
    return b"".join(part for each in parts for part in (_LENGTH(len(each)), each))


def _listed(headers: Sequence[tuple[str, bytes | None]]) -> list[tuple[str, bytes]]:
    """Name and value of the job's headers, in the order of the list."""
    lists = [value or b"" for name, value in headers if name == NAMES_HEADER]
    if not lists:
        return []
    if len(lists) > 1:
        raise DecodeError(f"header {NAMES_HEADER!r} is duplicated")
    names = lists[0].decode("utf-8", "backslashreplace").split(_SEPARATOR)
    wanted = set(names)
    found: dict[str, bytes] = {}
    for name, value in headers:
        if name in wanted:
            if name in found:
                raise DecodeError(f"header {name[:64]!r} is duplicated")
            found[name] = value or b""
    if len(wanted) < len(names):
        raise DecodeError(f"header {NAMES_HEADER!r} names a header twice: {lists[0][:64]!r}")
    for name in names:
        if name not in found or _fault_of(name):
            raise DecodeError(
                f"header {NAMES_HEADER!r} names {name[:64]!r}, which"
                f" {_fault_of(name) or 'is missing'}"
            )
    return [(name, found[name]) for name in names]


def _fault_of(name: str) -> str:
    """Why this cannot be the name of a job's header; empty if it can."""
    if name.casefold().startswith(HEADER) or name == GROUP:
        return "is embedkq's own"
    if _SEPARATOR in name:
        return "has a semicolon"
    return "" if name and name.isprintable() else "is not printable text"


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(f"headers: a name must be a string, not {name!r}")
    if fault := _fault_of(name):
        raise ValueError(
            f"headers: {_shown(name)} cannot name a header, because it {fault}: choose another name"
        )
    return name


def _encoded(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise TypeError(
            f"headers: {name!r} must be a string, not {_shown(value)}: make it one, with str() or"
            " json.dumps()"
        )
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"headers: {name!r} is {_shown(value)}, which UTF-8 cannot carry ({error.reason}): pass"
            " it as an argument"
        ) from None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
