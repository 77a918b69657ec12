"""A Flask app whose one thread serves the requests and owns the worker: callbacks fire when a
request comes in.

Simple, and no lock is needed. Where callbacks must not wait for a request see flask_app.py.

Needs:  pip install embedkq flask, and a Kafka broker at localhost:9092. Another address goes into
        EMBEDKQ_HOSTS, another topic into EMBEDKQ_TOPIC.
Run:    flask --app flask_background run --without-threads       (or: gunicorn flask_background:app)
        curl -X POST localhost:5000/jobs/7                       (Gunicorn: port 8000)
        curl localhost:5000/results
See:
        the job's id from the first curl, what its callback was told from the second:
        {"1b92...-id":49}
"""

from __future__ import annotations

import atexit
import os
from typing import Any

from flask import Flask

from embedkq import Job, Queue, Worker

HOSTS = os.environ.get("EMBEDKQ_HOSTS", "localhost:9092")
TOPIC = os.environ.get("EMBEDKQ_TOPIC", "example-background")

app = Flask(__name__)
queue = Queue(hosts=HOSTS, topic=TOPIC)
squares: dict[str, int] = {}


def square(number: int) -> int:
    """The job. It runs in a child process, which imports this module to find it: the worker below
    stays inert there."""
    return number * number


def callback(
    status: str, job: Job, result: Any, exception: Exception | None, traceback: str | None
) -> None:
    """Called within `run_callbacks()` and `stop()`, on the thread that serves the requests."""
    if status == "success":
        squares[str(job.id)] = result


worker = Worker(hosts=HOSTS, topic=TOPIC, callback=callback).start_background(wait=False)
atexit.register(worker.stop, 4)  # lets what runs finish, for 4 s, and fires the last callbacks


@app.before_request
def fire_callbacks() -> None:
    worker.run_callbacks()


@app.post("/jobs/<int:number>")
def enqueue(number: int) -> tuple[str, int]:
    return str(queue.enqueue(square, number).id), 202


@app.get("/results")
def results() -> dict[str, int]:
    return squares
