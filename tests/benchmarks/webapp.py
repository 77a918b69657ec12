"""The Flask app that hosts a worker or does not, as BENCH_MODE says: see requesting.py. Gunicorn
imports it."""

from __future__ import annotations

import os
import threading
from typing import Any

from flask import Flask, jsonify

app = Flask(__name__)
_done = 0
_worker: Any = None


@app.get("/")
def index() -> Any:
    """As much as a small view does."""
    return jsonify(
        items=[
            {"number": number, "name": f"item {number}", "price": number / 7}
            for number in range(50)
        ]
    )


@app.get("/ready")
def ready() -> tuple[str, int]:
    return "", 200 if _worker is None or _worker.health().children_alive else 503


@app.get("/jobs")
def jobs() -> str:
    """How many callbacks there were so far."""
    return str(_done)


def _told(*arguments: Any) -> None:
    global _done
    _done += 1


def _poll() -> None:
    """What comes through kafka-python alone, and nothing done with it."""
    global _done
    from benchmarks import raw

    consumer = raw.make_consumer(os.environ["BENCH_HOSTS"], os.environ["BENCH_TOPIC"])
    while True:
        _done += sum(map(len, consumer.poll(raw.POLL_MILLISECONDS).values()))


if os.environ["BENCH_MODE"] == "polling":
    threading.Thread(target=_poll, name="polling", daemon=True).start()
elif os.environ["BENCH_MODE"] in ("idle", "busy"):
    from embedkq import Worker

    _worker = Worker(
        os.environ["BENCH_HOSTS"], os.environ["BENCH_TOPIC"], callback=_told, processes=2
    )
    threading.Thread(target=_worker.start, name="jobs", daemon=True).start()
