"""Apache Kafka's own files in the cache folder: the jars from Maven, and freshly formatted storage.

The folder is `.cache` of the project, or EMBEDKQ_CACHE. What is in it is named after what it was
made from, made beside its final name and renamed, so sessions may share it and an interrupted one
leaves nothing half done in place.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from .base import Unavailable
from .layout import CLUSTER_ID, make_layout

POM = Path(__file__).with_name("pom.xml")
JAVA_MINIMUM = 17

#: A test broker lives for minutes and holds megabytes: it must start quickly and stay small.
JVM_FLAGS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xshare:auto",
    "-Xms64m",
    "-Xmx384m",
)
LOG_FLAGS = (
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)


def cache_folder() -> Path:
    """Where downloads are kept from one session to the next."""
    return Path(os.environ.get("EMBEDKQ_CACHE") or Path(__file__).parents[2] / ".cache").resolve()


def kafka_version() -> str:
    """The version that pom.xml names."""
    found = re.search(
        r"<artifactId>kafka_[\d.]+</artifactId>\s*<version>([^<]+)</version>", POM.read_text()
    )
    assert found
    return found[1]


def java_home() -> Path:
    """The folder of a Java that Kafka runs on: JAVA_HOME, else where `java` leads to; Unavailable
    when there is none."""
    named = os.environ.get("JAVA_HOME")
    program = str(Path(named) / "bin" / "java") if named else shutil.which("java")
    if not program or not os.access(program, os.X_OK):
        raise Unavailable(f"no java{f' in JAVA_HOME={named}' if named else ' on the PATH'}")
    told = subprocess.run(
        [program, "-XshowSettings:properties", "-version"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stderr
    version = re.search(r"java\.specification\.version = (\d+)", told)
    home = re.search(r"java\.home = (.+)", told)
    if not version or not home or int(version[1]) < JAVA_MINIMUM:
        raise Unavailable(f"{program} is older than Java {JAVA_MINIMUM}")
    return Path(home[1].strip())


def jars() -> Path:
    """The folder of Kafka's jars; the first call on a machine has Maven fetch them (44 MB)."""
    return _cached("jars", _fetch_jars)


def formatted(node_id: int) -> Path:
    """A folder of storage formatted for node `node_id`, to be copied; the first call runs Kafka's
    own tool."""
    return _cached(f"storage-{node_id}", lambda folder: _format(node_id, folder))


def cut_java(modules: str) -> Path:
    """A folder with a Java of these modules only, made by the jlink beside `java`; some 10 s at the
    first call."""
    home = java_home()
    release = hashlib.sha256((home / "release").read_bytes() + modules.encode()).hexdigest()[:12]
    return _cached(f"java-{release}", lambda folder: _cut(home, modules, folder))


def _cut(home: Path, modules: str, folder: Path) -> None:
    jlink = home / "bin" / "jlink"
    if not jlink.exists():
        raise Unavailable(f"no jlink in {home}: it is part of the JDK")
    options = ["--no-header-files", "--no-man-pages", "--strip-debug", "--compress=0"]
    draft = folder / "java"
    subprocess.run(
        [str(jlink), "--add-modules", modules, *options, "--output", str(draft)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    # Without an archive of the base classes each start takes half a second longer.
    subprocess.run(
        [str(draft / "bin" / "java"), "-Xshare:dump"], check=True, capture_output=True, timeout=120
    )
    for path in draft.iterdir():
        path.rename(folder / path.name)
    draft.rmdir()


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:12]
    final = cache_folder() / f"kafka-{kafka_version()}-{digest}" / name
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=final.parent))
    try:
        make(draft)
        try:
            draft.rename(final)
        except OSError:
            if (
                not final.is_dir()
            ):  # another session may have been quicker: then its folder is as good
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return final


def _fetch_jars(folder: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable(f"no mvn on the PATH, and no jars in {cache_folder()}")
    command = [
        maven,
        "-q",
        "-B",
        "-f",
        str(POM),
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
    ]
    done = subprocess.run(
        [*command, f"-DoutputDirectory={folder}"],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=folder,
    )
    if done.returncode:
        raise Unavailable(
            f"Maven could not fetch Kafka's jars: {(done.stdout + done.stderr).strip()[-2000:]}"
        )


def _format(node_id: int, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="embedkq-format-") as place:
        properties = Path(place) / "server.properties"
        # Only the node's number and the cluster's identity go into the storage, not where anybody
        # listens.
        properties.write_text(
            make_layout(max(node_id, 1)).server_properties(node_id, data=str(folder), folder=place)
        )
        tool = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(properties)]
        subprocess.run(
            [str(java_home() / "bin" / "java"), *JVM_FLAGS, "-cp", f"{jars()}/*", *tool],
            check=True,
            capture_output=True,
            timeout=120,
        )
