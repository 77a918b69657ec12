"""Dealing: letters are retried or dropped in batches, each of which is noted once it is done. One
thread.

Whoever is killed between the two has put back letters that count as open: they are put back again,
and none is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from embedkq.dlq import DeadLetters, Letter
from embedkq.errors import BrokerUnavailable, EmbedkqError

Action = Callable[[Sequence[Letter]], Sequence[EmbedkqError | None]]
"""Does something with letters; for each why it could not, or None."""
_MOST_LETTERS = 500
_MOST_BYTES = 8 * 1024 * 1024


class Resolution(NamedTuple):
    """What became of one letter.

    Attributes:
        letter: without value and traceback.
        kept: why it is still open; None where it is dealt with.
    """

    letter: Letter
    kept: EmbedkqError | None


def drop(letters: Sequence[Letter]) -> list[EmbedkqError | None]:
    """Nothing: a letter that is noted is dropped. It stays in its topic as long as Kafka keeps
    it."""
    return [None] * len(letters)


def deal(box: DeadLetters, letters: Iterable[Letter], action: Action) -> Iterator[Resolution]:
    """Do this with the letters; what became of each, once that is noted.

    Raises:
        BrokerUnavailable: a broker is away; what was told until then is noted.
        EmbedkqError: nothing can be noted (any more), or what was noted is not kept.
    """
    box.dealt.check()
    for batch in _batches(letters):
        fitting = _fitting(box, batch)
        outcomes = action(fitting) if fitting else ()
        box.dealt.add(
            (letter.partition, letter.offset)
            for letter, kept in zip(fitting, outcomes, strict=True)
            if kept is None
        )
        for letter, kept in zip(fitting, outcomes, strict=True):
            yield Resolution(letter.brief(), kept)
        away = next((kept for kept in outcomes if isinstance(kept, BrokerUnavailable)), None)
        if away is not None:
            raise away
        if len(fitting) < len(batch):
            first = next(letter for letter in batch if letter not in fitting)
            raise EmbedkqError(
                f"stopped before letter {first.name}: group {box.group!r} can note no more letters"
                f" of partition {first.partition} beside those that are still open between them."
                " Retry or drop the oldest first"
            )
    box.dealt.confirm()


def _batches(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    batch: list[Letter] = []
    size = 0
    for letter in letters:
        batch.append(letter)
        size += letter.size
        if len(batch) >= _MOST_LETTERS or size >= _MOST_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _fitting(box: DeadLetters, batch: Sequence[Letter]) -> list[Letter]:
    """Those of which can be noted that they are dealt with: what could not be would be retried
    again and again."""
    offsets: dict[int, list[int]] = {}
    for letter in batch:
        offsets.setdefault(letter.partition, []).append(letter.offset)
    noted = {
        (partition, offset)
        for partition, told in offsets.items()
        for offset in told[: box.dealt.room(partition, told)]
    }
    return [letter for letter in batch if (letter.partition, letter.offset) in noted]
