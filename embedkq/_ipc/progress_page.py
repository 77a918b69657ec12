"""The page of shared memory by which a child tells its host how far it is, also when it dies
without a word."""

from __future__ import annotations

import enum
import mmap
import os
from typing import NamedTuple

_STATE, _STARTED, _ENDED = 0, 1, 2
_PHASE_BITS = 3
_PHASE_MASK = (1 << _PHASE_BITS) - 1


class Phase(enum.IntEnum):
    """Where a child is with the job whose number stands on its page."""

    DECODING = 1
    """The payload is being unpickled, which may import modules and run code."""
    RUNNING = 2
    """The payload is sound and the call has begun; the job's limit counts from here."""


# A job can write anything here (through ctypes, say), and what it writes must not end its host.
_PHASES = (Phase.DECODING, *Phase, *5 * [Phase.DECODING])


class Progress(NamedTuple):
    """What a page says.

    Attributes:
        number: of the job begun last; 0 before the first.
        phase: how far the child is with it.
        since: `time.monotonic_ns()` at which that phase began.
    """

    number: int
    phase: Phase
    since: int


class ProgressPage:
    """One page, written by the child and read by the host.

    Number and phase share one aligned word, so that the host never sees the phase of one job with
    the number of another.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._words = memoryview(self._memory).cast("Q")

    @staticmethod
    def size(descriptor: int) -> None:
        """Give a new anonymous file the size of a page."""
        os.ftruncate(descriptor, mmap.PAGESIZE)

    def write(self, number: int, phase: Phase, now: int) -> None:
        """Tell the host, in the child, at `now` (`time.monotonic_ns()`)."""
        words = self._words
        words[_STARTED] = now
        words[_STATE] = number << _PHASE_BITS | phase

    def end(self, now: int) -> None:
        """Tell the host, in the child, that a job ends at `now` (`time.monotonic_ns()`)."""
        self._words[_ENDED] = now

    @property
    def ended(self) -> int:
        """`time.monotonic_ns()` at which a job ended last, in the host; 0 before the first."""
        return self._words[_ENDED]

    def read(self) -> Progress:
        """What the page says, in the host."""
        words = self._words
        state = words[_STATE]
        while True:
            since = words[_STARTED]
            again = words[_STATE]
            if again == state:
                return Progress(state >> _PHASE_BITS, _PHASES[state & _PHASE_MASK], since)
            state = again

    def close(self) -> None:
        """Give the memory back."""
        self._words.release()
        self._memory.close()
