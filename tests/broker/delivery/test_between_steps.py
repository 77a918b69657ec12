"""Hosts that are killed between the steps of a retry and of a dead letter: nothing is lost, and
what is repeated is counted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import workerjobs
from kafka.admin import NewTopic
from kafka.errors import KafkaError
from letters import letters_in
from support import ROOT, Sender, lag, lines, wait_until, with_admin

HOST = """
import functools, importlib, os, signal, sys
from pathlib import Path
from embedkq import Worker
import workerjobs
hosts, topic, told, mark, module, owner, method, when, nth = sys.argv[1:]

def killing(really):
    calls = []
    @functools.wraps(really)
    def wrapped(*args, **kwargs):
        calls.append(1)
        last = len(calls) == int(nth) and not Path(mark).exists()
        if last:
            Path(mark).touch()
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = really(*args, **kwargs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped

place = getattr(importlib.import_module(module), owner)
setattr(place, method, killing(getattr(place, method)))

def callback(status, job, result, exception, traceback):
    workerjobs.note(told, status)

Worker(hosts=hosts, topic=topic, callback=callback, dead_letter_topic=topic + "-dead", retries=1, backoff=2.0,
       kafka={"session_timeout_ms": 1000, "heartbeat_interval_ms": 250}).start()
"""


class Step(NamedTuple):
    """Where a host is killed: before or after the nth call of a method; and how often what may
    repeat then."""

    name: str
    place: str
    when: str
    nth: int
    attempts: int
    callbacks: int
    letters: int


STEPS = [
    Step(
        "the first attempt has failed and is not noted",
        "worker.control_thread.partition_ledger PartitionLedger failed",
        "before",
        1,
        3,
        1,
        1,
    ),
    Step(
        "it is noted and not committed",
        "worker.control_thread.retries Retries hold",
        "after",
        1,
        3,
        1,
        1,
    ),
    Step("its pause is over", "worker.pool.pool JobPool submit", "before", 2, 3, 1, 1),
    Step(
        "the last attempt has failed and nobody is told",
        "worker.control_thread.completer Completer _end",
        "before",
        1,
        3,
        1,
        1,
    ),
    Step(
        "the callback is about to be called",
        "worker.owner_thread.dispatcher CallbackDispatcher _run_callback",
        "before",
        1,
        3,
        1,
        1,
    ),
    Step(
        "the callback has returned, the letter is not written",
        "worker.control_thread.completer Completer callbacks_done",
        "before",
        1,
        3,
        2,
        1,
    ),
    Step(
        "the letter is on its way",
        "worker.dead_letter_thread.dead_letter_writer DeadLetterWriter write",
        "after",
        1,
        3,
        2,
        2,
    ),
    Step(
        "the letter is written and nobody knows",
        "_clients.producer Producer send_all",
        "after",
        1,
        3,
        2,
        2,
    ),
    Step(
        "the record is done and not committed",
        "worker.control_thread.completer Completer letters_written",
        "after",
        1,
        3,
        2,
        2,
    ),
]
"""For each the most that a repeat may come to: one attempt, callback and letter more than without a
death."""


@pytest.mark.needs("quick_sessions")
@pytest.mark.hang_guard(180)
def test_nothing_is_lost_whatever_step_a_host_is_killed_at(
    quick_hosts: str, tmp_path: Path
) -> None:
    hosts = quick_hosts
    script = tmp_path / "host.py"
    script.write_text(HOST)
    topics = [f"step-{number}" for number in range(len(STEPS))]
    with_admin(
        hosts,
        lambda admin: admin.create_topics(
            [NewTopic(name, 1, 1) for topic in topics for name in (topic, f"{topic}-dead")]
        ),
    )
    for topic in topics:
        with Sender(hosts, topic) as sender:
            sender.send(
                workerjobs.fail_times, str(tmp_path / f"{topic}-notes"), "begun", 99, key=b"key"
            )
            sender.flush()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}

    def start(topic: str, step: Step) -> subprocess.Popen[bytes]:
        module, owner, method = step.place.split()
        told, mark = str(tmp_path / f"{topic}-told"), str(tmp_path / f"{topic}-mark")
        arguments = [
            hosts,
            topic,
            told,
            mark,
            f"embedkq.{module}",
            owner,
            method,
            step.when,
            str(step.nth),
        ]
        return subprocess.Popen([sys.executable, str(script), *arguments], env=environment)

    running = {topic: start(topic, step) for topic, step in zip(topics, STEPS, strict=True)}
    try:
        for topic, step in zip(topics, STEPS, strict=True):
            assert running[topic].wait(60) == -signal.SIGKILL, step
            running[topic] = start(topic, step)
        for topic in topics:
            wait_until(lambda topic=topic: all_done(hosts, topic), f"{topic} is done")
    finally:
        for host in running.values():
            host.kill()
            host.wait()
    for topic, step in zip(topics, STEPS, strict=True):
        attempts, told = (
            len(lines(tmp_path / f"{topic}-notes")),
            Counter(lines(tmp_path / f"{topic}-told")),
        )
        letters = [letter for letter, _ in letters_in(hosts, f"{topic}-dead")]
        print(f"{step.name}: {attempts} attempts, {told.total()} callbacks, {len(letters)} letters")
        assert 2 <= attempts <= step.attempts, step
        assert 1 <= told["failure"] == told.total() <= step.callbacks, step
        assert 1 <= len(letters) <= step.letters and {letter.reason for letter in letters} == {
            "failure"
        }, step


def all_done(hosts: str, topic: str) -> bool:
    try:
        return lag(hosts, topic, topic) == 0
    except KafkaError:  # a fresh broker, for its first seconds
        return False
