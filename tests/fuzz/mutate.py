"""Random changes of bytes, texts and headers. The same `Random` makes the same changes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

_TELLING = (
    b"[[[[[[", b"\xc3\x28", b"", b"\0", b"\xff", b"\x7f", b"\x80", b"-1", b"0", b"1e309", b"nan", b"inf", b"9" * 20, b"\xed\xa0\x80",
    b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"%s%n", b"\r\n", b"..", b"/", b"embedkq-", b"cos\nsystem\n", b"__main__",
    b";", b"=", b";rounds=1", b";signature=",
)  # fmt: skip
"""What has broken other readers."""
LONGEST = 4096
_TIMES, _LENGTHS = (1, 1, 1, 2, 2, 4), (1, 1, 1, 2, 4, 4, 8, 30)


def changed(chance: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """The data with one to a few random changes; now and then parts of others."""
    made = bytearray(data)
    for _ in range(chance.choice(_TIMES)):
        _change(chance, made, others)
    return bytes(made[:LONGEST])


def _change(chance: Random, made: bytearray, others: Sequence[bytes]) -> None:
    kind, size = chance.randrange(9), len(made)
    place = chance.randrange(size + 1)
    end = min(size, place + chance.choice(_LENGTHS))
    if kind == 0 and place < size:
        made[place] ^= 1 << chance.randrange(8)
    elif kind == 1 and place < size:
        made[place] = chance.randrange(256)
    elif kind == 2:
        made[place:place] = chance.randbytes(chance.choice(_LENGTHS))
    elif kind == 3:
        del made[place:end]
    elif kind == 4:
        made[place:place] = made[place:end] * chance.choice(_TIMES)
    elif kind == 5:
        del made[place:]
    elif kind == 6 and others:
        other = chance.choice(others)
        made[place:] = other[chance.randrange(len(other) + 1) :]
    elif kind == 7:
        made[place:end] = chance.choice(_TELLING)
    else:
        made += chance.randbytes(chance.choice((1, 8, 64)))


def changed_text(chance: Random, text: str, others: Sequence[str] = ()) -> str:
    """As `changed`, and always a text: what is no UTF-8 comes as surrogates, as from a command
    line."""
    encoded = [other.encode("utf-8", "surrogateescape") for other in (text, *others)]
    return changed(chance, encoded[0], encoded[1:]).decode("utf-8", "surrogateescape")


def changed_headers(
    chance: Random, headers: Sequence[tuple[str, bytes | None]], values: Sequence[bytes]
) -> list[tuple[str, bytes | None]]:
    """Headers with some taken away, doubled, moved, renamed or changed."""
    made = list(headers)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        kind, place = chance.randrange(8), chance.randrange(len(made) + 1)
        name, value = (
            made[place]
            if place < len(made)
            else (chance.choice(("embedkq", "embedkq-more", "traceparent", "")), b"x")
        )
        if kind == 0:
            del made[place : place + 1]
        elif kind == 1:
            made.insert(chance.randrange(len(made) + 1), (name, value))
        elif kind == 2:
            made[place : place + 1] = [(name, None)]
        elif kind == 3:
            made[place : place + 1] = [
                (changed(chance, name.encode()).decode("utf-8", "replace"), value)
            ]
        elif kind == 4:
            chance.shuffle(made)
        elif kind == 5:
            made[place : place + 1] = [(name, chance.choice(_TELLING))]
        else:
            made[place : place + 1] = [(name, changed(chance, value or b"", values))]
    return made
