"""What goes wrong: hosts that die, freeze, join and leave; a broker that dies or freezes; partitions that are added."""
from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from brokers import Broker
from kafka import KafkaAdminClient

ROOT = Path(__file__).parents[2]
MOST_HOSTS, FEWEST_HOSTS = 4, 2
MOST_PARTITIONS = 16


class Event(NamedTuple):
    """A fault, from its beginning to when its cause is gone; `host` is empty where all are concerned."""

    kind: str
    host: str
    begin: float
    end: float


class Theatre:
    """The hosts and the broker, and what has been done to them."""

    def __init__(self, broker: Broker, topic: str, group: str, folder: Path, seed: int, partitions: int) -> None:
        self.events: list[Event] = []
        self.failed: list[str] = []
        """Hosts that ended by themselves."""
        self._broker, self._topic, self._group, self._folder = broker, topic, group, folder
        self._random = random.Random(seed)
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        self._leaving: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self._partitions = partitions

    def start_host(self) -> None:
        """One more process with a worker."""
        self._started += 1
        name = f"host-{self._started}"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
        arguments = [sys.executable, "-m", "chaos.host", self._broker.hosts, self._topic, self._group, str(self._folder), name]
        with (self._folder / f"{name}.out").open("wb") as out:
            self._hosts[name] = subprocess.Popen(arguments, env=environment, stdout=out, stderr=out)

    def one_fault(self) -> str:
        """Bring about a fault, wait until its cause is gone; what it was."""
        kinds: list[tuple[Callable[[], None], int]] = [
            (self.kill_host, 4), (self.freeze_host, 2), (self.join, 4), (self.leave, 4),
            (self.kill_broker, 2), (self.freeze_broker, 1), (self.add_partition, 2),
        ]
        possible = [(fault, weight) for fault, weight in kinds if self._is_possible(fault)]
        fault = self._random.choices([fault for fault, _ in possible], [weight for _, weight in possible])[0]
        fault()
        self._look_after_hosts()
        return fault.__name__

    def _is_possible(self, fault: Callable[[], None]) -> bool:
        return {
            self.join: len(self._hosts) < MOST_HOSTS,
            self.leave: len(self._hosts) > FEWEST_HOSTS,
            self.add_partition: self._partitions < MOST_PARTITIONS,
        }.get(fault, True)

    def kill_host(self) -> None:
        name = self._pick()
        began = time.monotonic()
        process = self._hosts.pop(name)
        process.kill()
        process.wait()
        self._note("kill_host", name, began)
        self.start_host()

    def freeze_host(self) -> None:
        name, began = self._pick(), time.monotonic()
        process = self._hosts[name]
        process.send_signal(signal.SIGSTOP)
        time.sleep(self._random.uniform(1, 10))  # the session lasts 6 s
        process.send_signal(signal.SIGCONT)
        self._note("freeze_host", name, began)

    def join(self) -> None:
        began = time.monotonic()
        self.start_host()
        self._note("join", "", began)

    def leave(self) -> None:
        name, began = self._pick(), time.monotonic()
        process = self._hosts.pop(name)
        process.terminate()
        self._leaving[name] = process
        self._note("leave", name, began)

    def kill_broker(self) -> None:
        began = time.monotonic()
        self._broker.kill()
        time.sleep(self._random.uniform(0, 3))
        self._broker.start()
        self._note("kill_broker", "", began)

    def freeze_broker(self) -> None:
        began = time.monotonic()
        self._broker.pause()
        time.sleep(self._random.uniform(1, 20))
        self._broker.resume()
        self._note("freeze_broker", "", began)

    def add_partition(self) -> None:
        began = time.monotonic()
        admin = KafkaAdminClient(bootstrap_servers=self._broker.hosts)
        try:
            admin.create_partitions({self._topic: self._partitions + 1})
            self._partitions += 1
        finally:
            admin.close()
        self._note("add_partition", "", began)

    def end(self, patience: float = 60) -> None:
        """Ask all hosts to leave, and wait until they have."""
        for process in self._hosts.values():
            process.terminate()
        self._leaving.update(self._hosts)
        self._hosts.clear()
        deadline = time.monotonic() + patience
        for name, process in self._leaving.items():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                self.failed.append(f"{name} did not end")
            if process.returncode:
                self.failed.append(f"{name} ended with {process.returncode}")

    def kill_all(self) -> None:
        """However it ends, nothing is left behind."""
        for process in (*self._hosts.values(), *self._leaving.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def _look_after_hosts(self) -> None:
        for name, process in list(self._hosts.items()):
            if process.poll() is not None:
                self.failed.append(f"{name} ended with {process.returncode}")
                del self._hosts[name]
                self.start_host()

    def _pick(self) -> str:
        return self._random.choice(sorted(self._hosts))

    def _note(self, kind: str, host: str, began: float) -> None:
        self.events.append(Event(kind, host, began, time.monotonic()))


