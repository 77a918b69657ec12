"""Apache Kafka in a container, through the docker SDK."""

from __future__ import annotations

import functools
import io
import os
import socket
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import docker

from .base import ABILITIES, STOP_TIMEOUT, Broker, Unavailable, wait_until_closed
from .image import Image, add_bytes, find_image
from .layout import Layout, make_layout

GUARD = Path(__file__).with_name("guard.py")
OWNER = "embedkq.owner"


class DockerKafka(Broker):
    """One container as broker and controller, or one node of a cluster of them; loopback ports
    only."""

    kind = "docker"
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
        self.layout = layout or make_layout(
            bridged=has_bridge(), names=("localhost",), listeners=listeners, properties=properties
        )
        self.hosts = self.layout.places[node_id - 1].hosts
        self._files = dict(files or {})
        self._container: Any = None

    @staticmethod
    def prepare() -> str:
        """Make sure that it can run here, pulling or making the image; returns what it is; raises
        Unavailable."""
        remove_orphans()
        return f"Apache Kafka in Docker ({image().name})"

    @property
    def description(self) -> str:
        return f"Apache Kafka in Docker ({image().name})"

    def address(self, listener: str = "PLAINTEXT") -> str:
        return f"127.0.0.1:{self.layout.places[self.node_id - 1].ports[listener]}"

    def log(self) -> str:
        """What the container wrote so far."""
        return self._container.logs().decode(errors="replace") if self._container else ""

    def _start(self) -> None:
        if self._container is None:
            self._container = self._create()
        self._container.start()

    def _create(self) -> Any:
        made = image()
        labels = {OWNER: start_guard()}
        container = engine().containers.create(
            made.name, entrypoint=made.command()[:1], command=made.command()[1:], environment=made.environment(),
            labels=labels, user="0", **self._network(labels),
        )  # fmt: skip
        properties = self.layout.server_properties(
            self.node_id, data=made.data_folder(self.node_id), folder=made.folder
        )
        files = {**self._files, "server.properties": properties.encode()}
        container.put_archive(
            "/", _archive({f"{made.folder.lstrip('/')}/{name}": files[name] for name in files})
        )
        return container

    def _network(self, labels: dict[str, str]) -> dict[str, Any]:
        """How the container is reached: by the host's own loopback interface, or by ports published
        on it."""
        if not self.layout.bridged:
            return {"network_mode": "host"}
        place = self.layout.places[self.node_id - 1]
        published = {
            name: port
            for name, port in place.ports.items()
            if name not in ("CONTROLLER", "INTERNAL")
        }
        options: dict[str, Any] = {
            "ports": {f"{port}/tcp": ("127.0.0.1", port) for port in published.values()}
        }
        if len(self.layout.places) > 1:
            network = place.name.rpartition("-")[0]
            if not engine().networks.list(names=[network]):
                engine().networks.create(network, labels=labels)
            options |= {"network": network, "name": place.name}
        return options

    def _stop(self) -> None:
        self._container.stop(timeout=int(STOP_TIMEOUT))
        wait_until_closed(self.hosts)

    def _kill(self) -> None:
        if self.paused:
            # A frozen container cannot die, and engines refuse to try.
            self._container.unpause()
        self._container.kill()
        self._container.wait(timeout=STOP_TIMEOUT)
        wait_until_closed(self.hosts)

    def _pause(self) -> None:
        self._container.pause()

    def _resume(self) -> None:
        self._container.unpause()

    def _close(self) -> None:
        if self._container is None:
            return
        _remove(self._container)
        self._container = None
        if self.layout.bridged and len(self.layout.places) > 1:
            network = self.layout.places[0].name.rpartition("-")[0]
            for found in engine().networks.list(names=[network], greedy=True):
                if not found.containers:
                    found.remove()

    def _check_alive(self) -> None:
        if self._container is None:
            return
        self._container.reload()
        if self._container.status in ("exited", "dead"):
            self.running = False
            raise RuntimeError(f"Kafka's container ended at its start:\n{self.log()[-4000:]}")


def node_names(size: int) -> tuple[str, ...]:
    """Container names for a cluster, `NETWORK-NODE`, that no other session uses."""
    network = f"embedkq-{uuid.uuid4().hex[:8]}"
    return tuple(f"{network}-{node_id}" for node_id in range(1, size + 1))


@functools.cache
def engine() -> docker.DockerClient:
    """The engine that DOCKER_HOST names, or the local one; Unavailable when none answers."""
    try:
        client = docker.from_env(timeout=300)
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        raise Unavailable(
            f"no Docker engine answers at {os.environ.get('DOCKER_HOST', 'its usual place')}: {error}"
        ) from error
    return client


@functools.cache
def image() -> Image:
    """See `find_image`; looked for once a session."""
    return find_image(engine())


@functools.cache
def has_bridge() -> bool:
    """Whether this engine can publish ports; one started with --bridge=none has the host's network
    only."""
    return any(network.name == "bridge" for network in engine().networks.list())


@functools.cache
def start_guard() -> str:
    """Start this session's guard before its first container; returns the value of the owner's
    label."""
    owner = f"{socket.gethostname()}/{os.getpid()}/{started_at(os.getpid())}"
    arguments = [sys.executable, str(GUARD), "containers", str(os.getpid()), f"{OWNER}={owner}"]
    # The pipe stays open for as long as this process lives: its end is what the guard waits for.
    guard = subprocess.Popen(arguments, stdin=subprocess.PIPE, cwd="/", start_new_session=True)
    _guards.append(guard)
    return owner


_guards: list[subprocess.Popen[bytes]] = []


def end_guard() -> None:
    """At the session's end: have the guard remove what may be left, and wait for it."""
    for guard in _guards:
        assert guard.stdin
        guard.stdin.close()
        guard.wait(60)
    _guards.clear()
    start_guard.cache_clear()


def started_at(pid: int) -> str:
    """When a process began, in the kernel's ticks: process ids are used again. Empty where there is
    none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def remove_orphans() -> None:
    """Remove the containers of sessions on this machine that were killed together with their
    guard."""
    for container in engine().containers.list(
        all=True, filters={"label": OWNER}, ignore_removed=True
    ):
        host, pid, started = container.labels[OWNER].rsplit("/", 2)
        if host == socket.gethostname() and started_at(int(pid)) != started:
            _remove(container)
    for network in engine().networks.list(filters={"label": OWNER}, greedy=True):
        host, pid, started = network.attrs["Labels"][OWNER].rsplit("/", 2)
        if (
            host == socket.gethostname()
            and started_at(int(pid)) != started
            and not network.containers
        ):
            network.remove()


def _remove(container: Any) -> None:
    try:
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        pass


def _archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            add_bytes(archive, name, content)
    return buffer.getvalue()
