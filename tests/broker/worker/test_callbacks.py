"""Callbacks that do not simply return: asynchronous ones, those that are ended from outside,
handoffs that fail. On a real broker."""

from __future__ import annotations

import asyncio
import functools
import logging
import queue as queues
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support import Recorder, fire_until, lag, logged, send_many, wait_until

from embedkq import Worker
from embedkq.errors import WorkerError
from embedkq.worker.control_thread import pending_callbacks

COUNT = 10


@pytest.fixture
def make_worker(hosts: str, topic: str, group: str) -> Callable[..., Worker]:
    def make(callback: Any, **options: Any) -> Worker:
        return Worker(hosts=hosts, topic=topic, group=group, callback=callback, **options)

    return make


@pytest.fixture
def jobs_of(hosts: str, topic: str) -> list[str]:
    """Ids of the jobs 0 to 9 of one partition, by their number."""
    return send_many(hosts, topic, abs, [(number,) for number in range(COUNT)], partition=0)


def described(job_id: str, topic: str) -> str:
    return f"(job {job_id[:8]}, builtins.abs, topic {topic})"


def calls_again(calls: int) -> list[str]:
    return [f"It will be called again ({number} of 3)." for number in range(2, min(calls, 2) + 2)]


# Asynchronous callbacks, whatever they look like.


class Calls:
    """What asynchronous callbacks were called with and ran to their end."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.open = self.most_open = 0

    async def note(self, result: int) -> None:
        self.begun.append(result)
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        await asyncio.sleep(0.001)
        self.open -= 1
        self.ended.append(result)


def wrapped(calls: Calls) -> Callable[..., Awaitable[None]]:
    async def callback(status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
        await calls.note(result)

    @functools.wraps(callback)
    def wrapper(*arguments: Any) -> Awaitable[None]:
        return callback(*arguments)

    return wrapper


def returning_tasks(calls: Calls) -> Callable[..., Awaitable[None]]:
    return lambda status, job, result, exception, traceback: asyncio.get_running_loop().create_task(
        calls.note(result)
    )


def sometimes(calls: Calls) -> Callable[..., Awaitable[None] | None]:
    def callback(
        status: str, job: Any, result: Any, exception: Any, traceback: Any
    ) -> Awaitable[None] | None:
        if result % 3 == 1:
            return calls.note(result)
        calls.begun.append(result)
        calls.ended.append(result)
        return None

    return callback


class Object:
    """What can be awaited and is no coroutine."""

    def __init__(self, calls: Calls, result: int) -> None:
        self.calls, self.result = calls, result

    def __await__(self) -> Any:
        return self.calls.note(self.result).__await__()


def returning_objects(calls: Calls) -> Callable[..., Object]:
    return lambda status, job, result, exception, traceback: Object(calls, result)


@pytest.mark.parametrize("make", [wrapped, returning_tasks, sometimes, returning_objects])
def test_what_a_callback_returns_is_awaited_in_order_and_one_at_a_time(
    make: Callable[[Calls], Any],
    make_worker: Any,
    jobs_of: list[str],
    hosts: str,
    topic: str,
    group: str,
) -> None:
    calls = Calls()

    async def main() -> None:
        async with make_worker(make(calls)) as worker:
            assert await worker.adrain(60)
            assert calls.ended == list(range(COUNT))

    asyncio.run(main())
    assert (
        calls.begun == list(range(COUNT)) and calls.most_open <= 1 and lag(hosts, group, topic) == 0
    )


def test_without_a_loop_an_awaitable_is_told_as_a_failed_callback(
    make_worker: Any,
    jobs_of: list[str],
    hosts: str,
    topic: str,
    group: str,
    caplog: Any,
    recwarn: Any,
) -> None:
    calls = Calls()
    with caplog.at_level(logging.ERROR, "embedkq"), make_worker(wrapped(calls)) as worker:
        assert worker.drain(60)
    text = logged(caplog)
    for job_id in jobs_of:
        assert text.count(described(job_id, topic)) == 1
    assert (
        text.count(
            "ERROR Callback failed: it returned coroutine, which nothing awaits on thread 'MainThread'"
        )
        == COUNT
    )
    assert "inside a running asyncio loop" in text
    assert not calls.begun and lag(hosts, group, topic) == 0
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


def test_an_async_callback_and_a_handoff_are_refused_together(make_worker: Any) -> None:
    async def callback(*_: Any) -> None:
        """Never called."""

    async def main() -> None:
        with pytest.raises(WorkerError, match="without `handoff`"):
            make_worker(
                callback, handoff=asyncio.get_running_loop().call_soon_threadsafe
            ).start_background()

    asyncio.run(main())


def test_an_async_callback_that_cannot_be_called_is_told_and_holds_up_nothing(
    make_worker: Any, jobs_of: list[str], hosts: str, topic: str, group: str, caplog: Any
) -> None:
    async def callback(*too_many: Any, more: Any) -> None:
        """Never called."""

    async def promised(*arguments: Any) -> None:
        """Nor this one: a decorator that loses an argument has its signature."""

    callback.__wrapped__ = promised  # type: ignore[attr-defined]

    async def main() -> None:
        async with make_worker(callback) as worker:
            assert await worker.adrain(60)

    with caplog.at_level(logging.ERROR, "embedkq"):
        asyncio.run(main())
    assert (
        logged(caplog).count("missing 1 required keyword-only argument: 'more'") == 2 * COUNT
    )  # in the line and in its traceback
    assert lag(hosts, group, topic) == 0


# Callbacks that are ended from outside.


async def await_cancelled() -> None:
    task = asyncio.get_running_loop().create_task(asyncio.sleep(10))
    task.cancel()
    await task


async def cancel_itself() -> None:
    current = asyncio.current_task()
    assert current is not None
    current.cancel()
    await asyncio.sleep(10)


@pytest.mark.parametrize("end", [await_cancelled, cancel_itself])
@pytest.mark.parametrize("times", [1, 2, 9])
def test_an_async_callback_that_is_cancelled_is_called_again_and_given_up_in_the_end(
    end: Callable[[], Awaitable[None]],
    times: int,
    make_worker: Any,
    jobs_of: list[str],
    hosts: str,
    topic: str,
    group: str,
    caplog: Any,
) -> None:
    begun: Counter[int] = Counter()
    ended: list[int] = []

    async def callback(status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
        begun[result] += 1
        if result == 3 and begun[result] <= times:
            await end()
        ended.append(result)

    async def main() -> None:
        async with make_worker(callback) as worker:
            assert await worker.adrain(60)
            assert worker.health().healthy and worker.health().in_flight == 0

    with caplog.at_level(logging.WARNING, "embedkq"):
        asyncio.run(main())
    assert ended == [number for number in range(COUNT) if number != 3 or times < 3]
    assert begun == {number: min(times + 1, 3) if number == 3 else 1 for number in range(COUNT)}
    assert lag(hosts, group, topic) == 0
    text, which = logged(caplog), described(jobs_of[3], topic)
    told = [
        f"WARNING The callback was interrupted by asyncio.exceptions.CancelledError {which}. {line}"
        for line in calls_again(times)
    ]
    assert [line for line in text.splitlines() if line.startswith("WARNING The callback")] == told
    last = f"Callback failed: it was interrupted 3 times, last by asyncio.exceptions.CancelledError, and will not be called again {which}"
    assert text.count(last) == (times >= 3)


@pytest.mark.parametrize(
    "kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit]
)
@pytest.mark.parametrize("times", [1, 9])
def test_what_ends_a_callback_passes_through_and_the_callback_is_called_again(
    kind: type[BaseException],
    times: int,
    make_worker: Any,
    jobs_of: list[str],
    hosts: str,
    topic: str,
    group: str,
    caplog: Any,
) -> None:
    begun: Counter[int] = Counter()
    ended: list[int] = []

    def callback(status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
        begun[result] += 1
        if result == 3 and begun[result] <= times:
            raise kind("on purpose")
        ended.append(result)

    passed = 0
    with caplog.at_level(logging.WARNING, "embedkq"):
        worker = make_worker(callback).start_background()
        while True:
            try:
                assert worker.drain(60)
                break
            except kind:
                passed += 1
        assert worker.health().healthy and worker.health().in_flight == 0 and worker.stop()
    assert passed == min(times, 3)
    assert ended == [number for number in range(COUNT) if number != 3 or times < 3]
    assert begun == {number: min(times + 1, 3) if number == 3 else 1 for number in range(COUNT)}
    assert lag(hosts, group, topic) == 0
    assert logged(caplog).count(f"and will not be called again {described(jobs_of[3], topic)}") == (
        times >= 3
    )


@pytest.mark.parametrize("where", ["within", "at the end"])
def test_a_block_that_is_left_by_what_ends_a_callback_stops_the_worker_and_the_next_one_calls_it(
    where: str, make_worker: Any, jobs_of: list[str], hosts: str, topic: str, group: str
) -> None:
    called: list[int] = []

    def callback(status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
        called.append(result)
        if result == 3:
            raise SystemExit

    worker = make_worker(callback)
    with pytest.raises(SystemExit), worker:
        wait_until(lambda: worker.health().waiting_callbacks == COUNT, "all have run")
        if where == "within":
            worker.drain(60)
    assert (
        called == [0, 1, 2, 3]
        and worker.state == "stopped"
        and lag(hosts, group, topic) == COUNT - 3
    )
    recorder = Recorder()
    make_worker(recorder).start(burst=True)
    assert recorder.results == list(range(3, COUNT)) and lag(hosts, group, topic) == 0


# Handoffs.


def test_a_handoff_that_raises_harms_nothing_and_is_asked_again(
    make_worker: Any,
    jobs_of: list[str],
    hosts: str,
    topic: str,
    group: str,
    caplog: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pending_callbacks, "DEAF_SECONDS", 0.3)
    to_do: queues.Queue[Callable[[], None]] = queues.Queue()
    called: list[int] = []
    failures: list[str] = []

    def handoff(fire: Callable[[], None]) -> None:
        if threading.current_thread() is not threading.main_thread() and len(failures) < 2:
            failures.append(threading.current_thread().name)
            raise SystemExit("the application is not ready")
        to_do.put(fire)

    def callback(status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
        called.append(result)

    with caplog.at_level(logging.ERROR, "embedkq"):
        worker = make_worker(callback, handoff=handoff).start_background()
        to_do.get(timeout=60)()
        while len(called) < COUNT:
            to_do.get(timeout=60)()
        fire_until(worker, lambda: lag(hosts, group, topic) == 0, "all is committed")
        assert worker.stop()
    assert called == list(range(COUNT)) and len(failures) == 2
    assert (
        logged(caplog).count(
            "Could not notify the owner that callbacks are waiting: SystemExit('the application is not ready')"
        )
        == 2
    )


def test_a_worker_whose_loop_was_closed_fails_and_says_why(
    make_worker: Any, hosts: str, topic: str
) -> None:
    async def main() -> Worker:
        return make_worker(lambda *_: None).start_background()  # type: ignore[no-any-return]

    worker = asyncio.run(main())
    send_many(hosts, topic, abs, [(1,)])
    wait_until(lambda: worker.state == "failed", "it has failed")
    assert "loop that owns the worker was closed" in str(worker.error)
