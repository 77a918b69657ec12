"""JSON jobs, as programs in other languages write them: with kcat, from Java, and by a Queue of
ours, beside pickled jobs of the same topic."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import brokers
import commandline
import pytest
import workerjobs
from brokers import kafka_files
from guidepages import blocks
from kafka import KafkaProducer
from letters import letters_in
from support import Recorder, end_offsets

from embedkq import Queue, Worker
from embedkq.errors import EncodeError

SECRET = "a secret of thirty-two characters"
ECHO = b'{"func": "workerjobs.echo", "args": ["json"]}'


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a package of jobs and a callback that writes down what it gets."""
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "jobs.py").write_text(
        "def resize(path, width=80):\n    return f'{path} at {width}'\n"
    )
    (tmp_path / "callback.py").write_text(
        "import json\n"
        "def callback(status, job, result, exception, traceback):\n"
        "    seen = [status, job.id, job.timestamp, job.timeout, (job.key or b'').decode(), result]\n"
        "    with open('seen', 'a') as file:\n"
        "        file.write(json.dumps(seen) + '\\n')\n"
    )
    return tmp_path


def work(shop: Path, hosts: str, topic: str, *options: str, env: Mapping[str, str] = {}) -> str:
    """Have `kq worker` run what the topic holds; what it wrote to stderr."""
    ended = commandline.run(
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        "--burst",
        "--callback=callback.py",
        "--allow=shop.jobs.*",
        *options,
        cwd=shop,
        env=env,
    )
    assert ended.status == 0, ended
    return ended.err


def seen(shop: Path) -> list[list[Any]]:
    path = shop / "seen"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run_java(folder: Path, hosts: str, topic: str, env: Mapping[str, str] = {}) -> None:
    """Run the guide's program."""
    try:
        jars, java = kafka_files.jars(), kafka_files.java_home() / "bin" / "java"
    except brokers.Unavailable as error:
        if brokers.in_ci():
            raise
        pytest.skip(str(error))
    (program,) = [block for block in blocks("java") if block.startswith("// Enqueue.java")]
    (folder / "Enqueue.java").write_text(program)
    done = subprocess.run(
        [java, "-cp", f"{jars}/*", "Enqueue.java", hosts, topic],
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.startswith(f"{topic}-"), done


def run_kcat(hosts: str, topic: str, value: str) -> None:
    if shutil.which("kcat") is None:
        assert not brokers.in_ci(), "no kcat: .ci/run installs it"
        pytest.skip("no kcat on the PATH")
    command = ["kcat", "-P", "-b", hosts, "-t", topic, "-H", "embedkq=json"]
    subprocess.run(command, input=value, text=True, timeout=60, check=True)


def send(
    hosts: str, topic: str, *values: bytes, header: bytes = b"json", partition: int = 0
) -> None:
    producer = KafkaProducer(bootstrap_servers=hosts)
    for value in values:
        producer.send(topic, value, headers=[("embedkq", header)], partition=partition).get(30)
    producer.close()


def test_a_java_program_and_kcat_enqueue_beside_a_queue(hosts: str, topic: str, shop: Path) -> None:
    run_java(shop, hosts, topic)
    run_kcat(hosts, topic, '{"func": "shop.jobs.resize", "args": ["b.png"]}')
    work(shop, hosts, topic)
    found = sorted(seen(shop), key=lambda each: str(each[5]))
    assert [(each[0], each[5], each[3], each[4]) for each in found] == [
        ("success", "a.png at 40", 30.0, "user-42"),
        ("success", "b.png at 80", None, ""),
    ]
    assert all(
        re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", each[1]) for each in found
    )
    assert all(each[2] > 1_600_000_000_000 for each in found)


def test_a_java_program_signs_and_who_does_not_is_refused(
    hosts: str, topic: str, shop: Path
) -> None:
    run_java(shop, hosts, topic, env={"EMBEDKQ_SECRET": SECRET})
    send(hosts, topic, b'{"func": "shop.jobs.resize", "args": ["forged.png"]}')
    said = work(shop, hosts, topic, "--max-age=3600", env={"EMBEDKQ_SECRET": SECRET})
    assert [each[5] for each in seen(shop)] == ["a.png at 40"]
    assert "refused. Skipping ... (it is not signed)" in said


def test_pickled_jobs_and_json_jobs_share_a_topic(hosts: str, topic: str, group: str) -> None:
    recorder = Recorder()
    with (
        Queue(hosts=hosts, topic=topic, kafka={}) as pickled,
        Queue(hosts=hosts, topic=topic, serializer="json", timeout=9) as as_json,
    ):
        jobs = [
            queue.using(key="same").enqueue(workerjobs.echo, number, name=[number])
            for number, queue in enumerate([pickled, as_json] * 10)
        ]
    allow = ["workerjobs.*"]
    with Worker(hosts=hosts, topic=topic, group=group, callback=recorder, allow=allow) as worker:
        worker.drain(60)
    calls = recorder.calls
    assert [call.job.id for call in calls] == [job.id for job in jobs]
    assert [call.result for call in calls] == [((n,), {"name": [n]}) for n in range(20)]
    for call, job in zip(calls, jobs, strict=True):
        assert call.job == job


def test_what_cannot_run_is_a_dead_letter_that_says_why(
    hosts: str, topic: str, group: str, make_topic: Any
) -> None:
    dead_topic, recorder = make_topic(1), Recorder()
    values = [
        b'{"func": ',
        b'{"func": "workerjobs.echo", "arguments": []}',
        b'{"func": "subprocess.call", "args": ["true"]}',
        b'{"func": "workerjobs.os.getpid"}',
        b'{"func": "workerjobs.note", "args": [1, 2, 3]}',
        b'{"func": "workerjobs.no_such_job"}',
        ECHO,
    ]
    send(hosts, topic, *values)
    with Worker(
        hosts=hosts,
        topic=topic,
        group=group,
        callback=recorder,
        allow=["workerjobs.*"],
        dead_letter_topic=dead_topic,
        retries=1,
        backoff=0.01,
    ) as worker:
        worker.drain(60)
    found = {
        letter.offset: (letter.reason, letter.exception)
        for letter, _ in letters_in(hosts, dead_topic)
    }
    assert {offset: reason for offset, (reason, _) in found.items()} == {
        0: "malformed",
        1: "malformed",
        2: "refused",
        3: "malformed",
        4: "malformed",
        5: "undecodable",
    }
    said = [exception for _, (_, exception) in sorted(found.items())]
    assert "is not JSON" in said[0] and "has no 'arguments'" in said[1]
    assert "`allow` does not include subprocess.call" in said[2]
    assert "workerjobs.os.getpid is defined as posix.getpid" in said[3]
    assert "do not fit workerjobs.note(path: 'str', text: 'object')" in said[4]
    assert "no_such_job" in said[5]
    assert [call.result for call in recorder.calls if call.status == "success"] == [(("json",), {})]
    listed = commandline.run(
        "dlq", "list", f"--hosts={hosts}", f"--dead-letter-topic={dead_topic}", "--json"
    )
    functions = {
        each["offset"]: each["function"] for each in map(json.loads, listed.out.split("\n")[:-1])
    }
    assert functions[2] == "subprocess.call" and functions[5] == "workerjobs.no_such_job"


def test_a_dead_letter_of_a_json_job_is_put_back_and_runs(
    hosts: str, topic: str, group: str, make_topic: Any, tmp_path: Path
) -> None:
    dead_topic, notes = make_topic(1), str(tmp_path / "notes")
    with Queue(hosts=hosts, topic=topic, serializer="json", secret=SECRET) as queue:
        job = queue.enqueue(workerjobs.fail_times, notes, "x", 1)
    signed: dict[str, Any] = {"secret": SECRET, "allow": ["workerjobs.*"]}
    recorder = Recorder()
    common = {"hosts": hosts, "topic": topic, "group": group, "callback": recorder, **signed}
    with Worker(**common, dead_letter_topic=dead_topic) as worker:
        worker.drain(60)
        again = commandline.run(
            "dlq",
            "retry",
            "--all",
            "--yes",
            f"--hosts={hosts}",
            f"--dead-letter-topic={dead_topic}",
            env={"EMBEDKQ_SECRET": SECRET},
        )
        assert again.status == 0, again
        worker.drain(60)
    assert [(call.status, call.job.id) for call in recorder.calls] == [
        ("failure", job.id),
        ("success", job.id),
    ]


def test_a_json_job_that_hangs_is_killed_at_its_limit(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    recorder = Recorder()
    value = {"func": "workerjobs.hang_noting_begin", "args": [str(tmp_path / "notes"), "x"]}
    send(hosts, topic, json.dumps(value).encode(), header=b"json;timeout=1")
    allow = ["workerjobs.*"]
    with Worker(hosts=hosts, topic=topic, group=group, callback=recorder, allow=allow) as worker:
        worker.drain(60)
    (call,) = recorder.calls
    assert (call.status, call.job.func) == ("timeout", workerjobs.hang_noting_begin)


def test_a_queue_of_json_refuses_what_json_lacks_and_sends_nothing(hosts: str, topic: str) -> None:
    with Queue(hosts=hosts, topic=topic, serializer="json") as queue:
        for call in ((workerjobs.echo, b"bytes"), (lambda: None,), (workerjobs.note,)):
            with pytest.raises(EncodeError):
                queue.enqueue(*call)
        copy = pickle.loads(pickle.dumps(queue))
    with copy:
        assert copy.enqueue(workerjobs.echo, 1).id
        with pytest.raises(EncodeError):
            copy.enqueue(workerjobs.echo, b"bytes")
    assert sum(end_offsets(hosts, topic).values()) == 1


def test_a_misspelt_serializer_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match="serializer='jsno': must be 'pickle' or 'json'; did you"):
        Queue(serializer="jsno")
