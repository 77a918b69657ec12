"""A FastAPI service that works through a topic of JSON records that another program writes: each
order is handled in a child process under a limit, and the orders of a customer in their order.

Needs:  pip install embedkq fastapi uvicorn, and a Kafka broker at localhost:9092. Another address
        goes into EMBEDKQ_HOSTS, another topic into EMBEDKQ_TOPIC.
Run:    uvicorn orders_app:app          (in this folder)
        echo 'ann:{"item": "tea", "count": 2}' | kcat -P -b localhost:9092 -t example-orders -K:
        curl localhost:8000/customers/ann
See:    {"handled": 1, "failed": 0, "last": "2 x tea"}
        Ctrl-C or SIGTERM finishes what runs, for up to 30 s, and ends.
"""

from __future__ import annotations

import os
from typing import Any

from fastapi import FastAPI, Response

from embedkq import Job, Worker
from embedkq.asgi import lifespan

customers: dict[str, dict[str, Any]] = {}


def handle(order: dict[str, Any]) -> str:
    """Called in a child process for each record of the topic."""
    return f"{order['count']} x {order['item']}"


def callback(
    status: str, job: Job[str], result: Any, exception: Exception | None, traceback: str | None
) -> None:
    """Called by the app's own loop, beside its requests."""
    name = (job.key or b"").decode()
    customer = customers.setdefault(name, {"handled": 0, "failed": 0, "last": None})
    customer["handled" if status == "success" else "failed"] += 1
    customer["last"] = result if status == "success" else repr(exception or status)


worker = Worker(
    hosts=os.environ.get("EMBEDKQ_HOSTS", "localhost:9092"),
    topic=os.environ.get("EMBEDKQ_TOPIC", "example-orders"),
    group="orders-app",
    handler=handle,
    decode="json",
    processes=2,
    timeout=5,
    callback=callback,
)
app = FastAPI(lifespan=lifespan(worker))  # it starts and stops with the app


@app.get("/customers/{name}")
def show(name: str) -> dict[str, Any]:
    return customers.get(name, {"handled": 0, "failed": 0, "last": None})


@app.get("/health")
def show_health(response: Response) -> dict[str, Any]:
    health = worker.health()
    response.status_code = 200 if health.healthy else 503
    return health.as_dict()
