"""Compares what the demo's callbacks receive with what they should receive."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from embedkq.cli import demo_jobs

LIMIT_SECONDS = 0.5
"""Time limit of each of the demo's jobs."""


class Kind(NamedTuple):
    """One kind of job in the demo.

    Attributes:
        name: its name in the final table.
        function: the function to enqueue.
        status: the status that its callback should receive.
        outcome: the result or exception that its callback should receive, in words.
        is_right: whether its callback received the right result and exception for the job's number.
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
    """The kind of job `number`. Of 25 consecutive jobs 21 return a result, 2 raise, 1 hangs and 1
    kills its process."""
    return _BAD_ONES.get(number % _ROUND, GOOD)


class Tally:
    """Counts callbacks. Pass its `callback` to the worker. Belongs to the thread that creates it.

    Attributes:
        last: `time.monotonic()` of the last callback.
        elsewhere: number of callbacks on another thread.
        strange: number of callbacks for jobs that the demo did not enqueue.
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
        """Register the enqueued jobs, in order."""
        self._numbers = {str(job.id): number for number, job in enumerate(jobs)}

    def callback(self, status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
        """Count one callback, and check it."""
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
        """Number of enqueued jobs."""
        return len(self._numbers)

    @property
    def fired(self) -> int:
        """Number of callbacks."""
        return sum(self._callbacks.values())

    @property
    def missing(self) -> int:
        """Number of jobs without a callback."""
        return self.jobs - len(self._callbacks)

    @property
    def doubled(self) -> int:
        """Number of jobs with several callbacks."""
        return sum(1 for count in self._callbacks.values() if count > 1)

    @property
    def wrong(self) -> int:
        """Number of callbacks with a wrong status or value."""
        return self.fired - sum(self._right.values())

    @property
    def well(self) -> bool:
        """Whether each job had exactly one callback, with the right status and value, on the right
        thread."""
        return not (self.missing or self.doubled or self.wrong or self.elsewhere or self.strange)

    @property
    def seconds(self) -> float:
        """Seconds between the first and the last callback."""
        return 0.0 if self._first is None else self.last - self._first

    @property
    def rate(self) -> float | None:
        """Jobs per second between the first and the last callback; None with fewer than two."""
        return (self.fired - 1) / self.seconds if self.fired > 1 and self.seconds else None

    def kinds(self) -> list[tuple[Kind, int, int]]:
        """Each kind with its number of enqueued jobs and its number of right callbacks."""
        return [
            (kind, count, self._right[kind])
            for kind, count in Counter(map(kind_of, self._numbers.values())).items()
        ]

    def as_dict(self) -> dict[str, Any]:
        """The tally as plain data, ready for `json.dumps`."""
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
