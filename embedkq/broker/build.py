"""Builds the development broker's program from the Go sources in `program/`, once per user."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from embedkq._safe_logging import SafeLogger

SOURCES = Path(__file__).with_name("program")
NAME = "embedkq-broker"
FLAGS = ("-trimpath", "-buildvcs=false", "-ldflags=-s -w")
_PROGRESS_SECONDS = 5.0
_LAST_LINES = 3

logger = SafeLogger("embedkq.broker")


class BuildFailed(RuntimeError):
    """Go could not build the program; the message has Go's last lines."""


@cache
def fingerprint() -> str:
    """A digest of the sources and of the module versions that they require: 16 hex digits."""
    digest = hashlib.sha256()
    sources = [path for path in SOURCES.glob("*.go") if not path.name.endswith("_test.go")]
    for path in sorted([*sources, SOURCES / "go.mod", SOURCES / "go.sum"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """The folder that holds builds: `embedkq` in XDG_CACHE_HOME or in the system's cache folder."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named) / "embedkq"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "embedkq"


def cached() -> Path | None:
    """An earlier build from the same sources for this machine, or None."""
    program = _place()
    return program if os.access(program, os.X_OK) else None


def build(go: str) -> Path:
    """Build the program with this `go`, or wait for another process that is building it. Any
    thread.

    Raises:
        BuildFailed: the program cannot be built or stored.
    """
    program = _place()
    try:
        program.parent.mkdir(parents=True, exist_ok=True)
        with _lock(program.with_suffix(".lock")):
            if (found := cached()) is not None:
                return found
            with tempfile.TemporaryDirectory(prefix="build-", dir=program.parent) as folder:
                draft = Path(folder) / NAME
                _compile(go, draft)
                draft.rename(program)
    except OSError as error:
        raise BuildFailed(
            f"cannot store the build in {program.parent} ({error}); set XDG_CACHE_HOME to another"
            " folder"
        ) from error
    return program


def compile_for(go: str, target: Path, system: str = "", machine: str = "") -> None:
    """Build the program into the file `target`, for this machine or for another one (in Go's names:
    linux, darwin; amd64, arm64).

    Raises:
        BuildFailed: Go failed.
    """
    _compile(go, target, {"GOOS": system, "GOARCH": machine} if system else {})


def _place() -> Path:
    return cache_folder() / f"{NAME}-{fingerprint()}-{sys.platform}-{platform.machine()}"


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process in at a time. The kernel releases the lock when its holder ends."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("Waiting for another process that is building the development broker ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(go: str, target: Path, settings: dict[str, str] | None = None) -> None:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("GOOS", "GOARCH", "GOBIN")
    }
    environment |= {
        "CGO_ENABLED": "0",
        "GOWORK": "off",
    }  # a static binary, and no Go workspace of the user's
    logger.info("Building the development broker with %s (once; takes about half a minute) ...", go)
    began = time.monotonic()
    process = subprocess.Popen(
        [go, "build", "-v", *FLAGS, "-o", str(target), "."],
        cwd=SOURCES,
        env=environment | (settings or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    last = _follow(process, began)
    if process.returncode:
        raise BuildFailed(
            f"{go} could not build it: {'; '.join(last) or f'status {process.returncode}'}"
        )
    logger.info("Built the development broker in %.0f s.", time.monotonic() - began)


def _follow(process: subprocess.Popen[str], began: float) -> list[str]:
    """Log Go's progress every few seconds until it ends. Returns its last lines that are not
    package names."""
    last: deque[str] = deque(maxlen=_LAST_LINES)
    compiled = 0
    said = began
    with process:
        for line in process.stdout or ():
            compiled += re.fullmatch(r"[\w./-]+\n", line) is not None
            if " " in line:
                last.append(line.strip())
            if time.monotonic() - said > _PROGRESS_SECONDS:
                said = time.monotonic()
                logger.info("... %.0f s, %d packages compiled", said - began, compiled)
    return list(last)
