"""The embedkq side: a worker and its owner, in a process of their own. Each function runs alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks import work
from benchmarks.bed import LARGEST_RECORD, LIMIT_SECONDS, new_group
from benchmarks.processes import resident
from embedkq import Worker

PROCESSES = 2
Callback = Callable[..., None]


class CallbackDispatcher:
    """A worker with a callback that counts, on the thread that calls `work_off`.

    Args:
        count: callbacks after which it stops.
        at_first: called at the first callback: from then on the worker is warm.
        options: of `Worker`.
    """

    def __init__(
        self,
        hosts: str,
        topic: str,
        count: int,
        *,
        at_first: Callable[[], None] | None = None,
        processes: int = PROCESSES,
        **options: Any,
    ) -> None:
        self._left = count
        self._at_first = at_first
        self.ends: list[float] = []
        """`time.perf_counter()` of each callback."""
        self.results: list[Any] = []
        """Only kept with `keep_results`: they may be large."""
        self.keep_results = False
        self.worker = Worker(
            hosts,
            topic,
            callback=self._callback,
            group=options.pop("group", None) or new_group(),
            processes=processes,
            **options,
        )

    def work_off(self) -> None:
        """Until there were so many callbacks.

        Raises:
            RuntimeError: a job did not succeed, so what was measured is something else.
        """
        self.worker.start()
        if self._left > 0:
            raise RuntimeError(f"{self._left} jobs are missing")

    def rate(self, after: int = 1) -> float:
        """Callbacks a second, from the `after`th on: the start of the worker is another figure."""
        return (len(self.ends) - after) / (self.ends[-1] - self.ends[after - 1])

    def _callback(self, status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
        self.ends.append(time.perf_counter())
        if status != "success":
            raise SystemExit(f"job {job}: {status} {exception!r}\n{traceback}")
        if self.keep_results:
            self.results.append(result)
        self._left -= 1
        if self._at_first and len(self.ends) == 1:
            self._at_first()
        if not self._left:
            self.worker.request_stop()


def work_off(
    hosts: str, topic: str, count: int, processes: int = PROCESSES, secret: str | None = None
) -> dict[str, float]:
    """Do so many jobs: how many a second, from the first callback to the last."""
    owner = CallbackDispatcher(hosts, topic, count, processes=processes, secret=secret)
    owner.work_off()
    return {"rate": owner.rate(after=processes)}


def handle(hosts: str, topic: str, count: int) -> dict[str, float]:
    """As `work_off`, for records of JSON that other programs wrote, under a limit."""
    options = {"handler": work.noop, "decode": "json", "timeout": LIMIT_SECONDS}
    owner = CallbackDispatcher(hosts, topic, count, **options)
    owner.work_off()
    return {"rate": owner.rate(after=PROCESSES)}


def work_off_large(hosts: str, topic: str, count: int, size: int) -> dict[str, float]:
    """Do so many jobs that carry `size` bytes: megabytes a second, and the host's memory in MiB
    beyond what it had before."""
    owner = CallbackDispatcher(hosts, topic, count, job_size=LARGEST_RECORD)
    before = resident()
    owner.work_off()
    return {"megabytes": owner.rate() * size / 1e6, "memory": resident(field="VmHWM") - before}


def make_idle_worker(
    hosts: str, topic: str, group: str, callback: Callback | None = None
) -> Worker:
    """One that is not started, for a topic with little or nothing on it."""
    return Worker(
        hosts, topic, callback=callback or (lambda *told: None), group=group, processes=PROCESSES
    )
