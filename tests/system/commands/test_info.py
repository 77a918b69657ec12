"""`kq info` and what it stands on: offsets, lag, members and owners as they are, and nothing
created by asking."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import workerjobs as jobs
from commandline import SCRIPT, Program, environment, run
from support import HANG_SECONDS, Sender, lines, send_many, wait_until, with_admin

from embedkq import Worker
from embedkq._clients.admin import Inspector, describe, member_ids
from embedkq.broker import EmbeddedBroker


def send_to(hosts: str, topic: str, counts: dict[int, int]) -> None:
    """So many jobs to these partitions."""
    with Sender(hosts, topic) as sender:
        for partition, count in counts.items():
            for number in range(count):
                sender.send(jobs.echo, number, partition=partition)
        sender.flush()


def run_some(hosts: str, topic: str, group: str, count: int) -> None:
    """Have a worker do so many jobs and commit them."""
    Worker(hosts, topic, group=group).start(max_jobs=count)


def asked(hosts: str, *arguments: str) -> Any:
    """What `kq info --json` answers."""
    done = run("info", f"--hosts={hosts}", "--json", *arguments)
    assert (done.status, done.err) == (0, ""), done
    return json.loads(done.out)


def row(
    partition: int,
    first: int,
    last: int,
    group: str | None = None,
    committed: int | None = None,
    lag: int | None = None,
) -> Any:
    return {
        "partition": partition,
        "first": first,
        "last": last,
        "group": group,
        "committed": committed,
        "lag": lag,
        "owner": None,
    }


def without_topic(rows: list[dict[str, Any]], topic: str) -> list[dict[str, Any]]:
    assert {found["topic"] for found in rows} == {topic}
    return [{name: value for name, value in found.items() if name != "topic"} for found in rows]


def test_a_topic_without_a_group_has_offsets_and_no_lag(hosts: str, topic: str) -> None:
    send_to(hosts, topic, {0: 3, 2: 1})
    found = asked(hosts, f"--topic={topic}")
    assert found.keys() == {"hosts", "topics", "lag", "partitions", "groups"}
    assert (found["hosts"], found["topics"], found["lag"], found["groups"]) == (
        hosts,
        [topic],
        0,
        [],
    )
    assert without_topic(found["partitions"], topic) == [
        row(0, 0, 3),
        row(1, 0, 0),
        row(2, 0, 1),
        row(3, 0, 0),
    ]


def test_committed_offsets_and_lag_are_those_of_the_group(
    hosts: str, make_topic: Callable[[int], str], group: str
) -> None:
    topic = make_topic(1)
    send_to(hosts, topic, {0: 5})
    run_some(hosts, topic, group, 2)
    other = f"{group}-other"
    run_some(hosts, topic, other, 5)

    found = asked(hosts, f"--topic={topic}")
    assert without_topic(found["partitions"], topic) == [
        row(0, 0, 5, group, 2, 3),
        row(0, 0, 5, other, 5, 0),
    ]
    assert found["lag"] == 3
    assert found["groups"] == [
        {"name": name, "state": "Empty", "members": []} for name in (group, other)
    ]

    of_one = asked(hosts, f"--group={group}")
    assert (
        without_topic(of_one["partitions"], topic) == [row(0, 0, 5, group, 2, 3)]
        and len(of_one["groups"]) == 1
    )
    never_read = asked(hosts, f"--topic={topic}", f"--group={group}-never")
    assert without_topic(never_read["partitions"], topic) == [
        row(0, 0, 5, f"{group}-never", None, 5)
    ]


def test_deleted_records_are_no_lag(
    hosts: str, make_topic: Callable[[int], str], group: str
) -> None:
    topic = make_topic(1)
    send_to(hosts, topic, {0: 10})
    run_some(hosts, topic, group, 2)
    with_admin(hosts, lambda admin: admin.delete_records({describe_partition(topic): 6}))
    found = asked(hosts, f"--topic={topic}", f"--group={group}")
    assert without_topic(found["partitions"], topic) == [row(0, 6, 10, group, 2, 4)]


def describe_partition(topic: str) -> Any:
    from kafka import TopicPartition

    return TopicPartition(topic, 0)


def test_live_workers_are_members_and_owners(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    options = ("worker", f"--hosts={hosts}", f"--topic={topic}", f"--group={group}")

    def members() -> Any:
        found = describe(hosts, topic).as_dict()
        return [
            member
            for known in found["groups"]
            for member in known["members"]
            if known["state"] == "Stable"
        ]

    def owned(member: Any) -> list[int]:
        assert {partition["topic"] for partition in member["partitions"]} <= {topic}
        return [partition["partition"] for partition in member["partitions"]]

    gate = tmp_path / "gate"
    with Program(tmp_path, *options) as first, Program(tmp_path, *options, "--processes=2"):
        wait_until(
            lambda: sorted(len(owned(member)) for member in members()) == [2, 2],
            "each worker has two partitions",
        )

        def told() -> Any:
            """Of both, once no rebalance is under way."""
            listed = asked(hosts, f"--topic={topic}")["groups"][0]["members"]
            return (
                listed
                if sorted(number for member in listed for number in owned(member)) == [0, 1, 2, 3]
                else None
            )

        both = wait_until(told, "the command line tells of both")
        assert all(member["host"] and member["client"] for member in both)
        assert member_ids(hosts, group, {"session_timeout_ms": 6000}) == {
            member["id"] for member in both
        }

        (running,) = send_many(
            hosts,
            topic,
            jobs.note_and_wait,
            [(str(tmp_path / "noted"), "a", str(gate))],
            partition=1,
        )
        wait_until(lambda: lines(tmp_path / "noted") == ["a"], "the job runs")
        found = asked(hosts, f"--topic={topic}", f"--group={group}")
        owner_of = {number: member["id"] for member in both for number in owned(member)}
        assert {known["partition"]: known["owner"] for known in found["partitions"]} == owner_of
        assert found["lag"] == 1, running
        table = run("info", f"--hosts={hosts}", f"--topic={topic}")
        assert (
            table.out.count(group) == 2 and "Stable" in table.out and owner_of[1][:20] in table.out
        ), table
        gate.touch()
        wait_until(lambda: describe(hosts, topic, group).lag == 0, "it is committed")

        first.send(signal.SIGTERM)
        assert first.end().status == 0
        wait_until(
            lambda: [owned(member) for member in members()] == [[0, 1, 2, 3]],
            "the other worker has all partitions",
        )


def test_tables_show_the_same_and_nothing_is_cut_off_in_a_pipe(
    hosts: str, make_topic: Callable[[int], str]
) -> None:
    topic = make_topic(2)
    group = f"a group with [brackets] and a long name {uuid.uuid4()}"
    send_to(hosts, topic, {0: 4, 1: 4})
    run_some(hosts, topic, group, 8)
    send_to(hosts, topic, {1: 3})
    done = run("info", f"--hosts={hosts}", f"--topic={topic}", program=SCRIPT)
    assert (done.status, done.err) == (0, ""), done
    cells = [
        [cell.strip() for cell in re.split("[│┃]", line)[1:-1]]
        for line in done.out.splitlines()
        if re.match("[│┃]", line)
    ]
    assert cells == [
        ["Topic", "Group", "Partition", "First", "Last", "Committed", "Lag", "Owner"],
        [topic, group, "0", "0", "4", "4", "0", "-"],
        ["", "", "1", "0", "7", "4", "3", "-"],
        ["", "", "", "", "", "", "3", "total"],
        ["Group", "State", "Member", "Client", "Host", "Owns"],
        [group, "Empty", "nobody", "", "", ""],
    ]
    assert f"Topics at {hosts}" in done.out


def test_an_unknown_topic_is_told_and_not_created(hosts: str) -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    done = run("info", f"--hosts={hosts}", f"--topic={name}")
    assert (done.status, done.out, done.err) == (
        1,
        "",
        f"Error: there is no topic {name!r} at {hosts}\n",
    ), done
    found = describe(hosts, name, f"{name}-group")
    assert not found.partitions and [known.name for known in found.groups] == [f"{name}-group"]
    assert name not in with_admin(
        hosts, lambda admin: [known["name"] for known in admin.describe_topics()]
    )


def test_without_arguments_all_topics_are_shown(
    hosts: str, make_topic: Callable[[int], str]
) -> None:
    names = [make_topic(1), make_topic(2)]
    found = asked(hosts)
    assert set(names) <= set(found["topics"]) == {known["topic"] for known in found["partitions"]}
    assert found["topics"] == sorted(found["topics"])
    assert not [name for name in found["topics"] if name.startswith("__")]


def test_topics_are_created_and_deleted(hosts: str) -> None:
    name = f"test-{uuid.uuid4().hex[:12]}"
    with Inspector(hosts) as inspector:
        inspector.create_topic(name, 3)
        wait_until(lambda: len(inspector.describe(name).partitions) == 3, "the topic is there")
        inspector.delete_topic(name)
        wait_until(lambda: not inspector.describe(name).partitions, "the topic is gone")


def test_watch_prints_a_line_of_json_each_time(hosts: str, topic: str, tmp_path: Path) -> None:
    options = (
        "info",
        f"--hosts={hosts}",
        f"--topic={topic}",
        "--watch",
        "--json",
        "--interval=0.1",
    )
    with Program(tmp_path, *options) as watching:
        wait_until(lambda: len(watching.out) > 1, "it has looked twice")
        send_to(hosts, topic, {1: 2})
        wait_until(
            lambda: last_offsets(watching.out[:-1]) == [0, 2, 0, 0], "it has seen the records"
        )
        watching.send(signal.SIGINT)
        done = watching.end()
    assert (done.status, done.err) == (0, ""), done
    assert last_offsets(done.out.splitlines()[:1]) == [0, 0, 0, 0]


def last_offsets(printed: list[str]) -> list[int]:
    return [known["last"] for known in json.loads(printed[-1])["partitions"]] if printed else []


def test_watch_prints_tables_into_a_pipe(hosts: str, topic: str, tmp_path: Path) -> None:
    with Program(
        tmp_path, "info", f"--hosts={hosts}", f"--topic={topic}", "--watch", "--interval=0.1"
    ) as watching:
        wait_until(
            lambda: sum("Topics at" in line for line in watching.out) > 2,
            "it has looked three times",
        )
        watching.send(signal.SIGINT)
        done = watching.end()
    assert (done.status, done.err) == (0, ""), done
    assert "\x1b" not in done.out


def test_watch_on_a_terminal_shows_it_in_place(hosts: str, topic: str) -> None:
    master, slave = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "embedkq",
        "info",
        f"--hosts={hosts}",
        f"--topic={topic}",
        "--watch",
        "--interval=0.1",
    ]
    process = subprocess.Popen(
        command,
        env=environment({"TERM": "xterm", "COLUMNS": "120", "LINES": "40"}),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(slave)
    shown = b""
    try:
        while shown.count(f"Topics at {hosts}".encode()) < 3:
            shown += os.read(master, 65536)
        process.send_signal(signal.SIGINT)
        shown += rest_of(master)
        assert process.wait(HANG_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
    assert topic.encode() in shown
    assert (
        shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 1
    )  # the terminal's other screen, entered and left
    assert b"Traceback" not in shown


def rest_of(master: int) -> bytes:
    """What is written to a terminal until nobody has it open any more."""
    read = b""
    while True:
        try:
            more = os.read(master, 65536)
        except OSError:
            return read
        if not more:
            return read
        read += more


def test_watch_outlasts_a_broker_that_goes_and_comes_back(
    embedded_broker_program: None, tmp_path: Path
) -> None:
    with (
        EmbeddedBroker() as broker,
        Program(
            tmp_path, "info", f"--hosts={broker.hosts}", "--watch", "--json", "--interval=0.1"
        ) as watching,
    ):
        wait_until(lambda: watching.out, "it has looked")
        broker.stop()
        watching.says(f"no Kafka broker at {broker.hosts}")
        broker.start()
        before = len(watching.out)
        wait_until(lambda: len(watching.out) > before, "it sees the broker again")
        watching.send(signal.SIGINT)
        done = watching.end()
    assert done.status == 0 and "Traceback" not in done.err, done


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hosts=host:port"], "hosts='host:port'"),
        (["--cafile={pem}", "--keyfile={pem}"], "keyfile"),
    ],
)
def test_an_option_that_cannot_work_is_told_in_one_line(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    pem = tmp_path / "some.pem"
    pem.touch()
    done = run("info", *[argument.format(pem=pem) for argument in arguments])
    (line,) = done.err.splitlines()
    assert done.status == 2 and line.startswith("Error: ") and message in line, done
