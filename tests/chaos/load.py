"""Keyed and unkeyed jobs at a steady rate, whatever becomes of the broker."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import count

from chaos import jobs
from embedkq import Job, Queue
from embedkq.errors import EmbedkqError, EnqueueFailed

EXPECTED = {"good": "success", "raise": "failure", "die": "failure", "hang": "timeout"}
_BATCH_SECONDS = 0.1


class Load:
    """Sends jobs on a thread of its own until stopped; knows which were acknowledged."""

    def __init__(self, hosts: str, topic: str, rate: float, seed: int) -> None:
        self.acknowledged: dict[int, str] = {}
        """By number the kind of each job that all replicas have."""
        self.acknowledged_at: dict[int, float] = {}
        """By number the `time.monotonic()` by which that was known."""
        self.sent_at: dict[int, float] = {}
        """By number the `time.monotonic()` before which it cannot have been sent."""
        self.numbers: dict[str, int] = {}
        """By its id the number of each job, acknowledged or doubtful."""
        self.doubtful: set[int] = set()
        """Numbers of jobs of which that is not known."""
        self.keys: dict[int, str] = {}
        self._queue = Queue(hosts=hosts, topic=topic)
        self._rate = rate
        self._random = random.Random(seed)
        self._numbers = count()
        self._stop = threading.Event()
        self._pause = threading.Event()
        self._sending = threading.Lock()
        self._thread = threading.Thread(target=self._send, name="load")

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def pause(self, paused: bool) -> None:
        """Send nothing for a while, or go on; what was being sent is acknowledged or doubtful once
        this returns."""
        with self._sending:
            (self._pause.set if paused else self._pause.clear)()

    def stop(self) -> None:
        """Send no more; what was sent is acknowledged or doubtful then."""
        self._stop.set()
        self._thread.join()
        self._queue.close()

    def _send(self) -> None:
        while not self._stop.wait(_BATCH_SECONDS):
            with self._sending:
                if not self._pause.is_set():
                    self._send_batch()

    def _send_batch(self) -> None:
        by_key: dict[str, list[tuple[int, str, float]]] = {}
        for number, key, kind, seconds in self._batch():
            by_key.setdefault(key, []).append((number, kind, seconds))
        for key, calls in by_key.items():
            self._send_some(key, calls)

    def _batch(self) -> Iterator[tuple[int, str, str, float]]:
        for _ in range(round(self._rate * _BATCH_SECONDS)):
            number, chance = next(self._numbers), self._random.random()
            kind = (
                "die"
                if chance < 0.005
                else "hang"
                if chance < 0.01
                else "raise"
                if chance < 0.03
                else "good"
            )
            seconds = (
                self._random.uniform(0.2, 2)
                if self._random.random() < 0.02
                else self._random.uniform(0, 0.004)
            )
            key = f"key-{self._random.randrange(20)}" if self._random.random() < 0.5 else "-"
            self.keys[number] = key
            yield number, key, kind, seconds

    def _send_some(self, key: str, calls: list[tuple[int, str, float]]) -> None:
        bound = self._queue.using(timeout=3.0, key=None if key == "-" else key)
        kinds = {number: kind for number, kind, _ in calls}
        self.sent_at.update(dict.fromkeys(kinds, time.monotonic()))
        failed: Sequence[Job] = ()
        try:
            sent = bound.enqueue_many(
                [(jobs.work, (number, key, kind, seconds)) for number, kind, seconds in calls]
            )
        except EnqueueFailed as error:
            sent, failed = error.acknowledged, error.failed
        except EmbedkqError:
            sent = []
        self.numbers.update((job.id, job.args[0]) for job in (*sent, *failed))
        arrived = {job.args[0] for job in sent}
        self.acknowledged_at.update(dict.fromkeys(arrived, time.monotonic()))
        self.acknowledged.update((number, kinds[number]) for number in arrived)
        self.doubtful.update(kinds.keys() - arrived)
