"""The map of what is done above a committed offset, as text in the commit's metadata. Any thread.

The text has a character for the version, one for the method, and base85 of a checksum (crc32, 4
bytes) and the content. The checksum covers the start offset too. So a text that was copied to
another offset, as tools that mirror groups between clusters do, is refused.

method  content
======  ========================================================================================
v       varints (LEB128) from the start: how many are not done, how many are, in turns, less one
b       bits, lowest first, from the offset above the start: 1 is done
V, B    the same, deflated
======  ========================================================================================

What each is good for, in the 4,096 characters that a broker accepts:

- Varints cost by the range. One slow job with 14 million done jobs above it takes 14 characters;
  bits reach 2 million offsets at most.
- Bits cost by the offset. Of 100,000 offsets, half of them done at random, they carry 13,123 done
  ones; deflated varints 10,060.
- Deflation, where 90 % are done: bits carry 41,122 done offsets with it and 23,531 without.
- The plain forms, which are what is deflated anyway: up to 7 characters less where little is done.
  To write only the deflated two would save three lines, since readers have to know all four.
"""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Callable, Sequence
from itertools import chain, islice, pairwise
from typing import NamedTuple

from embedkq._formats import base85

OffsetRanges = Sequence[tuple[int, int]]
"""The ranges of done offsets above a start, which is the first offset that is not done: pairs
(first, last + 1), rising, each with one offset or more, and with at least one offset that is not
done before each. So the first range begins above the start."""

LIMIT = 4096
"""Characters of metadata that a broker accepts by default (`offset.metadata.max.bytes`)."""

VERSION = "1"
_MOST_CHARACTERS = 32_767
_MOST_RUNS = 32_768
_MOST_CONTENT = 256 * 1024
"""Bytes of content before deflation. With the two limits above, this bounds the cost of a hostile
text."""
_MOST_VARINT = 9
_MOST_OFFSET = 2**63 - 1
_DEFLATE_FROM = 24
"""Bytes. Deflating shorter content never made it smaller."""
CHECKSUM = 4
"""Bytes of a checksum, here and in `commit_metadata`."""


class Encoded(NamedTuple):
    """Encoded metadata to commit.

    Attributes:
        text: ASCII; empty if nothing is done above the start.
        cut: whether ranges were dropped because they did not fit. Their jobs run again after a
            restart.
    """

    text: str
    cut: bool


def encode(start: int, done: OffsetRanges, limit: int = LIMIT) -> Encoded:
    """Encode the done ranges above `start` in at most `limit` characters.

    Ranges that do not fit are dropped from the top. That is safe: their jobs only run again.

    Raises:
        ValueError: `start` is not an offset, or `done` is not a valid `OffsetRanges`.
    """
    numbers = _to_numbers(start, done)
    fits, misses = 0, len(done) + 1
    count = len(done)
    text = ""
    while misses - fits > 1:
        method, content = _shortest(numbers[: 2 * count])
        if content is not None and _characters(len(content)) <= limit:
            fits = count
            text = VERSION + method + base85.encode(_checksum(start, method, content) + content)
        else:
            misses = count
        count = (fits + misses) // 2
    return Encoded(text, fits < len(done))


def measure(start: int, done: OffsetRanges) -> int:
    """The number of characters that all of `done` needs, regardless of the limit.

    Raises:
        ValueError: as `encode`.
    """
    if not done:
        return 0
    _, content = _shortest(_to_numbers(start, done))
    return _MOST_CHARACTERS if content is None else _characters(len(content))


def bound(runs: int, span: int) -> int:
    """An upper bound of the characters for this number of ranges within `span` offsets above the
    start, without encoding them."""
    if not runs:
        return 0
    # A varint needs one more byte from 128 on, and another from 128 squared on. For a given sum,
    # only so many numbers can be that large.
    varints, most = 2 * runs, span >> 7
    while most:
        varints += min(2 * runs, most)
        most >>= 7
    return _characters(min(varints, -(-span // 8)))


def decode(start: int, text: str) -> OffsetRanges:
    """Decode what `encode` encoded: all ranges, or the lower ones. An empty text has no ranges.

    Uses bounded time and memory for any text.

    Raises:
        ValueError: another version or program wrote the text, or it is damaged, for another start,
            or invalid. The message says which.
    """
    if not text:
        return ()
    _check_start(start)
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(
            f"it has {len(text):,} characters, more than commit metadata can have"
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
        raise ValueError("it has no ranges")
    if runs[-1][1] > _MOST_OFFSET:
        raise ValueError(f"it contains offset {runs[-1][1]}, which is above Kafka's maximum")
    return runs


def unwrap(text: str, checksum_of: Callable[[bytes], bytes], refusal: str) -> bytes:
    """The content of a base85 text that begins with a checksum.

    Raises:
        ValueError: the checksum is wrong, or the base85 is not canonical. `refusal` is the message.
    """
    try:
        data = base64.b85decode(text)
    except ValueError as error:
        raise ValueError(f"{refusal}: {error}") from error
    content = data[CHECKSUM:]
    if data[:CHECKSUM] != checksum_of(content) or base85.encode(data) != text:
        raise ValueError(refusal)
    return content


def merge(
    start: int, done: OffsetRanges, other_start: int, other_done: OffsetRanges
) -> tuple[int, OffsetRanges]:
    """Merge two states: the start and ranges of everything that either has done. Everything below a
    start counts as done."""
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
    """The number of offsets of a log, from `first` to before `end`, that are not done. Everything
    below `start` and in `done` is done.

    A start behind the end belongs to another log, so it says nothing about this one: no offset is
    done.
    """
    if start > end:
        return end - first
    start = max(first, start)
    return end - start - sum(max(0, min(above, end) - max(below, start)) for below, above in done)


def check(start: int, done: OffsetRanges) -> None:
    """Check that `done` is a valid `OffsetRanges`.

    Raises:
        ValueError: it is not, or `start` is not an offset.
    """
    _to_numbers(start, done)


# Writing.


def _to_numbers(start: int, done: OffsetRanges) -> list[int]:
    """Alternately the number of offsets that are not done and that are done, from `start` on, each
    less one."""
    _check_start(start)
    edges = [start, *chain.from_iterable(done)]
    numbers = [above - below - 1 for below, above in pairwise(edges)]
    if numbers and (min(numbers) < 0 or edges[-1] > _MOST_OFFSET):
        raise ValueError(
            f"done={_excerpt(done)} above start={start}: expected rising ranges with gaps between"
            " them"
        )
    return numbers


def _shortest(numbers: list[int]) -> tuple[str, bytes | None]:
    """Method and content of the shortest encoding. No content if every encoding is longer than
    readers accept."""
    if len(numbers) > 2 * _MOST_RUNS:
        return "", None
    contents = {"v": write_varints(numbers)}
    # Deflating can change which one is shorter, but hardly by more than this.
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
    """Encode numbers of 0 or more as LEB128."""
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
    """Characters of a text with this many bytes of content."""
    whole, rest = divmod(CHECKSUM + content, 4)
    return 2 + 5 * whole + (rest + 1 if rest else 0)


# Reading.


def _read_varints(start: int, content: bytes) -> OffsetRanges:
    numbers = list(content) if content.isascii() else read_varints(content)
    if len(numbers) % 2 or len(numbers) > 2 * _MOST_RUNS:
        raise ValueError(f"it has {len(numbers):,} numbers: expected at most {_MOST_RUNS:,} pairs")
    runs, last = [], start
    for gap, length in _pairs(numbers):
        first = last + gap + 1
        last = first + length + 1
        runs.append((first, last))
    return tuple(runs)


def read_varints(content: bytes) -> list[int]:
    """Decode the numbers that `write_varints` encoded.

    Raises:
        ValueError: a number is incomplete, or has more than 9 bytes.
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
            raise ValueError(f"it has a number of more than {_MOST_VARINT} bytes")
    if shift:
        raise ValueError("its last number is incomplete")
    return numbers


def _read_bits(start: int, content: bytes) -> OffsetRanges:
    digits = f"{int.from_bytes(content, 'little'):b}"[::-1]
    matches = list(islice(re.finditer("1+", digits), _MOST_RUNS + 1))
    if len(matches) > _MOST_RUNS:
        raise ValueError(f"it has more than {_MOST_RUNS:,} ranges")
    return tuple((start + 1 + match.start(), start + 1 + match.end()) for match in matches)


_READERS = {"v": _read_varints, "V": _read_varints, "b": _read_bits, "B": _read_bits}


def _inflate(content: bytes) -> bytes:
    inflating = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data = inflating.decompress(content, _MOST_CONTENT + 1)
    except zlib.error as error:
        raise ValueError(f"it cannot be inflated: {error}") from error
    if len(data) > _MOST_CONTENT or not inflating.eof or inflating.unused_data:
        raise ValueError(f"it inflates to more than {_MOST_CONTENT:,} bytes, or is incomplete")
    return data


# Both.


def _pairs(numbers: list[int]) -> zip[tuple[int, int]]:
    return zip(numbers[::2], numbers[1::2], strict=True)


def _check_start(start: int) -> None:
    if not 0 <= start <= _MOST_OFFSET:
        raise ValueError(f"start={start} is not an offset: expected 0 to {_MOST_OFFSET}")


def _excerpt(done: OffsetRanges) -> str:
    text = repr(tuple(islice(done, 8)))
    return text if len(done) <= 8 else f"{text[:-1]}, and {len(done) - 8:,} more)"
