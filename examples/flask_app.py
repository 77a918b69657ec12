"""A Flask app under Gunicorn with a worker in each Gunicorn worker process, on a thread of its own.

Callbacks fire while no request comes in. The thread is started and stopped by gunicorn.conf.py.

Needs:  pip install embedkq flask gunicorn, and a Kafka broker at localhost:9092. Another address
        goes into EMBEDKQ_HOSTS, another topic into EMBEDKQ_TOPIC, another file for what the
        callbacks are told into RESULTS_FILE.
Run:    gunicorn -w 2 flask_app:app            (or: -w 2 -k gthread; in this folder, where
        gunicorn.conf.py is found) curl -X POST localhost:8000/jobs/7
        curl localhost:8000/results
See:
        the job's id from the first curl; from the second a line for each job that is done:
        1b92...-id success 49
        Ctrl-C or SIGTERM ends all of it within 5 s. A job that takes longer than that is not done,
        and runs again later.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from flask import Flask

from embedkq import Job, Queue, Worker

HOSTS = os.environ.get("EMBEDKQ_HOSTS", "localhost:9092")
TOPIC = os.environ.get("EMBEDKQ_TOPIC", "example-flask")
RESULTS = Path(os.environ.get("RESULTS_FILE", "results.txt"))

app = Flask(__name__)
queue = Queue(hosts=HOSTS, topic=TOPIC)


def square(number: int, seconds: float = 0.0) -> int:
    """The job. It runs in a child process, which imports this module to find it."""
    time.sleep(seconds)
    return number * number


def callback(
    status: str, job: Job, result: Any, exception: Exception | None, traceback: str | None
) -> None:
    """Called on the thread that owns the worker. The file stands for a database that all processes
    share."""
    with RESULTS.open("a") as file:
        file.write(f"{job.id} {status} {result}\n")


worker = Worker(hosts=HOSTS, topic=TOPIC, callback=callback)


def start_worker() -> None:
    """Give the worker a thread of its own, which owns it. A daemon, or Python would wait for it
    before it leaves."""
    threading.Thread(target=worker.start, kwargs={"wait": False}, name="jobs", daemon=True).start()


def stop_worker() -> None:
    """Let what runs finish, for 4 s. What takes longer is killed when the process leaves: it is not
    done, and runs again later."""
    worker.request_stop()
    worker.wait(4)


@app.post("/jobs/<int:number>")
@app.post("/jobs/<int:number>/<float:seconds>")
def enqueue(number: int, seconds: float = 0.0) -> tuple[str, int]:
    return str(queue.enqueue(square, number, seconds).id), 202


@app.get("/results")
def results() -> tuple[str, int, dict[str, str]]:
    return RESULTS.read_text() if RESULTS.exists() else "", 200, {"Content-Type": "text/plain"}
