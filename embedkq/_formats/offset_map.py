"""The map of what is done above a committed offset, as text in the commit's metadata. Any thread.

The text: a character of version, one of method, base85 of a checksum (crc32, 4 bytes) and the
content. The checksum covers the start too: a text copied to another offset (tools that mirror
groups between clusters do that) is refused.

======  ========================================================================================
method  content
======  ========================================================================================
v       varints (LEB128) from the start: how many are not done, how many are, in turns, less one
b       bits, lowest first, from the offset above the start: 1 is done
V, B    the same, deflated
======  ========================================================================================
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable, Sequence
from itertools import chain, islice, pairwise
from typing import NamedTuple

OffsetRanges = Sequence[tuple[int, int]]
"""What is done above a start, the first offset that is not: pairs (first, one past the last) of one
offset or more, in rising order, with one or more that are not done before each. So the first one
begins above the start."""

LIMIT = 4096
"""Characters that a broker takes as metadata unless told otherwise (its
`offset.metadata.max.bytes`)."""

VERSION = "1"
_MOST_CHARACTERS = 32_767
_MOST_RUNS = 32_768
_MOST_CONTENT = 256 * 1024
"""Bytes of content before it is deflated; with the two above it bounds what a hostile text can
cost."""
_MOST_VARINT = 9
_MOST_OFFSET = 2**63 - 1
_DEFLATE_FROM = 24
"""Bytes below which deflating has never made a content shorter."""
CHECKSUM = 4
"""Bytes of a checksum, in a text of this module or of `notes`."""


class Encoded(NamedTuple):
    """A text to commit.

    Attributes:
        text: ASCII, empty where nothing is done above the start.
        cut: whether runs were left out for want of room: what they hold is done again after a
            restart.
    """

    text: str
    cut: bool


def encode(start: int, done: OffsetRanges, limit: int = LIMIT) -> Encoded:
    """The text of at most `limit` characters for what is done above `start`.

    What does not fit is left out from the top. Any lower part is sound: what is forgotten is only
    repeated.

    Raises:
        ValueError: `start` is no offset, or `done` is not as `OffsetRanges` says.
    """
    numbers = _to_numbers(start, done)
    fits, misses = 0, len(done) + 1
    count = len(done)
    text = ""
    while misses - fits > 1:
        method, content = _shortest(numbers[: 2 * count])
        if content is not None and _characters(len(content)) <= limit:
            fits = count
            text = (
                VERSION
                + method
                + base64.b85encode(_checksum(start, method, content) + content).decode()
            )
        else:
            misses = count
        count = (fits + misses) // 2
    return Encoded(text, fits < len(done))


def measure(start: int, done: OffsetRanges) -> int:
    """Characters that the whole of `done` takes as a text, whatever the limit.

    Raises:
        ValueError: as `encode`.
    """
    if not done:
        return 0
    _, content = _shortest(_to_numbers(start, done))
    return _MOST_CHARACTERS if content is None else _characters(len(content))


def bound(runs: int, span: int) -> int:
    """Characters that so many runs within `span` offsets above the start never exceed, without a
    look at them."""
    if not runs:
        return 0
    # A varint is a byte longer from 128 on, another from 128 squared on: of a given sum only so
    # many can be that large.
    varints, most = 2 * runs, span >> 7
    while most:
        varints += min(2 * runs, most)
        most >>= 7
    return _characters(min(varints, -(-span // 8)))


def decode(start: int, text: str) -> OffsetRanges:
    """What `encode` was given, or its lower part; no runs for an empty text.

    Takes bounded time and memory for any text.

    Raises:
        ValueError: the text is of another version or maker, damaged, for another start, or
            senseless; it says which.
    """
    if not text:
        return ()
    _check_start(start)
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(
            f"{len(text):,} characters are more than commit metadata can have"
            f" ({_MOST_CHARACTERS:,})"
        )
    version, method, body = text[0], text[1:2], text[2:]
    if version != VERSION or method not in _READERS:
        raise ValueError(
            f"it begins with {text[:2]!r}, which this version of embedkq did not write"
        )
    refusal = f"it is damaged, or was written for another offset than {start}"
    content = unwrap(body, lambda content: _checksum(start, method, content), refusal)
    if method.isupper():
        content = _inflate(content)
    runs = _READERS[method](start, content)
    if not runs:
        raise ValueError("it holds no runs")
    if runs[-1][1] > _MOST_OFFSET:
        raise ValueError(f"it holds the offset {runs[-1][1]}, more than Kafka has")
    return runs


def unwrap(text: str, checksum_of: Callable[[bytes], bytes], refusal: str) -> bytes:
    """The content that is behind its checksum in a text in base85.

    Raises:
        ValueError: the checksum is another, or nobody writes the content so; with `refusal` as
            message.
    """
    try:
        data = base64.b85decode(text)
    except ValueError as error:
        raise ValueError(f"{refusal}: {error}") from error
    content = data[CHECKSUM:]
    if data[:CHECKSUM] != checksum_of(content) or base64.b85encode(data).decode() != text:
        raise ValueError(refusal)
    return content


def merge(
    start: int, done: OffsetRanges, other_start: int, other_done: OffsetRanges
) -> tuple[int, OffsetRanges]:
    """Start and runs of all that is done by either; a start counts as "all below is done"."""
    start = max(start, other_start)
    runs: list[tuple[int, int]] = []
    for first, last in sorted(chain(done, other_done)):
        if first <= start:
            start = max(start, last)
        elif runs and first <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(runs[-1][1], last))
        else:
            runs.append((first, last))
    return start, tuple(runs)


def lag(first: int, end: int, start: int, done: OffsetRanges) -> int:
    """How many offsets of a log are not done: its own go from `first` to before `end`; all below
    `start` is done, and what `done` holds.

    A start behind the end is of another log, in which this one's offsets say nothing: then none of
    them is done.
    """
    if start > end:
        return end - first
    start = max(first, start)
    return end - start - sum(max(0, min(above, end) - max(below, start)) for below, above in done)


def check(start: int, done: OffsetRanges) -> None:
    """Nothing, if `done` is as `OffsetRanges` says.

    Raises:
        ValueError: it is not, or `start` is no offset.
    """
    _to_numbers(start, done)


# Writing.


def _to_numbers(start: int, done: OffsetRanges) -> list[int]:
    """How many are not done and how many are, in turns from `start` on, each less the one that must
    be there."""
    _check_start(start)
    edges = [start, *chain.from_iterable(done)]
    numbers = [above - below - 1 for below, above in pairwise(edges)]
    if numbers and (min(numbers) < 0 or edges[-1] > _MOST_OFFSET):
        raise ValueError(
            f"done={_excerpt(done)} above start={start}: rising runs with gaps between them were"
            " expected"
        )
    return numbers


def _shortest(numbers: list[int]) -> tuple[str, bytes | None]:
    """Method and content of the shortest form; no content if every form is above what a reader
    takes."""
    if len(numbers) > 2 * _MOST_RUNS:
        return "", None
    contents = {"v": write_varints(numbers)}
    # Deflating may turn round which is shorter, but not by much more than this.
    if (sum(numbers) + len(numbers)) >> 3 <= 2 * len(contents["v"]):
        contents["b"] = _write_bits(numbers)
    contents = {
        method: content for method, content in contents.items() if len(content) <= _MOST_CONTENT
    }
    for method, content in list(contents.items()):
        if len(content) >= _DEFLATE_FROM:
            deflating = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
            contents[method.upper()] = deflating.compress(content) + deflating.flush()
    method = min(contents, key=lambda method: len(contents[method]), default="")
    return method, contents.get(method)


def write_varints(numbers: list[int]) -> bytes:
    """Numbers of 0 or more, one after another, as LEB128."""
    if max(numbers) < 0x80:
        return bytes(numbers)
    data = bytearray()
    for number in numbers:
        while number > 0x7F:
            data.append(number & 0x7F | 0x80)
            number >>= 7
        data.append(number)
    return bytes(data)


def _write_bits(numbers: list[int]) -> bytes:
    digits = "".join(["0" * open_ + "1" * (done + 1) + "0" for open_, done in _pairs(numbers)])[:-1]
    return int(digits[::-1], 2).to_bytes((len(digits) + 7) // 8, "little")


def _checksum(start: int, method: str, content: bytes) -> bytes:
    beginning = zlib.crc32((VERSION + method).encode() + start.to_bytes(8, "big"))
    return zlib.crc32(content, beginning).to_bytes(CHECKSUM, "big")


def _characters(content: int) -> int:
    """Characters of a text whose content has so many bytes."""
    whole, rest = divmod(CHECKSUM + content, 4)
    return 2 + 5 * whole + (rest + 1 if rest else 0)


# Reading.


def _read_varints(start: int, content: bytes) -> OffsetRanges:
    numbers = list(content) if content.isascii() else read_varints(content)
    if len(numbers) % 2 or len(numbers) > 2 * _MOST_RUNS:
        raise ValueError(
            f"it holds {len(numbers):,} numbers: pairs, and at most {_MOST_RUNS:,} of them, were"
            " expected"
        )
    runs, last = [], start
    for gap, length in _pairs(numbers):
        first = last + gap + 1
        last = first + length + 1
        runs.append((first, last))
    return tuple(runs)


def read_varints(content: bytes) -> list[int]:
    """What `write_varints` was given.

    Raises:
        ValueError: a number has no end, or more than 9 bytes.
    """
    numbers = []
    number = shift = 0
    for byte in content:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(number)
            number = shift = 0
        elif shift >= 7 * _MOST_VARINT:
            raise ValueError(f"it holds a number of more than {_MOST_VARINT} bytes")
    if shift:
        raise ValueError("its last number has no end")
    return numbers


def _read_bits(start: int, content: bytes) -> OffsetRanges:
    digits = f"{int.from_bytes(content, 'little'):b}"[::-1]
    matches = list(islice(re.finditer("1+", digits), _MOST_RUNS + 1))
    if len(matches) > _MOST_RUNS:
        raise ValueError(f"it holds more than {_MOST_RUNS:,} runs")
    return tuple((start + 1 + match.start(), start + 1 + match.end()) for match in matches)


_READERS = {"v": _read_varints, "V": _read_varints, "b": _read_bits, "B": _read_bits}


def _inflate(content: bytes) -> bytes:
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflating.decompress(content, _MOST_CONTENT + 1)
    except zlib.error as error:
        raise ValueError(f"it cannot be inflated: {error}") from error
    if len(data) > _MOST_CONTENT or not inflating.eof or inflating.unused_data:
        raise ValueError(f"it inflates to more than {_MOST_CONTENT:,} bytes, or has no proper end")
    return data


# Both.


def _pairs(numbers: list[int]) -> zip[tuple[int, int]]:
    return zip(numbers[::2], numbers[1::2], strict=True)


def _check_start(start: int) -> None:
    if not 0 <= start <= _MOST_OFFSET:
        raise ValueError(f"start={start} is no offset: 0 to {_MOST_OFFSET} was expected")


def _excerpt(done: OffsetRanges) -> str:
    text = repr(tuple(islice(done, 8)))
    return text if len(done) <= 8 else f"{text[:-1]}, and {len(done) - 8:,} more)"
