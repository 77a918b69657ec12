"""Programs that tests run as a user would: started, talked to, ended by a signal, with nothing left
of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import psutil
from gunicorn.config import KNOWN_SETTINGS
from support import HANG_SECONDS, ROOT, wait_until

KQ = str(Path(sys.executable).with_name("kq"))
STOP_SECONDS = 5.0
"""What issue 3 promises of Flask under Gunicorn: so long after SIGTERM nothing is left."""
NO_CONTROL_SOCKET = (
    ["--no-control-socket"]
    if any("--no-control-socket" in (known.cli or ()) for known in KNOWN_SETTINGS)
    else []
)
"""Newer Gunicorns leave a socket in the user's home folder."""
_ADDRESS = re.compile(r"(?:Listening at:|[Rr]unning on) (http://127\.0\.0\.1:\d+)")


class Programs:
    """Starts programs in one folder, with what they print in one file there; leaving the `with`
    block kills what is left of them."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self._log = folder / "log"
        self._log.touch()
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            if process.poll() is None:
                for one in family(process):
                    _kill(one)
            process.wait(HANG_SECONDS)

    @property
    def log(self) -> str:
        """What all of them have printed so far."""
        return self._log.read_text()

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a program to its end, which must be a good one without a word on stderr; what it
        printed."""
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        assert done.returncode == 0 and not done.stderr, f"status {done.returncode}: {done.stderr}"
        return done.stdout

    def start(self, *command: str, cwd: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a program that does not end by itself."""
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                command,
                cwd=cwd or self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_hear_signals,
            )
        self._started.append(process)
        return process

    def start_web(
        self, *command: str, cwd: Path | None = None
    ) -> tuple[subprocess.Popen[bytes], str]:
        """Start a web server on a port that it chooses; the process, and its address."""
        before = len(self.log)
        process = self.start(*command, cwd=cwd)
        found = wait_until(
            lambda: process.poll() is not None or _ADDRESS.search(self.log, before),
            "the server listens",
        )
        assert found is not True, self.log
        return process, found.group(1)

    def start_gunicorn(
        self, app: str, workers: int, kind: str, *more: str, cwd: Path | None = None
    ) -> tuple[subprocess.Popen[bytes], str]:
        """Start Gunicorn; the process, and its address."""
        options = ("-w", str(workers), "-k", kind, "-b", "127.0.0.1:0", *NO_CONTROL_SOCKET, *more)
        return self.start_web(sys.executable, "-m", "gunicorn", *options, app, cwd=cwd)


def _hear_signals() -> None:
    # A shell starts what it runs in the background deaf to SIGINT, and that is inherited.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The process and all its descendants."""
    head = psutil.Process(process.pid)
    return [head, *head.children(recursive=True)]


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass


def end(
    process: subprocess.Popen[bytes],
    how: signal.Signals,
    within: float = STOP_SECONDS,
    status: int = 0,
) -> None:
    """Send the signal; all of the process's family must be gone in time, and the process itself
    have ended well."""
    everyone = family(process)
    assert len(everyone) > 1, "it has no child processes"
    began = time.monotonic()
    process.send_signal(how)
    ended_with = process.wait(HANG_SECONDS)
    _, alive = psutil.wait_procs(everyone, max(0.0, began + within - time.monotonic()))
    took = time.monotonic() - began
    assert not alive and took < within, f"{took:.1f} s after {how.name}: {alive} are left"
    assert ended_with == status


def request(url: str, method: str = "GET") -> str:
    """What a web server answers."""
    with urllib.request.urlopen(
        urllib.request.Request(url, method=method), timeout=HANG_SECONDS
    ) as answer:
        return str(answer.read().decode())
