"""What is measured: benchmarks of several trials each, and the figures that their runs give."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.bed import Bed

Trial = Callable[[], Mapping[str, float]]
"""One run of one side: numbers by name."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        runs: how often each trial runs.
        quick: a tenth of the work, to see whether it works; its figures mean little.
        minutes: how long the lasting load lasts.
        hangs: how many jobs hang past their limit.
        backlog: how many jobs wait in the deep backlog.
    """

    runs: int = 5
    quick: bool = False
    minutes: float = 1.0
    hangs: int = 60
    backlog: int = 1_000_000

    def scaled(self, count: int) -> int:
        """So many, or a tenth where it is to be quick."""
        return max(1, count // 10) if self.quick else count


@dataclass(frozen=True)
class Goal:
    """What a figure should reach; of several bounds one is enough. `most_beyond` bounds the
    difference to the floor."""

    least: float | None = None
    most: float | None = None
    least_ratio: float | None = None
    most_ratio: float | None = None
    most_beyond: float | None = None

    def __str__(self) -> str:
        bounds = (("≥ {:,g}", self.least), ("≤ {:,g}", self.most), ("≥ {:.3g} x", self.least_ratio), ("≤ {:.3g} x", self.most_ratio),
                  ("≤ floor + {:g}", self.most_beyond))  # fmt: skip
        return " or ".join(text.format(bound) for text, bound in bounds if bound is not None)

    def is_met(self, value: float, floor: float | None, ratio: float | None) -> bool:
        return any((
            self.least is not None and value >= self.least,
            self.most is not None and value <= self.most,
            self.least_ratio is not None and ratio is not None and ratio >= self.least_ratio,
            self.most_ratio is not None and ratio is not None and ratio <= self.most_ratio,
            self.most_beyond is not None and floor is not None and value <= floor + self.most_beyond,
        ))  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name, unit: as they are shown.
        trial, key: whose number it is, and which.
        floor: trial and key of what it is held against, run by run; None if it stands for itself.
        goal: None where the number is there to be looked at.
    """

    name: str
    unit: str
    trial: str
    key: str
    floor: tuple[str, str] | None = None
    goal: Goal | None = None


@dataclass(frozen=True)
class Benchmark:
    """Trials that run in turns.

    Attributes:
        name: of the family and the work, "throughput: no-ops".
        prepare: makes what the trials need and returns them by name.
        figures: what is told of their numbers.
        runs: how often, where not as often as the command line says.
        trials: how many `prepare` returns, for the progress bar.
    """

    name: str
    prepare: Callable[[Bed], Mapping[str, Trial]]
    figures: Sequence[Figure]
    trials: int = 2
    runs: int | None = None


@dataclass
class Measured:
    """All runs of one figure."""

    benchmark: str
    figure: Figure
    values: list[float] = field(default_factory=list)
    floors: list[float] = field(default_factory=list)

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def floor(self) -> float | None:
        return statistics.median(self.floors) if self.floors else None

    @property
    def ratios(self) -> list[float]:
        """Run by run, so that a machine that slows down slows both down."""
        return (
            [value / floor for value, floor in zip(self.values, self.floors, strict=True) if floor]
            if self.floors
            else []
        )

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is; None where there is none."""
        return (
            None
            if self.figure.goal is None
            else self.figure.goal.is_met(self.value, self.floor, self.ratio)
        )


def run_benchmark(
    benchmark: Benchmark, bed: Bed, runs: int, tell: Callable[[str, int], object]
) -> list[Measured]:
    """Run the trials in turns, each time beginning with another one; `tell` hears what is done next
    and how many trials ended."""
    tell("preparing", 0)
    trials = benchmark.prepare(bed)
    assert len(trials) == benchmark.trials, (
        f"{benchmark.name} announces {benchmark.trials} trials and has {len(trials)}"
    )
    names = list(trials)
    rounds: list[dict[str, Mapping[str, float]]] = []
    for number in range(runs):
        order = names[number % len(names) :] + names[: number % len(names)]
        found = {}
        for name in order:
            tell(name, 0)
            found[name] = trials[name]()
            tell(name, 1)
        rounds.append(found)
    return [
        Measured(
            benchmark.name, figure, [found[figure.trial][figure.key] for found in rounds],
            [found[figure.floor[0]][figure.floor[1]] for found in rounds] if figure.floor else [],
        )
        for figure in benchmark.figures
    ]  # fmt: skip


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which so much of all lies, from 0 to 1."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]
