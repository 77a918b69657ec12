"""Feeds targets from a seed: counts what was taken and refused, keeps what failed, and measures
what is kept in memory."""

from __future__ import annotations

import faulthandler
import gc
import sys
import time
import traceback
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .targets import Target

STUCK_SECONDS = 60.0
"""An input that takes longer ends the run, with its stack."""
MOST_KEPT = 16.0
"""Bytes that a reader may keep of each input, on average: caches that fill, not what grows with the
number of inputs."""
_ROUND = 25
_MOST_FAILURES = 5


@dataclass
class Tally:
    """What came of one target's inputs.

    Attributes:
        inputs: how many were made.
        taken: how many of them its reader took.
        seconds: what making and reading them took.
        failures: texts of the first few.
        failed: how many.
        kept: bytes that stayed in memory for each input; None if that was not measured.
    """

    inputs: int = 0
    taken: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)
    failed: int = 0
    kept: float | None = None

    @property
    def well(self) -> bool:
        return not self.failed and (self.kept is None or self.kept <= MOST_KEPT)


def feed(target: Target, seed: int, count: int, tally: Tally, mark: Path) -> None:
    """The next inputs of this seed."""
    began = time.perf_counter()
    faulthandler.dump_traceback_later(STUCK_SECONDS + count * 0.01, exit=True, file=sys.__stderr__)
    for number in range(tally.inputs, tally.inputs + count):
        try:
            tally.taken += feed_one(target, seed, number)
        except Exception:
            tally.failed += 1
            if len(tally.failures) < _MOST_FAILURES:
                tally.failures.append(
                    f"{target.name}, seed {seed}, input {number}:\n{traceback.format_exc()}"
                )
    faulthandler.cancel_dump_traceback_later()
    tally.inputs += count
    tally.seconds += time.perf_counter() - began
    if mark.exists():
        mark.unlink()
        tally.failed += 1
        tally.failures.append(
            f"{target.name}, seed {seed}, an input before {tally.inputs}: code of an attack has run"
        )


def feed_one(target: Target, seed: int, number: int) -> bool:
    """One input, always the same for seed and number."""
    return target.read(target.make(Random(f"{seed} {target.name} {number}")))


def rounds(
    listed: Sequence[Target],
    seed: int,
    count: int,
    deadline: float,
    mark: Path,
    tallies: dict[str, Tally],
) -> Iterator[int]:
    """Inputs to all targets in turns, by their shares, until there were so many or it is so late;
    yields how many there were."""
    parts = sum(target.share for target in listed)
    while (
        done := sum(tally.inputs for tally in tallies.values())
    ) < count and time.monotonic() < deadline:
        scale = min(_ROUND, (count - done) / parts)
        for target in listed:
            feed(target, seed, max(1, round(scale * target.share)), tallies[target.name], mark)
        yield sum(tally.inputs for tally in tallies.values())


def measure_kept(target: Target, seed: int, tally: Tally, mark: Path) -> None:
    """Bytes that each of some more inputs leaves in memory, once caches are full."""
    count = max(40, round(60 * target.share))
    feed(target, seed, 3 * count, tally, mark)
    gc.collect()
    tracemalloc.start()
    try:
        feed(target, seed, count, tally, mark)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        feed(target, seed, count, tally, mark)
        gc.collect()
        tally.kept = max(0, tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
