"""Apache Kafka from its Maven jars: a JVM on this machine, without Docker."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from . import kafka_files
from .base import ABILITIES, STOP_TIMEOUT, Broker, wait_until_closed
from .layout import Layout, make_layout

GUARD = Path(__file__).with_name("guard.py")


class KafkaJars(Broker):
    """One JVM as broker and controller, or one node of a cluster of them, in a temporary folder."""

    kind = "jars"
    capabilities = ABILITIES

    def __init__(
        self,
        properties: Mapping[str, str] | None = None,
        *,
        listeners: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
        layout: Layout | None = None,
        node_id: int = 1,
    ) -> None:
        """See `Layout` for properties, listeners and the place of `files`; a given `layout` brings
        its own."""
        super().__init__()
        self.node_id = node_id
        self.layout = layout or make_layout(listeners=listeners, properties=properties)
        self.hosts = self.layout.places[node_id - 1].hosts
        self._files = dict(files or {})
        self._guard: Guard | None = None

    @staticmethod
    def prepare() -> str:
        """Make sure that it can run here; returns what it is; raises Unavailable."""
        home = kafka_files.java_home()
        kafka_files.jars()
        return f"Apache Kafka {kafka_files.kafka_version()} from its jars, {home.name}"

    @property
    def description(self) -> str:
        return f"Apache Kafka {kafka_files.kafka_version()} from its jars"

    def address(self, listener: str = "PLAINTEXT") -> str:
        return f"127.0.0.1:{self.layout.places[self.node_id - 1].ports[listener]}"

    def log(self) -> str:
        """What the JVM wrote so far."""
        return self._guard.log() if self._guard else ""

    def _start(self) -> None:
        if self._guard is None:
            self._guard = self._furnish()
        self._guard.launch()

    def _furnish(self) -> Guard:
        java = str(kafka_files.java_home() / "bin" / "java")
        jars, storage = kafka_files.jars(), kafka_files.formatted(self.node_id)
        folder = Path(tempfile.mkdtemp(prefix="embedkq-kafka-"))
        main = ["kafka.Kafka", str(folder / "server.properties")]
        flags = [*kafka_files.JVM_FLAGS, *kafka_files.LOG_FLAGS]
        guard = Guard(folder, [java, *flags, "-cp", f"{jars}/*", *main])
        shutil.copytree(storage, folder / "data")
        (folder / "server.properties").write_text(
            self.layout.server_properties(
                self.node_id, data=str(folder / "data"), folder=str(folder)
            )
        )
        for name, content in self._files.items():
            (folder / name).write_bytes(content)
        return guard

    def _stop(self) -> None:
        assert self._guard
        self._guard.send(signal.SIGTERM)
        if not self._guard.wait_ended(STOP_TIMEOUT):
            self._guard.send(signal.SIGKILL)
            self._guard.wait_ended(STOP_TIMEOUT)
        wait_until_closed(self.hosts)

    def _kill(self) -> None:
        assert self._guard
        self._guard.send(signal.SIGKILL)
        self._guard.wait_ended(STOP_TIMEOUT)
        wait_until_closed(self.hosts)

    def _pause(self) -> None:
        assert self._guard
        self._guard.send(signal.SIGSTOP)

    def _resume(self) -> None:
        assert self._guard
        self._guard.send(signal.SIGCONT)

    def _close(self) -> None:
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _check_alive(self) -> None:
        if self._guard is not None and self._guard.wait_ended(0):
            self.running = False
            raise RuntimeError(f"Kafka ended at its start:\n{self.log()[-4000:]}")


class Guard:
    """The owner's side of guard.py's process mode."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        self._folder = folder
        self._pid: int | None = None
        self._heard = b""
        arguments = [sys.executable, str(GUARD), "process", str(os.getpid()), str(folder), *command]
        # A session of its own: Ctrl-C is for the tests, which then end their brokers in their own
        # order.
        self._guard = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )

    def launch(self) -> None:
        """Start the command."""
        assert self._guard.stdin
        self._guard.stdin.write(b"start\n")
        self._pid = int(self._hear(10.0).removeprefix("started "))

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command; one that has ended gets none."""
        if self._pid is not None and not self.wait_ended(0):
            os.kill(self._pid, number)

    def wait_ended(self, timeout: float) -> bool:
        """Whether the command has ended, now or within `timeout` seconds."""
        if self._pid is not None and self._hear(timeout).startswith("ended"):
            self._pid = None
        return self._pid is None

    def log(self) -> str:
        """What the command wrote."""
        path = self._folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """Have the guard end the command and remove the folder; returns when that is done."""
        assert self._guard.stdin and self._guard.stdout
        self._guard.stdin.close()
        self._guard.wait(STOP_TIMEOUT)
        self._guard.stdout.close()

    def _hear(self, timeout: float) -> str:
        """The guard's next line, or nothing after `timeout` seconds."""
        assert self._guard.stdout
        deadline = time.monotonic() + timeout
        while b"\n" not in self._heard:
            readable, _, _ = select.select(
                [self._guard.stdout], [], [], max(0.0, deadline - time.monotonic())
            )
            if not readable:
                return ""
            said = os.read(self._guard.stdout.fileno(), 4096)
            if not said:
                raise RuntimeError(f"the guard of {self._folder} has ended by itself")
            self._heard += said
        line, self._heard = self._heard.split(b"\n", 1)
        return line.decode()
