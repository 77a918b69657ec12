"""`kq enqueue` puts one job on a topic, from the shell."""

from __future__ import annotations

import json
from typing import Any

import commandline
import pytest
import workerjobs
from support import Recorder, end_offsets

from embedkq import Worker

SECRET = "a secret of thirty-two characters"


def enqueue(hosts: str, topic: str, *arguments: str, **env: str) -> commandline.Ended:
    return commandline.run(
        "enqueue", *arguments, f"--hosts={hosts}", f"--topic={topic}", env=env or None
    )


@pytest.mark.parametrize("serializer", ["pickle", "json"])
def test_arguments_that_are_json_are_values_and_all_others_text(
    serializer: str, hosts: str, topic: str, group: str
) -> None:
    ended = enqueue(
        hosts,
        topic,
        "workerjobs:echo",
        "a.png",
        "40",
        '"40"',
        "[1, null]",
        "NaN",
        "--kwarg=width=2.5",
        "--kwarg=name=a=b",
        "--timeout=7",
        "--key=user-42",
        f"--serializer={serializer}",
        "--json",
        EMBEDKQ_SECRET=SECRET,
    )
    assert ended.status == 0, ended
    recorder = Recorder()
    worker: dict[str, Any] = {"secret": SECRET, "allow": ["workerjobs.*"]}
    with Worker(hosts=hosts, topic=topic, group=group, callback=recorder, **worker) as running:
        running.drain(60)
    (call,) = recorder.calls
    told = json.loads(ended.out)
    assert (call.job.id, call.job.topic, call.job.timestamp) == (
        told["id"],
        told["topic"],
        told["timestamp"],
    )
    assert call.job.func is workerjobs.echo
    assert (call.job.args, call.job.kwargs) == (
        ("a.png", 40, "40", [1, None], "NaN"),
        {"width": 2.5, "name": "a=b"},
    )
    assert (call.job.timeout, call.job.key) == (7.0, b"user-42")


def test_with_text_all_arguments_are_text(hosts: str, topic: str, group: str) -> None:
    ended = enqueue(hosts, topic, "workerjobs:echo", "40", "--kwarg=a=true", "--text")
    assert ended.status == 0 and ended.out.startswith("Enqueued workerjobs:echo on topic "), ended
    recorder = Recorder()
    with Worker(hosts=hosts, topic=topic, group=group, callback=recorder) as running:
        running.drain(60)
    assert [(call.job.args, call.job.kwargs) for call in recorder.calls] == [
        (("40",), {"a": "true"})
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["workerjobs:ecko"],
            "FUNCTION='workerjobs:ecko': 'workerjobs' has no 'ecko'; did you mean 'echo'?",
        ),
        (["no_such_module:run"], "FUNCTION='no_such_module:run': no module 'no_such_module'"),
        (["workerjobs.echo"], "does not have the form MODULE:FUNCTION"),
        (["workerjobs:os"], "is not a function but"),
        (["workerjobs:echo", "--kwarg=width"], "--kwarg='width' does not have the form NAME=VALUE"),
        (["workerjobs:echo", "--timeout=-1"], "timeout=-1.0"),
        (["workerjobs:echo", "--key=a", "--partition=1"], "key=b'a' and partition=1"),
        (["workerjobs:note", "--serializer=json"], "missing a required argument: 'path'"),
    ],
)
def test_what_cannot_be_enqueued_is_refused_in_one_line(
    arguments: list[str], said: str, hosts: str, topic: str
) -> None:
    ended = enqueue(hosts, topic, *arguments)
    assert ended.status == 2 and said in ended.err and ended.err.count("\n") == 1, ended
    assert sum(end_offsets(hosts, topic).values()) == 0


def test_a_cluster_that_does_not_answer_is_status_1() -> None:
    ended = enqueue("127.0.0.1:1", "topic", "workerjobs:echo")
    assert ended.status == 1 and "127.0.0.1:1" in ended.err and ended.err.count("\n") == 1, ended
