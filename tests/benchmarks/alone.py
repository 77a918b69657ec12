"""Runs a function of this package in a fresh Python process: no thread, garbage or import of
another trial is there."""

from __future__ import annotations

import ctypes
import importlib
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

LIMIT_SECONDS = 900.0
_DIE_WITH_PARENT = 1


class Alone:
    """A function under way in a process of its own. Arguments and result go as JSON."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        self._name = f"{function.__module__}:{function.__qualname__}"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `__exit__`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.alone", self._name, json.dumps([arguments, options])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_ready(self) -> Any:
        """Until it has called `say_ready`; what it said."""
        return self._hear()

    def go_on(self) -> None:
        """End its `await_word`."""
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def result(self, seconds: float = LIMIT_SECONDS) -> Any:
        """Wait for its end.

        Raises:
            RuntimeError: it raised; the text ends with what it wrote.
            subprocess.TimeoutExpired: it took longer.
        """
        try:
            output, _ = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        return self._read(output.splitlines()[-1] if output else b"")

    def _hear(self) -> Any:
        assert self._process.stdout
        return self._read(self._process.stdout.readline())

    def _read(self, line: bytes) -> Any:
        if not line or self._process.poll():
            self._process.wait(LIMIT_SECONDS)
            self._errors.seek(0)
            raise RuntimeError(
                f"{self._name} ended with {self._process.returncode}:\n{self._errors.read().decode()[-4000:]}"
            )
        return json.loads(line)


def alone(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function in a process of its own and wait for what it returns."""
    with Alone(function, *arguments, **options) as process:
        return process.result()


def say_ready(what: Any = None) -> None:
    """In such a process: tell who waits in `await_ready`."""
    print(json.dumps(what), flush=True)


def await_word() -> None:
    """In such a process: until `go_on`, or until who started it has gone."""
    sys.stdin.readline()


def main(name: str, text: str) -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)  # some of them would go on for ever
    module, _, function = name.partition(":")
    arguments, options = json.loads(text)
    print(
        json.dumps(getattr(importlib.import_module(module), function)(*arguments, **options)),
        flush=True,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
