"""The image that containers are made from: apache/kafka where it can be had, else one made here
from jars and jlink."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import docker
import requests

from . import kafka_files
from .base import Unavailable

DOCKERFILE = Path(__file__).with_name("Dockerfile")
NODES = (1, 2, 3)
#: What Kafka needs of Java; the whole of it would be 300 MB.
MODULES = "java.se,jdk.crypto.ec,jdk.unsupported,jdk.zipfs,jdk.management"
#: Libraries of Java's that draw and sound: nothing loads them, and what they need is large.
UNUSED = re.compile(r"lib(awt|font|splash|jsound|lcms|mlib|javajpeg|freetype|jawt)")


@dataclass(frozen=True)
class Image:
    """An image and how Kafka is started in it."""

    name: str
    #: Where `server.properties` and the listeners' files are put.
    folder: str
    #: Where the storage is, for node N.
    data: str
    official: bool

    def command(self) -> list[str]:
        """The container's whole command line."""
        if not self.official:
            flags = [*kafka_files.JVM_FLAGS, *kafka_files.LOG_FLAGS, "-cp", "/kafka/jars/*"]
            return ["/java/bin/java", *flags, "kafka.Kafka", f"{self.folder}/server.properties"]
        script = (
            f"/opt/kafka/bin/kafka-storage.sh format --ignore-formatted -t {kafka_files.CLUSTER_ID}"
            f" -c {self.folder}/server.properties && exec /opt/kafka/bin/kafka-server-start.sh {self.folder}/server.properties"
        )
        return ["/bin/bash", "-c", script]

    def environment(self) -> dict[str, str]:
        """For the scripts of the official image."""
        if not self.official:
            return {}
        return {
            "KAFKA_HEAP_OPTS": "-Xms64m -Xmx384m",
            "KAFKA_JVM_PERFORMANCE_OPTS": " ".join(kafka_files.JVM_FLAGS[:3]),
        }

    def data_folder(self, node_id: int) -> str:
        """The storage of a node."""
        return self.data.format(node_id=node_id)


def find_image(client: docker.DockerClient) -> Image:
    """The first that is there, can be pulled, or can be made; Unavailable when none of these works.

    EMBEDKQ_TEST_IMAGE names another image of the apache/kafka family, or `own` for the one made
    here.
    """
    wanted = os.environ.get("EMBEDKQ_TEST_IMAGE", "")
    reason = ""
    if wanted != "own":
        name = wanted or f"apache/kafka:{kafka_files.kafka_version()}"
        official = Image(name, "/tmp/embedkq", "/tmp/embedkq-data", official=True)
        if _is_local(client, name):
            return official
        own = None if wanted else _own(client)
        if own is not None:
            return own
        reason = _pull(client, name)
        if not reason:
            return official
        if wanted:
            raise Unavailable(f"EMBEDKQ_TEST_IMAGE={wanted} cannot be pulled: {reason}")
    try:
        return _own(client) or _make(client)
    except Unavailable as error:
        raise Unavailable(
            f"{error}; and apache/kafka cannot be pulled: {reason or 'not tried'}"
        ) from error


def _is_local(client: docker.DockerClient, name: str) -> bool:
    try:
        client.images.get(name)
    except docker.errors.ImageNotFound:
        return False
    return True


def _pull(client: docker.DockerClient, name: str) -> str:
    """Empty when it worked, else why it did not."""
    repository, _, tag = name.partition(":")
    try:
        client.images.pull(repository, tag=tag or "latest")
    except (docker.errors.APIError, requests.RequestException) as error:
        return str(error)
    return ""


def _own_image() -> Image:
    return Image(
        f"embedkq-kafka:{kafka_files.kafka_version()}-{_digest()}",
        "/kafka/config",
        "/kafka/node-{node_id}",
        False,
    )


def _own(client: docker.DockerClient) -> Image | None:
    image = _own_image()
    return image if _is_local(client, image.name) else None


def _digest() -> str:
    sources = (kafka_files.POM, DOCKERFILE, Path(__file__), Path(kafka_files.__file__))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


def _make(client: docker.DockerClient) -> Image:
    """Build the image; the engine gets everything in one archive, so it may be on another
    machine."""
    machine = client.version()["Arch"]
    if (
        not sys.platform.startswith("linux")
        or {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine()) != machine
    ):
        raise Unavailable(
            f"an image for linux/{machine} cannot be made on {sys.platform}/{platform.machine()}"
        )
    image = _own_image()
    with tempfile.TemporaryFile(prefix="embedkq-image-") as context:
        with tarfile.open(fileobj=context, mode="w") as archive:
            archive.add(DOCKERFILE, "Dockerfile")
            _add_root(archive)
        context.seek(0)
        client.images.build(
            fileobj=context, custom_context=True, tag=image.name, rm=True, forcerm=True
        )
    return image


def _add_root(archive: tarfile.TarFile) -> None:
    java = kafka_files.cut_java(MODULES)
    archive.add(java, "root/java")
    for library in _libraries(java):
        # Follow links: the loader looks for the name that ldd printed.
        archive.add(os.path.realpath(library), f"root{library}")
    archive.add(kafka_files.jars(), "root/kafka/jars")
    for node_id in NODES:
        archive.add(kafka_files.formatted(node_id), f"root/kafka/node-{node_id}")
    _add_folder(archive, "root/tmp", 0o1777)
    _add_folder(archive, "root/kafka/config", 0o755)
    add_bytes(archive, "root/etc/passwd", b"root:x:0:0:root:/:/java/bin/java\n")


def _libraries(java: Path) -> list[str]:
    """Absolute paths, as the loader looks for them, of every library that Java needs."""
    programs = [
        java / "bin" / "java",
        *(path for path in java.rglob("*.so") if not UNUSED.match(path.name)),
    ]
    told = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, timeout=60, check=False
    ).stdout
    found = {path for path in re.findall(r"(/\S+) \(0x", told) if not path.startswith(str(java))}
    # What is loaded at run time is not listed: how names are looked up (part of libc itself since
    # glibc 2.34), and what the codec zstd, which Kafka's jar unpacks and loads, was linked with.
    for path in sorted(found):
        for name in ("libnss_files.so.2", "libnss_dns.so.2", "libpthread.so.0"):
            beside = os.path.join(os.path.dirname(path), name)
            if os.path.exists(beside):
                found.add(beside)
    return sorted(found)


def _add_folder(archive: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)


def add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a file that exists in memory only."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))
