"""The development broker as a child process of this one."""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path

from embedkq._safe_logging import SafeLogger
from embedkq.broker.errors import BrokerFailed, BrokerMissing
from embedkq.broker.finder import find_program

START_SECONDS = 10.0
_END_SECONDS = 5.0
_TAIL_LINES = 20
_REFUSED = 1
_WILDCARDS = ("0.0.0.0", "::")

__all__ = ["BrokerFailed", "BrokerMissing", "EmbeddedBroker"]

logger = SafeLogger("embedkq.broker")


class EmbeddedBroker:
    """A broker process on this machine. It ends with this process, even if this process is killed.

    You can stop and start the broker again; it keeps its port. In a forked copy of the process
    `stop()` does nothing.

    Args:
        port: TCP port to listen on; 0 for a free one.
        host: address to listen on. With "0.0.0.0" or "::", clients receive this machine's host
            name.
        data: folder for topics, committed offsets and dead letters, created if missing. None keeps
            everything in memory until the broker ends.
    """

    def __init__(
        self, port: int = 0, host: str = "127.0.0.1", data: str | os.PathLike[str] | None = None
    ) -> None:
        if not isinstance(port, int) or not 0 <= port <= 65535:
            raise ValueError(f"port must be an integer from 0 to 65535, not {port!r}")
        self._host = host
        self._port = port
        self._data = None if data is None else os.path.abspath(data)
        self._process: _Process | None = None

    def __repr__(self) -> str:
        return f"EmbeddedBroker({self.hosts})"

    @property
    def hosts(self) -> str:
        """The broker's address, "host:port"; the port is 0 before the first start."""
        host = self._advertised
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}"

    @property
    def port(self) -> int:
        """TCP port; 0 before the first start."""
        return self._port

    @property
    def pid(self) -> int | None:
        """Process id, or None while the broker is stopped."""
        return self._process.pid if self._process is not None and self._process.alive else None

    def start(self) -> EmbeddedBroker:
        """Start the broker and wait up to 10 s until it accepts connections. Returns the broker
        itself. Any thread.

        The first start on a machine may build the broker's program, which takes about half a
        minute. The logger `embedkq.broker` reports it.

        Raises:
            BrokerMissing: this machine has no program for the broker.
            BrokerFailed: the broker ended, or did not accept connections; the message says why.
        """
        if self.pid is not None:
            return self
        program = find_program()
        if program.limits:
            logger.warning("%s", program.limits)
        arguments = [
            "-host",
            self._host,
            "-advertise",
            self._advertised,
            "-port",
            str(self._port),
            "-owner",
            str(os.getpid()),
        ]
        if self._data is not None:
            arguments += ["-data", self._data]
        process = _Process([*program.command, *arguments])
        try:
            process.start()
            self._port = process.wait_ready(START_SECONDS)
        except BaseException:
            process.end()
            raise
        self._process = process
        atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Stop the broker. Without a data folder its contents are lost. Does nothing if the broker
        is stopped. Any thread."""
        process, self._process = self._process, None
        atexit.unregister(self.stop)
        if process is not None:
            process.end()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds for the broker to end. Returns True if it has ended. Any
        thread."""
        return self._process is None or self._process.ended.wait(timeout)

    def tail(self) -> str:
        """The last lines that the broker printed, at most 20."""
        return "" if self._process is None else self._process.tail()

    def __enter__(self) -> EmbeddedBroker:
        return self.start()

    def __exit__(self, *exception: object) -> None:
        self.stop()

    @property
    def _advertised(self) -> str:
        return socket.gethostname() if self._host in _WILDCARDS else self._host


class _Process(threading.Thread):
    """Starts the process and waits for it. The kernel kills the process when this thread ends (see
    die_with_parent.py)."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(name="embedkq-broker", daemon=True)
        self.ended = threading.Event()
        self._command = command
        self._owner = os.getpid()
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: Future[subprocess.Popen[str]] = Future()
        self._first: queue.SimpleQueue[str] = queue.SimpleQueue()

    @property
    def alive(self) -> bool:
        return os.getpid() == self._owner and not self.ended.is_set()

    @property
    def pid(self) -> int:
        return self._process.result().pid

    def start(self) -> None:
        super().start()
        self._process.result()

    def wait_ready(self, timeout: float) -> int:
        """Wait for the line with the broker's address and return the port. Raises BrokerFailed with
        the reason if the line does not arrive."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(queue.Empty):
            while line := self._first.get(timeout=max(0.0, deadline - time.monotonic())):
                _, _, port = line.rpartition(":")
                if port.isdigit() and " " not in line:
                    return int(port)
        if not self.alive and self._process.result().returncode == _REFUSED and self._lines:
            raise BrokerFailed(f"the embedded broker {self._lines[-1]}")
        what = f"did not answer within {timeout:g} s" if self.alive else "ended"
        raise BrokerFailed(
            f"the embedded broker {what}. Its last output:\n{self.tail() or '(nothing)'}"
        )

    def run(self) -> None:
        try:
            process = self._popen()
        except BaseException as error:  # noqa: BLE001  (start raises it)
            self.ended.set()
            self._process.set_exception(error)
            return
        self._process.set_result(process)
        if process.stdout is not None:
            with contextlib.suppress(ValueError), process.stdout as output:
                for line in output:
                    self._lines.append(line.rstrip())
                    self._first.put(line.strip() or " ")
        process.wait()
        self.ended.set()
        self._first.put("")

    def end(self) -> None:
        """Terminate the process, so that it can save its data. Kill it if it does not end within 5
        s."""
        if not self.alive:
            return
        process = self._process.result()
        process.terminate()
        process.send_signal(signal.SIGCONT)  # a frozen process would not handle SIGTERM
        if not self.ended.wait(_END_SECONDS):
            process.kill()
            self.ended.wait(_END_SECONDS)

    def tail(self) -> str:
        return "\n".join(list(self._lines))

    def _popen(self) -> subprocess.Popen[str]:
        die_with_parent = Path(__file__).with_name("die_with_parent.py")
        # The broker gets its own session: a Ctrl-C in the terminal is meant for this process, which
        # still needs its broker in order to finish.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(die_with_parent), str(self._owner), *self._command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, "NO_COLOR": "1"},
            start_new_session=True,
        )
