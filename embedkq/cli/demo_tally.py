"""What the demo's callbacks should be told, and what they were told."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from embedkq.cli import demo_jobs

LIMIT_SECONDS = 0.5
"""Limit of every job of the demo."""


class Kind(NamedTuple):
    """One kind of job of the demo.

    Attributes:
        name: what the closing table calls it.
        function: the job.
        status: what its callback has to be told.
        outcome: what its callback has to be given, in words.
        is_right: whether result and exception of its callback are right, for the job's number.
    """

    name: str
    function: Callable[[int], Any]
    status: str
    outcome: str
    is_right: Callable[[int, Any, Any], bool]


GOOD = Kind(
    "return a result",
    demo_jobs.square,
    "success",
    "the result",
    lambda number, result, error: result == number * number and error is None,
)
RAISING = Kind(
    "raise",
    demo_jobs.divide_by_zero,
    "failure",
    "ZeroDivisionError",
    lambda number, result, error: result is None and isinstance(error, ZeroDivisionError),
)
HANGING = Kind(
    f"hang past {LIMIT_SECONDS:g} s",
    demo_jobs.hang,
    "timeout",
    "-",
    lambda number, result, error: result is None and error is None,
)
DYING = Kind(
    "kill their process",
    demo_jobs.kill_own_process,
    "failure",
    "JobCrashed",
    lambda number, result, error: result is None and type(error).__name__ == "JobCrashed",
)
_BAD_ONES = {3: RAISING, 7: HANGING, 13: DYING, 19: RAISING}
_ROUND = 25


def kind_of(number: int) -> Kind:
    """Which kind job `number` is: of 25 in a row 21 return a result, 2 raise, 1 hangs, 1 kills its
    process."""
    return _BAD_ONES.get(number % _ROUND, GOOD)


class Tally:
    """What came back. Its `callback` is the worker's; all of it belongs to the thread that makes
    it.

    Attributes:
        last: `time.monotonic()` of the last callback.
        elsewhere: callbacks on another thread than that which made the tally.
        strange: callbacks of jobs that the demo has not enqueued.
    """

    def __init__(self) -> None:
        self.last = time.monotonic()
        self.elsewhere = 0
        self.strange = 0
        self._first: float | None = None
        self._thread = threading.current_thread()
        self._numbers: dict[str, int] = {}
        self._callbacks: Counter[int] = Counter()
        self._right: Counter[Kind] = Counter()

    def expect(self, jobs: Sequence[Any]) -> None:
        """These jobs were enqueued; the first is number 0."""
        self._numbers = {str(job.id): number for number, job in enumerate(jobs)}

    def callback(self, status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
        """Count one callback, and whether it is right."""
        self.last = time.monotonic()
        self._first = self._first or self.last
        self.elsewhere += threading.current_thread() is not self._thread
        number = self._numbers.get(job.id)
        if number is None:
            self.strange += 1
            return
        kind = kind_of(number)
        self._callbacks[number] += 1
        self._right[kind] += status == kind.status and kind.is_right(number, result, exception)

    @property
    def jobs(self) -> int:
        """How many were enqueued."""
        return len(self._numbers)

    @property
    def fired(self) -> int:
        """How many callbacks there were."""
        return sum(self._callbacks.values())

    @property
    def missing(self) -> int:
        """Jobs without a callback."""
        return self.jobs - len(self._callbacks)

    @property
    def doubled(self) -> int:
        """Jobs with more than one callback."""
        return sum(1 for count in self._callbacks.values() if count > 1)

    @property
    def wrong(self) -> int:
        """Callbacks that were told something else than they should."""
        return self.fired - sum(self._right.values())

    @property
    def well(self) -> bool:
        """Whether each job had exactly one callback, the right one, on the right thread."""
        return not (self.missing or self.doubled or self.wrong or self.elsewhere or self.strange)

    @property
    def seconds(self) -> float:
        """From the first callback to the last."""
        return 0.0 if self._first is None else self.last - self._first

    @property
    def rate(self) -> float | None:
        """Jobs a second from the first callback to the last; None with less than two."""
        return (self.fired - 1) / self.seconds if self.fired > 1 and self.seconds else None

    def kinds(self) -> list[tuple[Kind, int, int]]:
        """Each kind, how many of it were enqueued, and how many callbacks of it were right."""
        return [
            (kind, count, self._right[kind])
            for kind, count in Counter(map(kind_of, self._numbers.values())).items()
        ]

    def as_dict(self) -> dict[str, Any]:
        """The same in dicts, lists, strings and numbers, ready for `json.dumps`."""
        return {
            "well": self.well,
            "jobs": self.jobs,
            "callbacks": self.fired,
            "missing": self.missing,
            "doubled": self.doubled,
            "wrong": self.wrong,
            "elsewhere": self.elsewhere,
            "strange": self.strange,
            "seconds": round(self.seconds, 3),
            "rate": self.rate and round(self.rate, 1),
            "kinds": [
                {
                    "name": kind.name,
                    "status": kind.status,
                    "outcome": kind.outcome,
                    "enqueued": enqueued,
                    "right": right,
                }
                for kind, enqueued, right in self.kinds()
            ],
        }
