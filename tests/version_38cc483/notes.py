"""What is noted of a partition beside how far it is done, and how all of it travels in the commit's metadata. Any thread.

The text: that of the map (see `donemap`; nothing if nothing is done above the start), and behind a space, where there is something to
note, base85 of a checksum and varints: how often the partition was begun without progress, the suspect (its distance from the start,
plus one; 0 for none), how many records have taken hosts down, and of each distance and count, then the same for attempts up to the end.
Distances are from the offset before. The checksum covers the start too, as the map's does.
"""
from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import NamedTuple

from version_38cc483 import donemap
from version_38cc483.donemap import CHECKSUM, LIMIT, Runs

_SEPARATOR = " "
_STARTS_IN_VAIN = 2
_MOST_CRASHES = 16
"""Records whose crashes are noted: those with the lowest offsets, for they hold up the rest."""
_MOST_NUMBERS = 16_384
_MOST_BYTES = 64 * 1024


class Notes(NamedTuple):
    """What is known of records that are not done. Immutable; any thread.

    Attributes:
        starts: how often the partition was assigned since it was last given up in order or made progress.
        suspect: offset of the job that runs while each runs alone; None for none.
        crashes: how often a host went down over a record that was the suspect, by offset.
        attempts: how often a job has failed, timed out or crashed, by offset.
    """

    starts: int = 0
    suspect: int | None = None
    crashes: Mapping[int, int] = {}
    attempts: Mapping[int, int] = {}

    def __hash__(self) -> int:
        return hash((self.starts, self.suspect, frozenset(self.crashes.items()), frozenset(self.attempts.items())))

    @property
    def careful(self) -> bool:
        """Whether the partition was begun so often without progress that its jobs should run one at a time."""
        return self.starts > _STARTS_IN_VAIN

    def begun_again(self) -> Notes:
        """As of a new assignment, to a host that has not had the partition before."""
        return self.blamed()._replace(starts=self.starts + 1)

    def blamed(self) -> Notes:
        """As of a host that went down over its suspect, if it had one."""
        if self.suspect is None:
            return self
        return self._replace(suspect=None, crashes={**self.crashes, self.suspect: self.crashes.get(self.suspect, 0) + 1})

    def given_up(self) -> Notes:
        """As of an assignment that ends in order."""
        return self._replace(starts=0, suspect=None)

    def of_open(self, start: int, done: Runs) -> Notes:
        """The same without what is known of records that are done."""
        noted = self
        for offset in {*self.crashes, *self.attempts}:
            if offset < start or any(first <= offset < last for first, last in done):
                noted = noted.without(offset)
        return noted

    def without(self, offset: int) -> Notes:
        """As of the moment in which this offset is done."""
        if offset not in self.crashes and offset not in self.attempts and offset != self.suspect:
            return self
        return self._replace(
            suspect=None if offset == self.suspect else self.suspect,
            crashes={other: count for other, count in self.crashes.items() if other != offset},
            attempts={other: count for other, count in self.attempts.items() if other != offset},
        )


NOTHING = Notes()


def encode(start: int, done: Runs, notes: Notes, limit: int = LIMIT) -> str:
    """The metadata for an offset, of at most `limit` characters.

    First comes what guards against crashes, which is short, then the map, then the attempts. What does not fit is left out from the
    top: jobs done run again, jobs that failed begin to count anew.

    Raises:
        ValueError: `start` is no offset, or `done` is not as `Runs` says.
    """
    if notes == NOTHING:
        return donemap.encode(start, done, limit).text
    needed = _encode(start, notes._replace(attempts={}))
    text = donemap.encode(start, done, max(0, limit - len(needed) - 1)).text
    offsets = sorted(notes.attempts)
    while offsets:
        told = _encode(start, notes._replace(attempts={offset: notes.attempts[offset] for offset in offsets}))
        if len(text) + 1 + len(told) <= limit:
            return text + _SEPARATOR + told
        offsets = offsets[: len(offsets) // 2]
    return text + _SEPARATOR + needed if len(text) + 1 + len(needed) <= limit else text


def decode(start: int, text: str) -> tuple[Runs, Notes]:
    """What `encode` was given, or a part of it. Takes bounded time and memory for any text.

    Raises:
        ValueError: the text was not written by embedkq for this start, or is damaged; it says which.
    """
    written, separator, noted = text.partition(_SEPARATOR)
    done = donemap.decode(start, written)
    return done, _decode(start, noted) if separator else NOTHING


def _encode(start: int, notes: Notes) -> str:
    crashes, attempts = (sorted(pair for pair in counts.items() if pair[0] >= start) for counts in (notes.crashes, notes.attempts))
    suspect = notes.suspect if notes.suspect is not None and notes.suspect >= start else None
    numbers = [notes.starts, 0 if suspect is None else suspect - start + 1, len(crashes[:_MOST_CRASHES])]
    for pairs in (crashes[:_MOST_CRASHES], attempts):
        last = start
        for offset, count in pairs:
            numbers += (offset - last, count)
            last = offset
    content = donemap.write_varints(numbers)
    return base64.b85encode(_checksum(start, content) + content).decode()


def _decode(start: int, text: str) -> Notes:
    if len(text) > _MOST_BYTES:
        raise ValueError(f"it has {len(text):,} characters of notes")
    refusal = f"its notes are damaged, or were written for another offset than {start}"
    content = donemap.unwrap(text, lambda content: _checksum(start, content), refusal)
    numbers = donemap.read_varints(content)
    if not 3 <= len(numbers) <= _MOST_NUMBERS or len(numbers) % 2 == 0 or numbers[2] > (len(numbers) - 3) // 2:
        raise ValueError(f"its notes hold {len(numbers)} numbers that make no sense")
    middle = 3 + 2 * numbers[2]
    suspect = start + numbers[1] - 1 if numbers[1] else None
    return Notes(numbers[0], suspect, _counts(start, numbers[3:middle]), _counts(start, numbers[middle:]))


def _counts(start: int, numbers: list[int]) -> dict[int, int]:
    counts, offset = {}, start
    for distance, count in zip(numbers[::2], numbers[1::2], strict=True):
        offset += distance
        counts[offset] = count
    return counts


def _checksum(start: int, content: bytes) -> bytes:
    return zlib.crc32(content, zlib.crc32(b"notes" + start.to_bytes(8, "big"))).to_bytes(CHECKSUM, "big")
