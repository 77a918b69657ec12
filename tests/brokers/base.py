"""What every broker for tests can be asked, and how long it may take.

    Broker
    ├── ExistingHosts   EMBEDKQ_TEST_HOSTS: somebody else's, so neither started nor stopped    existing.py
    ├── DockerKafka     Apache Kafka in a container                                            containers.py
    ├── KafkaJars       Apache Kafka from its Maven jars, a JVM of our own                     jars.py
    └── Embedded        the development broker that embedkq ships                              embedded.py

`Cluster` (cluster.py) makes three of the second or third act as one.
"""

from __future__ import annotations

import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from kafka import KafkaAdminClient
from kafka.errors import KafkaError

READY_TIMEOUT = 60.0
STOP_TIMEOUT = 20.0
#: What not every kind can do. keeps_data: also over `kill`; quick_sessions: give up dead members within a second; properties: take
#: server properties; listeners: take further ones, so TLS and SASL; compression: compress records as a topic's `compression.type` says.
ABILITIES = frozenset(
    {
        "stop",
        "kill",
        "pause",
        "keeps_data",
        "quick_sessions",
        "properties",
        "listeners",
        "cluster",
        "compression",
    }
)


class Cannot(RuntimeError):
    """This kind of broker has no such ability; `needs` markers keep tests from asking."""


class Unavailable(RuntimeError):
    """This kind of broker cannot be had on this machine; the text says what is missing."""


class Broker(ABC):
    """One broker. Not thread-safe; a forked copy of it does nothing, so that only its maker ends
    it.

    After `kill` or `stop`, `start` brings it back on the same address, with the same data where
    `keeps_data`.
    """

    kind: ClassVar[str]
    #: Some of `ABILITIES`.
    capabilities: ClassVar[frozenset[str]]
    #: Comma-separated host:port, what a client is given; valid from construction on.
    hosts: str

    def __init__(self) -> None:
        self._maker = os.getpid()
        self.running = False
        self.paused = False

    @property
    def keeps_data(self) -> bool:
        """Whether records and offsets survive `kill` and `stop`."""
        return "keeps_data" in self.capabilities

    @property
    def description(self) -> str:
        """For the summary of a test run: what the tests really ran on."""
        return self.kind

    def start(self, *, wait: bool = True) -> None:
        """Start it, or start it again; returns when it answers.

        Args:
            wait: False returns at once, for a node whose cluster has no majority yet.

        Raises:
            RuntimeError: it ended, or did not answer in `READY_TIMEOUT`; the text ends with its
                log.
        """
        if not self.running:
            self._start()
            self.running = True
        if wait:
            self.wait_ready()

    def stop(self) -> None:
        """End it in an orderly way; the port is closed on return. Nothing to do when it does not
        run."""
        if self.paused:
            self.resume()
        if self.running:
            self._stop()
            self.running = False

    def kill(self) -> None:
        """End it as SIGKILL does, in whatever state; the port is closed on return."""
        if self.running:
            self._kill()
            self.running = self.paused = False

    def wipe(self) -> None:
        """End it as `kill` does, and forget all that it held: `start` brings it back empty, on the
        same address."""
        self.kill()
        self._close()

    def pause(self) -> None:
        """Freeze it as SIGSTOP does: its port takes connections, nothing answers."""
        self._pause()
        self.paused = True

    def resume(self) -> None:
        """Let a paused broker go on."""
        self._resume()
        self.paused = False

    def close(self) -> None:
        """End it for good and remove what it left on disk. May be called again."""
        if os.getpid() == self._maker:
            self._close()
            self.running = self.paused = False

    def heal(self) -> None:
        """Bring it back into the state in which a test expects it, whatever the last one did."""
        if self.paused:
            self.resume()
        if not self.running:
            self.start()

    def address(self, listener: str = "PLAINTEXT") -> str:
        """host:port of a listener."""
        if listener != "PLAINTEXT":
            raise Cannot(f"{self.kind} has no listener {listener}")
        return self.hosts

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Return once the broker answers and has joined its cluster."""
        wait_until_answers(self.hosts, self._check_alive, timeout)

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cannot(self) -> Cannot:
        return Cannot(
            f"{self.kind} cannot do this; it can: {', '.join(sorted(self.capabilities)) or 'nothing'}"
        )

    @staticmethod
    def prepare() -> str:
        """Make sure that this kind can run here, fetching what it needs; returns what it is; raises
        Unavailable."""
        raise NotImplementedError

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None: ...

    @abstractmethod
    def _kill(self) -> None: ...

    @abstractmethod
    def _pause(self) -> None: ...

    @abstractmethod
    def _resume(self) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...

    def _check_alive(self) -> None:
        """Raise with the log's end when it has ended by itself."""


def wait_until_answers(hosts: str, check_alive: Callable[[], None], timeout: float) -> None:
    """Return once a client gets `hosts`' own broker listed in the metadata; RuntimeError after
    `timeout` seconds."""
    deadline = time.monotonic() + timeout
    reason: BaseException | None = None
    while time.monotonic() < deadline:
        check_alive()
        try:
            if _lists_itself(hosts, deadline - time.monotonic()):
                return
        except (OSError, KafkaError) as error:
            reason = error
        time.sleep(0.05)
    raise RuntimeError(f"broker at {hosts} did not answer within {timeout:g} s: {reason!r}")


def _lists_itself(hosts: str, timeout: float) -> bool:
    """Whether each of `hosts` takes connections and is listed as taking part.

    The bare connection comes first: a Kafka client that meets a closed port backs off for longer
    than a broker takes.
    """
    for address in hosts.split(","):
        host, port = address.rsplit(":", 1)
        socket.create_connection((host, int(port)), timeout=1).close()
    milliseconds = max(500, min(5000, int(timeout * 1000)))
    admin = KafkaAdminClient(
        bootstrap_servers=hosts, bootstrap_timeout_ms=milliseconds, request_timeout_ms=milliseconds
    )
    try:
        nodes = admin.describe_cluster()["brokers"]
        listed = {f"{node['host']}:{node['port']}" for node in nodes if not node.get("is_fenced")}
    finally:
        admin.close()
    return set(hosts.split(",")) <= listed


def wait_until_closed(hosts: str, timeout: float = STOP_TIMEOUT) -> None:
    """Return once nothing listens on any of `hosts`; RuntimeError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    for address in hosts.split(","):
        while is_open(address):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{address} is still open {timeout:g} s after its broker's end")
            time.sleep(0.02)


def is_open(address: str) -> bool:
    """Whether something takes connections at host:port."""
    host, port = address.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
