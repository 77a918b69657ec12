"""The command line as its users run it: `kq`, or `python -m embedkq`, as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType

import psutil
from support import HANG_SECONDS, ROOT, lines, wait_until

MODULE = (sys.executable, "-m", "embedkq")
SCRIPT = (str(Path(sys.executable).with_name("kq")),)
_PATH = os.pathsep.join([str(ROOT), str(ROOT / "tests")])


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a program starts with: nothing of this machine's EMBEDKQ_..., and the tests' jobs can be
    imported."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("EMBEDKQ_") and name != "COLUMNS"
    }
    return {
        **kept,
        "PYTHONPATH": _PATH,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        **(more or {}),
    }


def run(
    *arguments: str,
    program: Iterable[str] = MODULE,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Ended:
    """Run the command line to its end."""
    began = time.monotonic()
    done = subprocess.run(
        [*program, *arguments],
        cwd=cwd,
        env=environment(env),
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr, time.monotonic() - began)


class Ended:
    """How a program ended: exit status, what it wrote, and how many seconds it took."""

    def __init__(self, status: int, out: str, err: str, seconds: float) -> None:
        self.status = status
        self.out = out
        self.err = err
        self.seconds = seconds

    def __repr__(self) -> str:
        return f"status {self.status} after {self.seconds:.1f} s, stdout:\n{self.out}\nstderr:\n{self.err}"


class Program:
    """The command line while it runs, in a session of its own. Leaving the `with` block kills what
    is left of it.

    Attributes:
        pid: its process id, also that of its process group.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        program: Iterable[str] = MODULE,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        number = len(list(folder.glob("program*.out")))
        self._paths = folder / f"program{number}.out", folder / f"program{number}.err"
        self._began = time.monotonic()
        with self._paths[0].open("wb") as out, self._paths[1].open("wb") as err:
            self._process = subprocess.Popen(
                [*program, *arguments],
                cwd=cwd or folder,
                env=environment(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
                preexec_fn=_hear_signals,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            for process in self.family():
                _kill(process)
            self._process.wait(HANG_SECONDS)
        if kind is not None:
            print(f"stdout: {self.out}\nstderr: {self.err}")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def out(self) -> list[str]:
        """Lines written to stdout so far."""
        return lines(self._paths[0])

    @property
    def err(self) -> list[str]:
        """Lines written to stderr so far."""
        return lines(self._paths[1])

    def says(self, text: str) -> None:
        """Wait until a line with this text was written."""
        wait_until(
            lambda: any(text in line for line in [*self.out, *self.err]) or not self.running,
            f"{text!r} is written",
        )
        assert any(text in line for line in [*self.out, *self.err]), (
            f"ended without {text!r}: {self.out} {self.err}"
        )

    def family(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        head = psutil.Process(self.pid)
        return [head, *head.children(recursive=True)]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def send_to_all(self, number: signal.Signals) -> None:
        """To each process, as a service manager does."""
        for process in self.family():
            process.send_signal(number)

    def send_to_group(self, number: signal.Signals) -> None:
        """To the process group, as a terminal does."""
        os.killpg(self.pid, number)

    def end(self) -> Ended:
        """Wait for its end."""
        status = self._process.wait(HANG_SECONDS)
        return Ended(
            status,
            self._paths[0].read_text(),
            self._paths[1].read_text(),
            time.monotonic() - self._began,
        )


def _hear_signals() -> None:
    # A shell starts what it runs in the background deaf to SIGINT, and that is inherited.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        pass
