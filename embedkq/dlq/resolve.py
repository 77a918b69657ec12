"""Retries or drops letters in batches, and records each batch once it is done. One thread.

A process that is killed in between has retried letters that still count as open. The next command
retries them again: no letter is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from embedkq._partition import Partition
from embedkq.dlq import DeadLetters, Letter
from embedkq.errors import BrokerUnavailable, EmbedkqError

Action = Callable[[Sequence[Letter]], Sequence[EmbedkqError | None]]
"""Acts on letters. Returns for each one why it failed, or None."""
_MOST_LETTERS = 500
_MOST_BYTES = 8 * 1024 * 1024


class Resolution(NamedTuple):
    """The result for one letter.

    Attributes:
        letter: the letter without value and traceback.
        kept: why the letter is still open; None if it is resolved.
    """

    letter: Letter
    kept: EmbedkqError | None


def drop(letters: Sequence[Letter]) -> list[EmbedkqError | None]:
    """Accept all letters. Recording a letter is enough to drop it; it stays in its topic as long as
    Kafka keeps it."""
    return [None] * len(letters)


def resolve(
    dead_letters: DeadLetters, letters: Iterable[Letter], action: Action
) -> Iterator[Resolution]:
    """Apply the action to the letters. Yields the result for each one after it is recorded.

    Raises:
        BrokerUnavailable: a broker does not answer; everything yielded before is recorded.
        EmbedkqError: nothing (more) can be recorded, or the broker did not keep what was recorded.
    """
    dead_letters.resolved.check()
    for batch in _batches(letters):
        fitting = _fitting(dead_letters, batch)
        outcomes = action(fitting) if fitting else ()
        dead_letters.resolved.add(
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
                f"stopped before letter {first.name}: group {dead_letters.group!r} has no room to"
                f" record more letters of partition {first.partition.number} while older ones are"
                " open. Retry or drop the oldest first"
            )
    dead_letters.resolved.confirm()


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


def _fitting(dead_letters: DeadLetters, batch: Sequence[Letter]) -> list[Letter]:
    """The letters that there is room to record. Without the record, each command would retry them
    again."""
    offsets: dict[Partition, list[int]] = {}
    for letter in batch:
        offsets.setdefault(letter.partition, []).append(letter.offset)
    recorded = {
        (partition, offset)
        for partition, places in offsets.items()
        for offset in places[: dead_letters.resolved.room(partition, places)]
    }
    return [letter for letter in batch if (letter.partition, letter.offset) in recorded]
