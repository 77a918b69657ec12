"""An asyncio program with a worker: the loop fires the callbacks, one at a time, and they may be
`async def`.

Needs:  pip install embedkq, and a Kafka broker at localhost:9092. Another address goes into
        EMBEDKQ_HOSTS, another topic into EMBEDKQ_TOPIC.
Run:    python asyncio_app.py
See (the squares may come in another order):
        square of 0: 0
        square of 1: 1
        square of 2: 4
        all done, and the loop was never blocked
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from embedkq import Job, Queue, Worker

HOSTS = os.environ.get("EMBEDKQ_HOSTS", "localhost:9092")
TOPIC = os.environ.get("EMBEDKQ_TOPIC", "example-asyncio")


def square(number: int) -> int:
    return number * number


async def callback(
    status: str, job: Job, result: Any, exception: Exception | None, traceback: str | None
) -> None:
    """A task of the loop. The job counts as done when the task has ended."""
    await asyncio.sleep(0.01)  # stands for a database, or a message to a browser
    (number,) = job.args or ("a job that cannot be loaded",)
    print(f"square of {number}: {result}")


async def main() -> None:
    async with Worker(hosts=HOSTS, topic=TOPIC, callback=callback) as worker:
        with Queue(hosts=HOSTS, topic=TOPIC) as queue:
            for number in range(3):
                await asyncio.to_thread(
                    queue.enqueue, square, number
                )  # `enqueue` waits for Kafka: not on the loop's thread
        await worker.adrain()
    print("all done, and the loop was never blocked")


asyncio.run(main())
