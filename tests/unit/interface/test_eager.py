"""`Queue(eager=True)`: jobs run at once, without Kafka, and otherwise as a child process runs
them."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import pickle
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from support import Recorder, logged

from embedkq import Queue, current_job, errors
from embedkq._formats import headers

flask = pytest.importorskip("flask")

MILLISECOND = timedelta(milliseconds=1)
"""`enqueued` has no finer parts."""
SEEN: list[Any] = []


@pytest.fixture(autouse=True)
def nothing_seen() -> None:
    SEEN.clear()


@pytest.fixture
def queue() -> Queue:
    """An eager queue whose broker does not exist."""
    return Queue(hosts="127.0.0.1:1", topic="shop", eager=True)


def see(*args: Any, **kwargs: Any) -> None:
    SEEN.append((args, kwargs))


def change(values: list[int]) -> None:
    values.append(4)
    SEEN.append(values)


def fail(text: str) -> None:
    SEEN.append(text)
    raise KeyError(text)


def leave(status: Any) -> None:
    sys.exit(status)


def nothing() -> Any:
    yield from ()


async def see_later(value: int) -> None:
    await asyncio.sleep(0)
    SEEN.append(value)


def see_twice(queue: Queue, value: int) -> None:
    SEEN.append(value)
    if value:
        queue.enqueue(see_twice, queue, value - 1)


class Unloadable:
    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise ValueError("not in this process")


def test_a_job_runs_before_enqueue_returns_and_enqueue_returns_the_job(queue: Queue) -> None:
    job = queue.using(timeout=5, key="k").enqueue(see, 1, b=2)
    assert SEEN == [((1,), {"b": 2})]
    assert (job.topic, job.func, job.args, job.kwargs) == ("shop", see, (1,), {"b": 2})
    assert (job.timeout, job.key) == (5, b"k") and job.id and job.timestamp


def test_a_job_that_is_written_as_json_runs_with_what_json_gives_back() -> None:
    queue = Queue(eager=True, serializer="json")
    queue.enqueue(see, (1, "two"), b={"c": None})
    assert SEEN == [(([1, "two"],), {"b": {"c": None}})]
    with pytest.raises(errors.EncodeError, match="cannot be written as JSON"):
        queue.enqueue(see, b"bytes")


def test_an_ordinary_queue_is_not_eager() -> None:
    assert Queue(eager=True).eager is True and Queue().eager is False


def test_a_job_runs_on_the_thread_that_enqueues_it(queue: Queue) -> None:
    queue.enqueue(see_thread)
    assert [threading.current_thread()] == SEEN


def see_thread() -> None:
    SEEN.append(threading.current_thread())


def test_a_job_receives_copies_of_its_arguments(queue: Queue) -> None:
    values = [1, 2, 3]
    queue.enqueue(change, values)
    assert values == [1, 2, 3] and SEEN == [[1, 2, 3, 4]]


def test_a_local_function_runs_as_a_copy_as_in_a_child(queue: Queue) -> None:
    count = 0

    def add() -> None:
        nonlocal count
        count += 1

    queue.enqueue(add)
    assert count == 0


def test_what_a_job_raises_enqueue_raises(queue: Queue) -> None:
    with pytest.raises(KeyError, match="gone") as caught:
        queue.enqueue(fail, "gone")
    assert caught.traceback[-1].name == "fail" and SEEN == ["gone"]


def test_a_job_that_exits_has_failed(queue: Queue) -> None:
    with pytest.raises(errors.JobExited) as caught:
        queue.enqueue(leave, 3)
    assert (caught.value.type_name, caught.value.exit_args) == ("SystemExit", (3,))


def test_ctrl_c_ends_the_program_and_not_only_the_job(queue: Queue) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        queue.enqueue(interrupt)


def test_the_outcome_of_a_test_passes_through(queue: Queue) -> None:
    with pytest.raises(pytest.fail.Exception, match="in the job"):
        queue.enqueue(pytest.fail, "in the job")


def test_what_cannot_be_encoded_is_refused_as_in_production(queue: Queue) -> None:
    messages = []
    for each in (queue, Queue(hosts="127.0.0.1:1")):
        with pytest.raises(errors.EncodeError) as caught:
            each.enqueue(see, nothing())
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and not SEEN


def test_what_no_child_could_load_fails(queue: Queue) -> None:
    with pytest.raises(errors.DecodeError, match="not in this process"):
        queue.enqueue(see, Unloadable())
    assert not SEEN


def test_a_result_that_no_child_could_return_fails(queue: Queue) -> None:
    with pytest.raises(errors.ResultNotPicklable, match="generator"):
        queue.enqueue(nothing)


def test_a_job_above_the_size_is_refused() -> None:
    queue = Queue(job_size=1000, eager=True)
    with pytest.raises(errors.JobTooLarge):
        queue.enqueue(see, "x" * 1000)
    assert not SEEN


def test_settings_are_checked_and_change_nothing_else(queue: Queue) -> None:
    queue.using(timeout=0.001, retries=5, backoff=9, partition=7).enqueue(see, 1)
    assert SEEN == [((1,), {})]
    with pytest.raises(ValueError, match="timeout"):
        queue.using(timeout=-1)


def test_a_job_that_fails_is_not_retried(queue: Queue) -> None:
    with pytest.raises(KeyError):
        queue.using(retries=3).enqueue(fail, "once")
    assert SEEN == ["once"]


def test_many_jobs_run_in_order_up_to_the_first_that_raises(queue: Queue) -> None:
    jobs = queue.enqueue_many([(see, (number,)) for number in range(3)])
    assert [job.args for job in jobs] == [(0,), (1,), (2,)]
    assert [args for args, _ in SEEN] == [(0,), (1,), (2,)]
    with pytest.raises(KeyError):
        queue.enqueue_many([(see, (3,)), (fail, ("here",)), (see, (4,))])
    assert SEEN[3:] == [((3,), {}), "here"]


def test_a_call_that_cannot_be_encoded_lets_none_of_the_others_run(queue: Queue) -> None:
    with pytest.raises(errors.EncodeError):
        queue.enqueue_many([(see, (1,)), (see, (nothing(),))])
    assert not SEEN


def test_a_job_can_be_put_back(queue: Queue) -> None:
    job = queue.enqueue(see, 1)
    assert queue.enqueue(job).id != job.id
    assert SEEN == [((1,), {})] * 2


def test_delay_runs_the_job(queue: Queue) -> None:
    def decorated(word: str) -> None:
        raise LookupError(word)

    with pytest.raises(LookupError, match="now"):
        queue.job(timeout=5)(decorated).delay("now")


def test_an_async_job_runs_to_its_end(queue: Queue) -> None:
    queue.enqueue(see_later, 1)

    async def main() -> None:
        queue.enqueue(see_later, 2)
        await asyncio.to_thread(queue.enqueue, see_later, 3)

    asyncio.run(main())
    assert SEEN == [1, 2, 3]


def know_oneself(queue: Queue | None = None) -> None:
    before = current_job()
    if queue is not None:
        queue.enqueue(know_oneself_later)
        thread = threading.Thread(target=queue.enqueue, args=(know_oneself_later,))
        thread.start()
        thread.join()
    assert current_job() is before
    SEEN.append(before)


async def know_oneself_later() -> None:
    await asyncio.sleep(0)
    SEEN.append(current_job())


def test_a_job_knows_itself(queue: Queue) -> None:
    job = queue.using(headers={"tenant": "a"}, key="k", timeout=9).enqueue(know_oneself)
    assert [(job.id, 1, "shop", -1, -1, b"k", None, {"tenant": "a"})] == SEEN
    assert (job.partition, job.offset, job.headers) == (None, None, {"tenant": "a"})
    with pytest.raises(RuntimeError, match="inside a job only"):
        current_job()


def test_each_of_several_jobs_knows_itself(queue: Queue) -> None:
    async def main() -> str:
        return queue.enqueue(know_oneself_later).id

    in_a_loop = asyncio.run(main())
    outer = queue.enqueue(know_oneself, queue).id
    seen = [each.id for each in SEEN]
    assert (seen[0], seen[-1]) == (in_a_loop, outer) and len(set(seen)) == 4


def test_a_job_that_enqueues_runs_that_job_too(queue: Queue) -> None:
    queue.enqueue(see_twice, queue, 2)
    assert SEEN == [2, 1, 0]


@pytest.mark.parametrize("copied", [copy.copy, lambda queue: pickle.loads(pickle.dumps(queue))])
def test_a_copy_is_eager_too(queue: Queue, copied: Callable[[Queue], Queue]) -> None:
    assert copied(queue).eager
    assert not copied(Queue()).eager


def test_a_copy_without_its_secret_refuses_here_too() -> None:
    queue = Queue(secret="0123456789abcdef", eager=True)
    queue.enqueue(see, 1)
    with pytest.raises(errors.QueueIncomplete):
        copy.copy(queue).enqueue(see, 2)
    assert len(SEEN) == 1


def test_a_closed_queue_runs_nothing(queue: Queue) -> None:
    with queue:
        queue.enqueue(see)
    with pytest.raises(errors.Closed):
        queue.enqueue(see)
    assert len(SEEN) == 1


def test_one_line_at_info_says_what_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "embedkq")
    Queue(topic="shop", eager=True)
    assert logged(caplog) == (
        "INFO Queue(topic=shop) is eager: jobs run at once in this process, without limits and"
        " retries\n"
    )
    caplog.clear()
    Queue(topic="shop")
    assert logged(caplog) == ""


@pytest.mark.parametrize("value", [1, 0, None, "yes", "false", []])
def test_only_true_and_false_are_accepted(value: Any) -> None:
    with pytest.raises(TypeError, match=r"eager must be True or False, not "):
        Queue(eager=value)


def test_a_record_would_have_been_the_same(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    whole = headers.headers_of
    monkeypatch.setattr(headers, "headers_of", lambda *args: made.append(args) or whole(*args))
    job = queue.using(timeout=3, retries=2).enqueue(see)
    assert made == [(job.id, job.timestamp, 3, 2, None, False)]


# In a Flask app.


def app_with(callback: Any = None, **config: Any) -> Any:
    from embedkq.flask import EmbedKQ

    app = flask.Flask("shop")
    app.config.update(TESTING=True, EMBEDKQ_HOSTS="127.0.0.1:1", EMBEDKQ_EAGER=True, **config)
    app.kq = EmbedKQ(app, callback)
    app.post("/<word>")(lambda word: (app.kq.enqueue(name_app, word).id, 202))
    return app


def name_app(word: str) -> str:
    if word == "fail":
        raise LookupError(word)
    return f"{word} {flask.current_app.name if flask.has_app_context() else 'outside'}"


def test_in_an_app_jobs_and_callback_run_in_the_request_and_no_worker_starts() -> None:
    recorder = Recorder(lambda call: SEEN.append(flask.current_app.name))
    app = app_with(recorder, EMBEDKQ_APP="shop:app")
    answer = app.test_client().post("/hello")
    assert answer.status_code == 202
    (call,) = recorder.calls
    assert call == ("success", call.job, "hello shop", None, None) and SEEN == ["shop"]
    assert call.job.id == answer.text and call.job.args == ("hello",)
    assert call.job.attempts == 1 and call.job.worker.endswith(f":{os.getpid()}")
    assert call.job.enqueued <= call.job.started + MILLISECOND <= call.job.ended + MILLISECOND
    with app.app_context():
        app.kq.start()
        assert app.kq.worker.state == "new"
    assert "embedkq-owner" not in {thread.name for thread in threading.enumerate()}


def test_in_an_app_a_failure_reaches_the_callback_first_and_then_the_caller() -> None:
    recorder = Recorder()
    with pytest.raises(LookupError):
        app_with(recorder).test_client().post("/fail")
    (call,) = recorder.calls
    assert (call.status, call.result) == ("failure", None)
    assert isinstance(call.exception, LookupError) and "LookupError: fail" in call.traceback


def test_without_the_apps_name_a_job_runs_outside_of_its_context_as_in_a_child() -> None:
    recorder = Recorder()
    app = app_with(recorder)
    with app.app_context():
        queue = app.kq.queue
    queue.enqueue(name_app, "hello")
    assert recorder.results == ["hello outside"]


def test_an_app_without_a_callback_needs_none() -> None:
    assert app_with().test_client().post("/hello").status_code == 202
