"""A page of shared memory that shows the host how far a child is, even after the child died."""

from __future__ import annotations

import enum
import mmap
import os
from typing import NamedTuple

_STATE, _STARTED, _ENDED = 0, 1, 2
_PHASE_BITS = 3
_PHASE_MASK = (1 << _PHASE_BITS) - 1


class Phase(enum.IntEnum):
    """The phase of the job whose number is on the page."""

    DECODING = 1
    """The payload is being unpickled, which may import modules and run code."""
    RUNNING = 2
    """The payload is valid and the call has started. The job's time limit counts from here."""


# A job can write anything to the page (with ctypes, for example), and that must not crash the host.
_PHASES = (Phase.DECODING, *Phase, *5 * [Phase.DECODING])


class Progress(NamedTuple):
    """The content of a page.

    Attributes:
        number: number of the last started job; 0 before the first.
        phase: the job's phase.
        since: `time.monotonic_ns()` at which the phase began.
    """

    number: int
    phase: Phase
    since: int


class ProgressPage:
    """One page. The child writes it and the host reads it.

    Number and phase share one aligned word, so that the host never combines the number of one job
    with the phase of another.
    """

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        self._words = memoryview(self._memory).cast("Q")

    @staticmethod
    def size(descriptor: int) -> None:
        """Set the size of a new anonymous file to one page."""
        os.ftruncate(descriptor, mmap.PAGESIZE)

    def write(self, number: int, phase: Phase, now: int) -> None:
        """Write number and phase at `now` (`time.monotonic_ns()`). In the child."""
        words = self._words
        words[_STARTED] = now
        words[_STATE] = number << _PHASE_BITS | phase

    def end(self, now: int) -> None:
        """Write that a job ended at `now` (`time.monotonic_ns()`). In the child."""
        self._words[_ENDED] = now

    @property
    def ended(self) -> int:
        """`time.monotonic_ns()` of the last end of a job; 0 before the first. In the host."""
        return self._words[_ENDED]

    def read(self) -> Progress:
        """Read the page. In the host."""
        words = self._words
        state = words[_STATE]
        while True:
            since = words[_STARTED]
            again = words[_STATE]
            if again == state:
                return Progress(state >> _PHASE_BITS, _PHASES[state & _PHASE_MASK], since)
            state = again

    def close(self) -> None:
        """Release the memory."""
        self._words.release()
        self._memory.close()
