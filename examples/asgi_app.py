"""An ASGI app (Starlette; FastAPI takes the same `lifespan`) under uvicorn, with a worker for as
long as the app lives.

Needs:  pip install embedkq starlette uvicorn, and a Kafka broker at localhost:9092. Another address
        goes into EMBEDKQ_HOSTS, another topic into EMBEDKQ_TOPIC.
Run:    uvicorn asgi_app:app            (in this folder)
        curl -X POST localhost:8000/jobs/7
        curl localhost:8000/results
See:    the job's id from the first curl; from the second {"1b92...": 49}
        Ctrl-C or SIGTERM finishes what runs, for up to 30 s, and ends.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from embedkq import Job, Queue, Worker
from embedkq.asgi import lifespan

HOSTS = os.environ.get("EMBEDKQ_HOSTS", "localhost:9092")
TOPIC = os.environ.get("EMBEDKQ_TOPIC", "example-asgi")

queue = Queue(hosts=HOSTS, topic=TOPIC)
results: dict[str, Any] = {}


def square(number: int) -> int:
    """The job. It runs in a child process, which imports this module to find it."""
    return number * number


async def callback(
    status: str, job: Job, result: Any, exception: Exception | None, traceback: str | None
) -> None:
    """Called by the app's own loop, beside its requests."""
    await asyncio.sleep(0)  # stands for a database
    results[job.id] = result if status == "success" else status


worker = Worker(hosts=HOSTS, topic=TOPIC, callback=callback)


async def enqueue(request: Request) -> PlainTextResponse:
    job = await asyncio.to_thread(queue.enqueue, square, int(request.path_params["number"]))
    return PlainTextResponse(job.id, 202)


async def show_results(request: Request) -> JSONResponse:
    return JSONResponse(results)


async def show_health(request: Request) -> JSONResponse:
    health = worker.health()
    return JSONResponse(health.as_dict(), 200 if health.healthy else 503)


app = Starlette(
    lifespan=lifespan(worker),  # it starts and stops with the app
    routes=[
        Route("/jobs/{number:int}", enqueue, methods=["POST"]),
        Route("/results", show_results),
        Route("/health", show_health),
    ],
)
