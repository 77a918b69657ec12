"""A lifespan of an ASGI application that runs a worker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import workerjobs
from support import HANG_SECONDS

from embedkq import Queue, Worker
from embedkq.asgi import Lifespan, lifespan


async def run(running: Lifespan, hosts: str, topic: str, ended: list[Any]) -> Any:
    """Serve until the job's callback has run; what the lifespan yields."""
    async with running("app") as state:
        queue = Queue(hosts=hosts, topic=topic)
        await asyncio.to_thread(queue.enqueue, workerjobs.echo, 1)
        while not ended:
            await asyncio.sleep(0.02)
        await asyncio.to_thread(queue.close)
        return state


def test_the_worker_lives_as_long_as_the_app_and_calls_back_on_its_loop(
    hosts: str, topic: str, group: str
) -> None:
    ended: list[Any] = []

    async def callback(*arguments: Any) -> None:
        await asyncio.sleep(0)
        ended.append((arguments[0], threading.current_thread()))

    worker = Worker(hosts=hosts, topic=topic, group=group, callback=callback)
    asyncio.run(asyncio.wait_for(run(lifespan(worker), hosts, topic, ended), HANG_SECONDS))
    assert ended == [("success", threading.main_thread())]
    assert worker.state == "stopped"


def test_it_starts_after_the_apps_own_lifespan_and_stops_before_it(
    hosts: str, topic: str, group: str
) -> None:
    ended: list[Any] = []
    states: list[Any] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncGenerator[dict[str, str], None]:
        states.append((app, worker.state))
        yield {"database": "connected"}
        states.append((app, worker.state))

    worker = Worker(
        hosts=hosts, topic=topic, group=group, callback=lambda *end: ended.append(end[0])
    )
    running = lifespan(worker, inner=own)
    state = asyncio.run(asyncio.wait_for(run(running, hosts, topic, ended), HANG_SECONDS))
    assert state == {"database": "connected"} and ended == ["success"]
    assert states == [("app", "new"), ("app", "stopped")]


def test_the_app_serves_while_kafka_is_away_and_an_error_stops_the_worker() -> None:
    worker = Worker(hosts="127.0.0.1:1", topic="none")

    async def serve() -> None:
        async with lifespan(worker)("app"):
            await asyncio.sleep(0)
            assert worker.state == "starting" and not worker.health().healthy
            raise LookupError("of the app")

    with pytest.raises(LookupError):
        asyncio.run(asyncio.wait_for(serve(), HANG_SECONDS))
    assert worker.state == "stopped"
