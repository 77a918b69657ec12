"""What a callback is told: one job that succeeds, one that fails, one that runs into its limit.

Needs:  pip install embedkq, and a Kafka broker at localhost:9092. Another address goes into
        EMBEDKQ_HOSTS, another topic into EMBEDKQ_TOPIC.
Run:    python callback.py
See (the jobs may end in another order):
        add(1, 2) returned 3
        divide(1, 0) failed with ZeroDivisionError: division by zero
        hang() was stopped after 0.5 s

The same callback works on the command line: kq worker --verbose --callback=callback.py
"""

from __future__ import annotations

import logging
import os
import time
from typing import Any

from embedkq import Job, Queue, Worker

HOSTS = os.environ.get("EMBEDKQ_HOSTS", "localhost:9092")
TOPIC = os.environ.get("EMBEDKQ_TOPIC", "example-callback")


def add(a: int, b: int) -> int:
    return a + b


def divide(a: int, b: int) -> float:
    return a / b


def hang() -> None:
    while True:
        time.sleep(1)


def callback(
    status: str, job: Job, result: Any, exception: Exception | None, traceback: str | None
) -> None:
    """Called after each job, on the thread that has called `start()`."""
    name = job.func.__name__ if job.func else "a job that cannot be loaded"
    call = f"{name}({', '.join(map(repr, job.args or ()))})"
    if status == "success":
        print(f"{call} returned {result!r}")
    elif status == "failure":
        print(
            f"{call} failed with {type(exception).__name__}: {exception}"
        )  # `traceback` has the whole story
    else:
        print(f"{call} was stopped after {job.timeout:g} s")


if __name__ == "__main__":
    logging.getLogger("embedkq.worker").setLevel(
        logging.CRITICAL
    )  # what fails is logged to stderr, too; here the callback tells of it
    with Queue(hosts=HOSTS, topic=TOPIC) as queue:
        queue.enqueue(add, 1, 2)
        queue.enqueue(divide, 1, 0)
        queue.using(timeout=0.5).enqueue(hang)
    Worker(hosts=HOSTS, topic=TOPIC, callback=callback).start(max_jobs=3)
