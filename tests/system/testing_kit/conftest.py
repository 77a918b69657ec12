"""Projects that use the fixtures of `embedkq.pytest_plugin`, tested by a pytest of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from support import HANG_SECONDS, ROOT

JOBS = """
import os, signal, time

def square(number): return number * number
def hang(): time.sleep(3600)
def crash(): os.kill(os.getpid(), signal.SIGKILL)
def fail(text): raise LookupError(text)
def variable(name): return os.environ.get(name)
def pid(): return os.getpid()
"""


class Project:
    """A folder with tests of an application, and what pytest says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self.write("jobs.py", JOBS)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]

    def run(self, text: str, *arguments: str, **environment: str) -> Ran:
        """Run pytest on a module with this text."""
        self.write("test_app.py", text)
        return self.pytest(*arguments, environment=environment)

    def pytest(self, *arguments: str, environment: Mapping[str, str] = {}) -> Ran:
        done = subprocess.run(
            self.command("-ra", *arguments),
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
            check=False,
        )
        return Ran(done.stdout + done.stderr)


class Ran:
    """What a run of pytest has printed."""

    def __init__(self, output: str) -> None:
        self.output = output

    def check(self, **expected: int) -> str:
        """So many have passed, failed and so on, and no others; the output."""
        line = next(
            (line for line in reversed(self.output.splitlines()) if " in " in line and "=" in line),
            "",
        )
        found = {
            word.strip(",").rstrip("s"): int(number)
            for number, word in zip(line.split(), line.split()[1:])
            if number.isdigit() and word.strip(",") not in ("warning", "warnings")
        }
        assert found == expected, self.output
        return self.output


@pytest.fixture
def project(embedded_broker_program: None, tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder)
