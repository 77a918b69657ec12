"""A Flask shop whose page shows what became of each order.

Needs:  pip install 'embedkq[flask]', and a Kafka broker at localhost:9092. Another address goes
        into FLASK_EMBEDKQ_HOSTS, another topic into FLASK_EMBEDKQ_TOPIC.
Run:    flask --app shop run            (in this folder)
        curl -X POST localhost:5000/orders/tea/2
        curl localhost:5000/orders
See:    the job's id from the first curl; from the second a page with "2 x tea"
Test:   pip install 'embedkq[pytest]', and pytest (no Kafka)
"""

from __future__ import annotations

import time
from typing import Any

from flask import Flask, render_template_string

from embedkq import Job
from embedkq.flask import EmbedKQ

PAGE = """
<!doctype html><title>Orders</title><h1>Orders</h1>
<ul>{% for id, state in orders.items() %}<li id="{{ id }}">{{ state }}</li>{% endfor %}</ul>
"""
kq = EmbedKQ()
orders: dict[str, str] = {}  # stands for a database


def bill(item: str, count: int) -> str:
    """The job."""
    if item == "nothing":
        raise ValueError("nothing costs nothing")
    time.sleep(3600 if item == "forever" else 0)
    return f"{count} x {item}"


@kq.callback
def on_end(status: str, job: Job, result: Any, exception: Any, traceback: Any) -> None:
    orders[job.id] = result if status == "success" else f"{status} {exception or ''}".strip()


def create_app(settings: dict[str, Any] | None = None) -> Flask:
    app = Flask(__name__)
    app.config.from_mapping(EMBEDKQ_TOPIC="shop", EMBEDKQ_APP="shop:create_app", EMBEDKQ_TIMEOUT=30)
    app.config.from_prefixed_env()
    app.config.from_mapping(settings)
    kq.init_app(app)

    @app.post("/orders/<item>/<int:count>")
    def order(item: str, count: int) -> tuple[str, int]:
        job = kq.enqueue(bill, item, count)
        orders.setdefault(job.id, "waiting")
        return job.id, 202

    @app.get("/orders")
    def show() -> str:
        return render_template_string(PAGE, orders=orders)

    return app
