"""Waits for a worker inside an asyncio loop without blocking the loop. Owner's thread.

The worker's threads wake the loop, after 0.2 ms (median). Waiting in `asyncio.to_thread` would keep
a thread of the loop's executor busy for each wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from embedkq._clients.consumer import CONNECT_SECONDS
from embedkq.worker.runtime import Runtime


async def until_connected(runtime: Runtime) -> None:
    """Wait until the broker has answered.

    Raises:
        BrokerUnavailable: the broker did not answer within 10 s.
        EmbedkqError: the broker refuses.
    """
    changed, wake = _event()
    runtime.consumer.connected.add_done_callback(lambda _: wake())
    await _wait(changed, CONNECT_SECONDS)
    runtime.await_connection(0)


async def until_done(runtime: Runtime, timeout: float | None) -> bool:
    """Wait until all records that the assigned partitions hold now are done. Returns whether they
    are."""
    async with _watching(runtime) as (changed, wake):
        milestone = runtime.milestone(wake)
        if not runtime.over:
            await _wait(changed, timeout)
        return milestone.reached


async def until_over(runtime: Runtime, timeout: float | None) -> bool:
    """Wait until the runtime has ended. Returns whether it has."""
    async with _watching(runtime) as (changed, _):
        if not runtime.over:
            await _wait(changed, timeout)
        return runtime.over


async def end_now(runtime: Runtime) -> None:
    """Kill running jobs, and wait until the runtime has ended or its deadline has passed."""
    runtime.request_stop(now=True)
    await until_over(runtime, runtime.deadline.patience)
    runtime.leave_if_overdue()


@asynccontextmanager
async def _watching(runtime: Runtime) -> AsyncIterator[tuple[asyncio.Event, Callable[[], None]]]:
    changed, wake = _event()
    runtime.watchers.add(wake)
    try:
        yield changed, wake
    finally:
        runtime.watchers.discard(wake)


def _event() -> tuple[asyncio.Event, Callable[[], None]]:
    """An event of the running loop, and a function that sets it on any thread."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:  # the loop is closed, so nobody waits there
            pass

    return event, wake


async def _wait(event: asyncio.Event, timeout: float | None) -> None:
    try:
        await asyncio.wait_for(event.wait(), timeout)
    except asyncio.TimeoutError:
        pass
