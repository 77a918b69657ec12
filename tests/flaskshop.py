"""The app of the tests of the Flask extension, as users write theirs; children import it to find
the jobs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flask import Flask, current_app

from embedkq.flask import EmbedKQ

kq = EmbedKQ()


@kq.callback
def on_end(status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
    path = Path(current_app.config["TOLD"])  # raises outside of a context
    with path.open("a") as file:
        file.write(f"{status} {result} {os.getpid()}\n")


def name_app(word: str) -> str:
    """A job that works inside the app's context only."""
    if word == "fail":
        raise LookupError("no word")
    return f"{word}-{current_app.config['NAME']}"


def create_app() -> Flask:
    app = Flask(__name__)
    app.config["NAME"] = "shop"
    app.config["TOLD"] = os.environ["TOLD"]
    app.config["EMBEDKQ_HOSTS"] = os.environ["HOSTS"]
    app.config["EMBEDKQ_TOPIC"] = os.environ["TOPIC"]
    app.config["EMBEDKQ_APP"] = "flaskshop:create_app"
    app.config["EMBEDKQ_HEALTH_URL"] = "/health"
    app.config["EMBEDKQ_WORKER"] = os.environ.get("WORKER", "1") == "1"
    app.config.from_prefixed_env()
    kq.init_app(app)

    @app.post("/jobs/<word>")
    def enqueue(word: str) -> tuple[str, int]:
        return kq.enqueue(name_app, word).id, 202

    @app.get("/state")
    def state() -> str:
        return str(kq.worker.state)

    return app
