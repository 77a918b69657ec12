"""A worker as a guest in somebody else's process: what it leaves alone, and what it gives back."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import workerjobs
from support import ROOT, Recorder, fire_until, run_script, wait_until

from embedkq import Queue, Worker

LOOKS = """
import locale, logging, multiprocessing, resource, signal, sys, threading
def look():
    return {
        "signals": {number: signal.getsignal(number) for number in range(1, signal.NSIG) if number not in (9, 19)},
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "excepthooks": (sys.excepthook, threading.excepthook, sys.unraisablehook),
        "locale": locale.setlocale(locale.LC_ALL),
        "start method": multiprocessing.get_start_method(allow_none=True),
        "limits": [resource.getrlimit(limit) for limit in range(10)],
        "handlers": {name: [type(h).__name__ for h in logging.getLogger(name).handlers] for name in (None, "pebble")},
        "switch": sys.getswitchinterval(),
        "children": multiprocessing.active_children(),
        "warnings": __import__("warnings").filters[:],
    }
"""
CHANGES_NOTHING = (
    LOOKS
    + """
import workerjobs
hosts, topic = sys.argv[1:]
before = look()
from embedkq import Queue, Worker
told = []
with Worker(hosts=hosts, topic=topic, processes=2, callback=lambda *call: told.append(call)) as worker:
    Queue(hosts=hosts, topic=topic).enqueue(workerjobs.echo)
    while not told:
        worker.run_callbacks(0.1)
    during = look()
after = look()
for name in before:
    assert before[name] == during[name] == after[name], (name, before[name], during[name], after[name])
handlers = [type(h).__name__ for h in logging.getLogger("embedkq").handlers]
assert handlers == [], handlers
print("nothing changed")
"""
)


def test_signals_hooks_locale_limits_handlers_and_start_method_are_left_alone(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    script = tmp_path / "app.py"
    script.write_text(CHANGES_NOTHING)
    done = run_script(script, hosts, topic)
    assert done.stdout == "nothing changed\n", done.stdout + done.stderr


def test_importing_and_making_starts_nothing() -> None:
    code = """
import os, sys, threading
before = set(os.listdir("/proc/self/fd"))
from embedkq import Job, Queue, Worker
Queue(hosts="nowhere:9092"), Worker(hosts="nowhere:9092", callback=lambda *_: None)
assert threading.active_count() == 1, threading.enumerate()
assert set(os.listdir("/proc/self/fd")) == before
assert open(f"/proc/self/task/{os.getpid()}/children").read() == ""
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_threads_are_named_after_the_topic(hosts: str, topic: str, group: str) -> None:
    with Worker(hosts=hosts, topic=topic, group=group):
        names = {thread.name for thread in threading.enumerate()}
        assert {f"embedkq-worker-{topic}", f"embedkq-consumer-{topic}"} <= names


@pytest.mark.hang_guard(400)
def test_two_hundred_starts_and_stops_leave_nothing(hosts: str, topic: str, group: str) -> None:
    process, recorder = psutil.Process(), Recorder()

    def cycle(with_job: bool) -> None:
        with Worker(
            hosts=hosts, topic=topic, group=group, callback=recorder, processes=1
        ) as worker:
            if with_job:
                queue.enqueue(workerjobs.echo)
                count = len(recorder)
                fire_until(worker, lambda: len(recorder) > count, "the job is done")

    def look() -> tuple[int, int, int]:
        gc.collect()
        return threading.active_count(), process.num_fds(), process.memory_info().rss

    with Queue(hosts=hosts, topic=topic) as queue:
        for number in range(10):
            cycle(number % 5 == 0)
        threads, descriptors, memory = look()
        for number in range(190):
            cycle(number % 10 == 0)
        threads_now, descriptors_now, memory_now = look()
        assert threads_now <= threads and descriptors_now < descriptors + 10
        assert memory_now - memory < 16 * 1024 * 1024
    wait_until(lambda: not _servers(process), "no child is left")


def _servers(process: psutil.Process) -> list[psutil.Process]:
    return [
        child
        for child in process.children(recursive=True)
        if "embedkq._child.fork_server" in " ".join(child.cmdline())
    ]


GEVENT = """
from gevent import monkey
monkey.patch_all()
from embedkq import Worker
try:
    Worker(hosts="nowhere:9092").start_background()
except Exception as error:
    print(type(error).__name__, error)
"""


def test_under_gevent_it_refuses_with_the_reason_and_the_cure() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GEVENT],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (
        done.stdout.startswith("WorkerError gevent has replaced this process's threading, ")
        and "gthread" in done.stdout
    )


DASH_C = """
import sys, workerjobs
from embedkq import Queue, Worker
def triple(x): return 3 * x
told = []
Queue(hosts=sys.argv[1], topic=sys.argv[2]).enqueue(triple, 14)
Worker(hosts=sys.argv[1], topic=sys.argv[2], callback=lambda *call: told.append(call)).start(max_jobs=1)
print(told[0][0], told[0][2], told[0][1].func is triple)
"""
RUNNING_LOOP = """
import asyncio, sys, workerjobs
from embedkq import Queue, Worker
hosts, topic = sys.argv[1:]
told = []
async def cell_one():
    global worker
    worker = Worker(hosts=hosts, topic=topic, callback=lambda *call: told.append(call))
    worker.start_background()
async def cell_two():
    await asyncio.to_thread(Queue(hosts=hosts, topic=topic).enqueue, workerjobs.echo, 1)
    while not told:
        await asyncio.sleep(0.01)
async def cell_three():
    print(await worker.astop(), told[0][0])
async def main():
    for cell in (cell_one, cell_two, cell_three):
        await cell()
asyncio.run(main())
"""


def test_python_dash_c_and_stdin(hosts: str, topic: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    for command, given in (["-c", DASH_C, hosts, topic], None), (["-", hosts, topic], DASH_C):
        done = subprocess.run(
            [sys.executable, *command],
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=False,
        )
        assert done.stdout == "success 42 True\n", done.stderr


def test_a_loop_that_runs_already_as_in_a_notebook(hosts: str, topic: str, tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text(RUNNING_LOOP)
    done = run_script(script, hosts, topic)
    assert done.stdout == "True success\n", done.stderr


def test_a_signal_to_the_whole_group_lets_the_running_job_finish(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    code = (
        "import signal, sys\nfrom embedkq import Worker\n"
        "worker = Worker(hosts=sys.argv[1], topic=sys.argv[2], callback=lambda *call: print(call[0], call[2], flush=True))\n"
        "signal.signal(signal.SIGTERM, lambda *_: worker.request_stop())\nworker.start()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    with Queue(hosts=hosts, topic=topic) as queue:
        queue.enqueue(workerjobs.note_and_wait, str(notes), "done", str(gate))
    host = subprocess.Popen(
        [sys.executable, "-c", code, hosts, topic],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: notes.exists(), "the job runs")
    for child in [psutil.Process(host.pid), *psutil.Process(host.pid).children(recursive=True)]:
        child.send_signal(signal.SIGTERM)
    time.sleep(0.3)  # a chance to do the wrong thing
    gate.touch()
    assert host.communicate(timeout=30)[0] == "success done\n" and host.returncode == 0
