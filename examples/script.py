"""A script that runs ten jobs in two processes and goes on once all are done.

Needs:  pip install embedkq, and a Kafka broker at localhost:9092. Another address goes into
        EMBEDKQ_HOSTS, another topic into EMBEDKQ_TOPIC.
Run:    python script.py
See:
        sum of squares: 285
"""

from __future__ import annotations

import os
from typing import Any

from embedkq import Job, Queue, Worker

HOSTS = os.environ.get("EMBEDKQ_HOSTS", "localhost:9092")
TOPIC = os.environ.get("EMBEDKQ_TOPIC", "example-script")

squares: list[int] = []


def square(number: int) -> int:
    return number * number


def callback(
    status: str, job: Job, result: Any, exception: Exception | None, traceback: str | None
) -> None:
    """Called within `drain()`, on the script's own thread: no lock is needed."""
    if status == "success":
        squares.append(result)


with (
    Queue(hosts=HOSTS, topic=TOPIC) as queue,
    Worker(hosts=HOSTS, topic=TOPIC, callback=callback, processes=2) as worker,
):
    queue.enqueue_many((square, (number,)) for number in range(10))
    worker.drain()

print("sum of squares:", sum(squares))
