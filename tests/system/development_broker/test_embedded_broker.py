"""The embedded development broker: it starts, takes jobs, and never outlives the process that it
belongs to."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import brokers
import psutil
import pytest
import workerjobs as jobs
from brokers import Embedded, is_open
from commandline import SCRIPT, Program, environment, run
from support import send_many, wait_until

from embedkq.broker import BrokerFailed, EmbeddedBroker, die_with_parent, embedded
from embedkq.broker.finder import Program as Found
from embedkq.broker.finder import find_program

try:
    Embedded.prepare()
except brokers.Unavailable as error:
    if brokers.in_ci():
        raise
    pytest.skip(str(error), allow_module_level=True)


OWNER_SECONDS = 1.0


def is_gone(pid: int) -> bool:
    return jobs.life_of(pid) in ("", "Z", "X")


def assert_port_is_free(port: int) -> None:
    with socket.socket() as again:
        again.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # connections that it had may still be closing
        again.bind(("127.0.0.1", port))


# In a program.


def test_it_starts_stops_and_starts_again_at_its_port() -> None:
    broker = EmbeddedBroker()
    assert (broker.pid, broker.port, broker.hosts, repr(broker)) == (
        None,
        0,
        "127.0.0.1:0",
        "EmbeddedBroker(127.0.0.1:0)",
    )
    assert broker.start() is broker
    pid, hosts = broker.pid, broker.hosts
    assert pid is not None and is_open(hosts) and hosts == f"127.0.0.1:{broker.port}"
    assert broker.start().pid == pid
    broker.stop()
    assert broker.pid is None and is_gone(pid) and not is_open(hosts)
    assert_port_is_free(broker.port)
    broker.stop()
    with broker:
        assert broker.hosts == hosts and is_open(hosts) and broker.pid not in (None, pid)
    assert not is_open(hosts)


def test_brokers_have_ports_of_their_own() -> None:
    with EmbeddedBroker() as one, EmbeddedBroker() as other:
        assert one.port != other.port and is_open(one.hosts) and is_open(other.hosts)


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        broker = EmbeddedBroker(port=port)
        with pytest.raises(
            BrokerFailed, match=rf"cannot listen at 127\.0\.0\.1:{port}: the port is taken"
        ):
            broker.start()
        assert broker.pid is None
    with broker:
        assert broker.port == port and is_open(broker.hosts)


def test_somebody_elses_broker_at_the_port_is_not_taken_for_it() -> None:
    with EmbeddedBroker() as other, pytest.raises(BrokerFailed, match="the port is taken"):
        EmbeddedBroker(port=other.port).start()


@pytest.mark.parametrize("port", [-1, 65536, "9092", None])
def test_a_port_out_of_range_is_refused(port: object) -> None:
    with pytest.raises(ValueError, match=rf"port must be an integer from 0 to 65535, not {port!r}"):
        EmbeddedBroker(port=port)  # type: ignore[arg-type]


def test_a_host_that_is_not_this_machine_is_told() -> None:
    for host in ("203.0.113.1", "nowhere.invalid"):
        with pytest.raises(
            BrokerFailed,
            match=f"the embedded broker cannot listen at {host}:0: {host} is no address of this machine",
        ):
            EmbeddedBroker(host=host).start()


def test_it_tells_when_it_ends_by_itself() -> None:
    with EmbeddedBroker() as broker:
        assert not broker.wait(0) and broker.pid is not None
        os.kill(broker.pid, signal.SIGKILL)
        assert broker.wait(30) and broker.pid is None
        assert broker.tail() == broker.hosts


def test_it_outlives_the_thread_that_has_started_it() -> None:
    broker = EmbeddedBroker()
    thread = threading.Thread(target=broker.start)
    thread.start()
    thread.join()
    try:
        assert not broker.wait(0.2) and is_open(broker.hosts)
    finally:
        broker.stop()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("exec sleep 60", r"did not answer within 2 s\. Its last output:\nthinking"),
        ("exit 3", r"ended\. Its last output:\nthinking"),
        ("exit 1", "thinking$"),
    ],
)
def test_a_broker_that_does_not_come_up_is_told_and_ended(
    body: str, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    binary = tmp_path / "broker"
    binary.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\necho thinking\n{body}\n")
    binary.chmod(0o700)
    monkeypatch.setattr(embedded, "find_program", lambda: Found([str(binary)]))
    monkeypatch.setattr(embedded, "START_SECONDS", 2.0)
    broker = EmbeddedBroker()
    with pytest.raises(BrokerFailed, match=f"the embedded broker {told}"):
        broker.start()
    assert broker.pid is None
    wait_until(lambda: is_gone(int((tmp_path / "pid").read_text())), "nothing of it is left")


# With the process that it belongs to.


STARTS = """
import os, signal, sys
from embedkq.broker import EmbeddedBroker
broker = EmbeddedBroker().start()
print(broker.hosts, broker.pid, flush=True)
"""


def start_of(code: str) -> tuple[subprocess.Popen[str], str, int]:
    """Start a program that starts a broker; the program, and the broker's address and process
    id."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTS + code],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    hosts, pid = process.stdout.readline().split()
    return process, hosts, int(pid)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
        ("os._exit(3)", 3),
        ("sys.exit(4)", 4),
        ("", 0),
        ("raise KeyError", 1),
    ],
)
def test_it_ends_with_its_process_however_that_ends(end: str, status: int) -> None:
    process, hosts, pid = start_of(f"sys.stdin.readline()\n{end}")
    with process:
        assert is_open(hosts) and not is_gone(pid)
        process.communicate("\n")
    assert process.returncode == status
    wait_until(lambda: is_gone(pid) and not is_open(hosts), "the broker has ended with its process")
    assert_port_is_free(int(hosts.rpartition(":")[2]))


BARE = """
import os, subprocess, sys
process = subprocess.Popen([*sys.argv[1:], "-owner", str(os.getpid())], stdout=subprocess.PIPE, text=True)
print(process.stdout.readline().strip(), process.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("watched_by", ["kernel", "program"])
def test_it_ends_within_a_second_of_its_owners_death(watched_by: str) -> None:
    """By itself, too, where the kernel does not watch over the owner: as on macOS."""
    code = (
        [STARTS + "sys.stdin.read()"] if watched_by == "kernel" else [BARE, *find_program().command]
    )
    took = []
    while not took or (
        min(took) > OWNER_SECONDS and len(took) < 3
    ):  # a busy machine may keep it from its end once
        process = subprocess.Popen(
            [sys.executable, "-c", *code],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stdout is not None
            hosts, pid = process.stdout.readline().split()
            assert is_open(hosts)
            began = time.monotonic()
            process.kill()
            wait_until(lambda pid=int(pid): is_gone(pid), "the broker has ended")
            took.append(time.monotonic() - began)
    sys.stdout.write(f"ended {', '.join(f'{seconds:.3f}' for seconds in took)} s after its owner\n")
    assert min(took) <= OWNER_SECONDS, took


def test_a_forked_copy_leaves_it_alone() -> None:
    code = """
child = os.fork()
if child == 0:
    broker.stop()
    print("child", broker.pid, flush=True)
    sys.exit(0)
os.waitpid(child, 0)
print("parent", broker.pid, flush=True)
sys.stdin.readline()
"""
    process, hosts, pid = start_of(code)
    with process:
        assert process.stdout is not None
        assert [process.stdout.readline(), process.stdout.readline()] == [
            "child None\n",
            f"parent {pid}\n",
        ]
        assert is_open(hosts)
        process.communicate("\n")
    assert not is_open(hosts)


def test_a_ctrl_c_at_the_terminal_does_not_reach_it() -> None:
    with EmbeddedBroker() as broker:
        assert broker.pid is not None
        assert os.getpgid(broker.pid) != os.getpgid(0)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's watch over the parent is Linux's")
def test_the_program_refuses_a_parent_that_has_ended() -> None:
    done = subprocess.run(
        [sys.executable, die_with_parent.__file__, "1", sys.executable, "-c", "print('ran')"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "process 1, which started this one, has ended\n",
    )


# `kq broker`.


@pytest.mark.parametrize("to", ["send", "send_to_group"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_kq_broker_prints_its_address_first_and_ends_on_signals(
    number: signal.Signals, to: str, tmp_path: Path
) -> None:
    with Program(tmp_path, "broker", "--port=0", program=SCRIPT) as running:
        running.says("Ctrl-C to stop it")
        (hosts,) = running.out
        assert is_open(hosts)
        family = running.family()
        getattr(running, to)(number)
        done = running.end()
    assert (done.status, done.out) == (0, f"{hosts}\n"), done
    (line,) = done.err.splitlines()
    assert line == (
        "The development broker is running. Topics, offsets and dead letters are in memory and are lost when it stops; "
        "--data=DIR keeps them. Press Ctrl-C to stop it."
    )
    assert not psutil.wait_procs(family, 10)[1] and not is_open(hosts)


def test_kq_broker_at_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("broker", env={"EMBEDKQ_PORT": str(port)})
    assert done.status == 1 and not done.out, done
    (line,) = done.err.splitlines()
    assert (
        line
        == f"Error: the embedded broker cannot listen at 127.0.0.1:{port}: the port is taken; choose another one, or 0 for any"
    )


def test_kq_broker_tells_when_its_broker_ends_by_itself(tmp_path: Path) -> None:
    with Program(tmp_path, "broker", "--port=0") as running:
        running.says("Ctrl-C to stop it")
        (program,) = (process for process in running.family() if process.pid != running.pid)
        program.kill()
        done = running.end()
    assert (
        done.status == 1
        and "Error: the broker ended by itself" in done.err
        and "Traceback" not in done.err
    ), done


def test_a_killed_kq_broker_takes_its_broker_along(tmp_path: Path) -> None:
    with Program(tmp_path, "broker", "--port=0") as running:
        running.says("Ctrl-C to stop it")
        family = running.family()
        running.send(signal.SIGKILL)
        running.end()
    assert len(family) == 2 and not psutil.wait_procs(family, 10)[1]


def test_a_first_job_with_nothing_but_kq(tmp_path: Path) -> None:
    with Program(tmp_path, "broker", "--port=0") as broker:
        broker.says("Ctrl-C to stop it")
        (hosts,) = broker.out
        (job_id,) = send_many(hosts, "default", jobs.echo, [(7,)])
        with Program(tmp_path, "worker", "--verbose", env={"EMBEDKQ_HOSTS": hosts}) as worker:
            worker.says(f"[INFO] Job {job_id[:8]} returned: ((7,), {{}})")
            worker.send(signal.SIGINT)
            done = worker.end()
        table = run("info", f"--hosts={hosts}")
    assert done.status == 0, done
    assert table.status == 0 and "default" in table.out, table
