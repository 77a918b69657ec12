"""Waiting for a worker from within an asyncio loop, which goes on meanwhile. Owner's thread; no executor is used."""
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from embedkq.worker.client import CONNECT_SECONDS
from embedkq.worker.engine import Engine


async def until_connected(engine: Engine) -> None:
    """Until the broker has answered.

    Raises:
        BrokerUnavailable: it has not, within 10 s.
        EmbedkqError: it refuses.
    """
    changed, wake = _event()
    engine.consumer.connected.add_done_callback(lambda _: wake())
    await _wait(changed, CONNECT_SECONDS)
    engine.await_connection(0)


async def until_done(engine: Engine, timeout: float | None) -> bool:
    """Until all that the assigned partitions hold now is done; whether it is."""
    async with _watching(engine) as (changed, wake):
        milestone = engine.milestone(wake)
        if not engine.over:
            await _wait(changed, timeout)
        return milestone.reached


async def until_over(engine: Engine, timeout: float | None) -> bool:
    """Until nothing of the engine runs any more; whether it does not."""
    async with _watching(engine) as (changed, _):
        if not engine.over:
            await _wait(changed, timeout)
        return engine.over


async def end_now(engine: Engine) -> None:
    """Kill what runs, and wait until nothing of the engine runs any more, or until its deadline."""
    engine.request_stop(now=True)
    await until_over(engine, engine.deadline.patience)
    engine.leave_if_overdue()


@asynccontextmanager
async def _watching(engine: Engine) -> AsyncIterator[tuple[asyncio.Event, Callable[[], None]]]:
    changed, wake = _event()
    engine.watchers.add(wake)
    try:
        yield changed, wake
    finally:
        engine.watchers.discard(wake)


def _event() -> tuple[asyncio.Event, Callable[[], None]]:
    """An event of the running loop, and a function that sets it from any thread."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:  # the loop was closed: nobody waits there any more
            pass

    return event, wake


async def _wait(event: asyncio.Event, timeout: float | None) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout)
    except asyncio.TimeoutError:
        pass
