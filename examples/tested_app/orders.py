"""An application with jobs that go wrong in every way; `test_orders.py` tests it.

Needs:  pip install 'embedkq[pytest]' pytest-xdist. No Kafka.
Run:    pytest, or pytest -n 2, in this folder
See:
        50 passed
"""

from __future__ import annotations

import jobs

from embedkq import Queue

queue = Queue(hosts="localhost:9092", topic="orders")


def place(prices: list[int]) -> str:
    """What a request does: enqueues a job, and gives its id."""
    return queue.using(timeout=30).enqueue(jobs.total, prices).id
