"""Forks of the host: what a copy of the process inherits harms neither it nor its parent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import run_script

SETUP = """
import os, sys, time, workerjobs
from embedkq import Queue, Worker
hosts, topic, group = sys.argv[1:4]
told = []
def callback(status, job, result, exception, traceback):
    told.append(result)
def fire(worker, count):
    deadline = time.monotonic() + 40
    while len(told) < count and time.monotonic() < deadline:
        worker.run_callbacks(0.1)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def wait_for(pid):
    say("child ended with", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
def sockets():
    return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{fd}")
            and os.readlink(f"/proc/self/fd/{fd}").startswith(("socket:", "pipe:", "anon_inode:[pidfd"))}
before = sockets()
queue = Queue(hosts=hosts, topic=topic)
worker = Worker(hosts=hosts, topic=topic, group=group, callback=callback, processes=2)
"""


def run(tmp_path: Path, body: str, hosts: str, topic: str, group: str) -> list[str]:
    script = tmp_path / "app.py"
    script.write_text(SETUP + body)
    done = run_script(script, hosts, topic, group, seconds=100)
    assert done.returncode == 0 and not done.stderr, done.stdout + done.stderr
    return done.stdout.splitlines()


def test_a_queue_that_has_sent_sends_in_a_forked_child_and_in_its_parent(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    told = run(
        tmp_path,
        """
queue.enqueue(workerjobs.echo, "before")
pid = os.fork()
if pid == 0:
    queue.enqueue(workerjobs.echo, "child")
    queue.close()
    os._exit(0)
queue.enqueue(workerjobs.echo, "parent")
wait_for(pid)
queue.enqueue(workerjobs.echo, "after")
worker.start(max_jobs=4)
say(*sorted(result[0][0] for result in told))
""",
        hosts,
        topic,
        group,
    )
    assert told == ["child ended with 0", "after before child parent"]


def test_a_worker_made_before_the_fork_starts_in_the_child(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    told = run(
        tmp_path,
        """
queue.enqueue(workerjobs.echo, 1)
queue.close()
pid = os.fork()
if pid == 0:
    worker.start(max_jobs=1)
    say(len(told), worker.state)
    sys.exit(0)
wait_for(pid)
say(worker.state)
""",
        hosts,
        topic,
        group,
    )
    assert told == ["1 stopped", "child ended with 0", "new"]


@pytest.mark.parametrize("leave", ["sys.exit(0)", "os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_running_worker_is_stopped_in_the_copy_and_undisturbed_in_its_parent(
    hosts: str, topic: str, group: str, tmp_path: Path, leave: str
) -> None:
    told = run(
        tmp_path,
        f"""
worker.start_background()
queue.enqueue_many([workerjobs.echo] * 10)
fire(worker, 10)
pid = os.fork()
if pid == 0:
    left = sockets() - before
    say(worker.state, worker.wait(0), worker.stop(), worker.health().healthy, len(left))
    {leave}
wait_for(pid)
queue.enqueue_many([workerjobs.echo] * 10)
fire(worker, 20)
say(worker.state, len(told), worker.stop())
""",
        hosts,
        topic,
        group,
    )
    first = told[0].split()
    assert first[:4] == ["stopped", "True", "True", "False"]
    assert int(first[4]) == 0, f"{first[4]} descriptors of the parent's left open in the copy"
    assert told[1] == f"child ended with {-9 if 'kill' in leave else 0}"
    assert told[2:] == ["running 20 True"]


def test_a_running_worker_can_be_started_anew_in_the_copy_beside_its_parents(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    told = run(
        tmp_path,
        """
worker.start_background()
queue.enqueue_many([workerjobs.echo] * 10)
fire(worker, 10)
ready, go = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    told.clear()
    worker.start_background()
    os.write(ready[1], b"x")
    while not told:
        worker.run_callbacks(0.1)
    say("copy", worker.state, worker.stop())
    sys.exit(0)
os.read(ready[0], 1)
while os.waitpid(pid, os.WNOHANG) == (0, 0):
    queue.enqueue(workerjobs.echo)
    worker.run_callbacks(0.05)
count = len(told)
queue.enqueue_many([workerjobs.echo] * 10)
fire(worker, count + 10)
say("parent", worker.state, len(told) >= count + 10, worker.stop())
""",
        hosts,
        topic,
        group,
    )
    assert told == ["copy stopped True", "parent running True True"] or told == [
        "copy running True",
        "parent running True True",
    ]


def test_the_copy_goes_on_when_its_parent_ends_first(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    told = run(
        tmp_path,
        """
worker.start_background()
queue.enqueue_many([workerjobs.echo] * 5)
fire(worker, 5)
pid = os.fork()
if pid:
    worker.stop()
    queue.enqueue(workerjobs.echo, "late")
    queue.close()
    wait_for(pid)
    sys.exit(0)
told.clear()
worker.start_background()
fire(worker, 1)
say("copy", len(told), worker.stop())
os._exit(0)
""",
        hosts,
        topic,
        group,
    )
    assert told == ["copy 1 True", "child ended with 0"]


def test_in_a_daemonic_process_start_refuses_and_names_the_cure(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    told = run(
        tmp_path,
        """
import multiprocessing
def target():
    try:
        worker.start()
    except Exception as error:
        say(type(error).__name__, "daemon=False" in str(error))
process = multiprocessing.get_context("fork").Process(target=target, daemon=True)
process.start()
process.join()
""",
        hosts,
        topic,
        group,
    )
    assert told == ["WorkerError True"]


def test_jobs_of_a_forked_copy_cannot_end_the_parents(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    """pebble's exit hook in the copy would end the parent's children."""
    told = run(
        tmp_path,
        """
worker.start_background()
queue.enqueue(workerjobs.note_both_ends, os.path.join(os.path.dirname(__file__), "notes"), "long", 3)
while not workerjobs.read(os.path.join(os.path.dirname(__file__), "notes")):
    time.sleep(0.01)
pid = os.fork()
if pid == 0:
    sys.exit(0)
wait_for(pid)
fire(worker, 1)
say(told, worker.health().children_started, worker.stop())
""",
        hosts,
        topic,
        group,
    )
    assert told == ["child ended with 0", "['long'] 2 True"]
    assert os.path.exists(tmp_path / "notes")
