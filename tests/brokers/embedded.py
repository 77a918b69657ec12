"""The development broker that embedkq ships."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from embedkq.broker import BrokerMissing, EmbeddedBroker
from embedkq.broker.finder import find_program

from .base import STOP_TIMEOUT, Broker, Unavailable, wait_until_closed
from .layout import free_port


class Embedded(Broker):
    """One process with a folder of its own. Neither TLS nor SASL, no server properties, no second
    node."""

    kind = "embedded"
    capabilities = frozenset({"stop", "kill", "pause", "keeps_data", "quick_sessions"})

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.mkdtemp(prefix="embedkq-broker-")
        self._broker = EmbeddedBroker(port=free_port(), data=self._folder)
        self.hosts = self._broker.hosts

    @staticmethod
    def prepare() -> str:
        """Build it where that is needed; returns what it is; raises Unavailable, also where only
        the last resort is to be had."""
        try:
            limits = find_program().limits
        except BrokerMissing as error:
            raise Unavailable(str(error)) from error
        if limits is not None:
            raise Unavailable(limits)
        return "the development broker"

    @property
    def description(self) -> str:
        return "the development broker"

    def _start(self) -> None:
        self._broker.start()

    def _stop(self) -> None:
        self._broker.stop()
        wait_until_closed(self.hosts)

    def _kill(self) -> None:
        self._send(signal.SIGKILL)
        wait_until_closed(self.hosts)
        self._broker.stop()

    def _pause(self) -> None:
        """Returns once all its threads have stopped: until one of them has taken up the signal, the
        others still answer."""
        self._send(signal.SIGSTOP)
        deadline = time.monotonic() + STOP_TIMEOUT
        while not self._is_frozen():
            if time.monotonic() > deadline:
                raise RuntimeError("the development broker does not stop on SIGSTOP")
            time.sleep(0.001)

    def _is_frozen(self) -> bool:
        return all(
            path.read_text().rpartition(")")[2].split()[0] == "T"
            for path in Path(f"/proc/{self._broker.pid}/task").glob("*/stat")
        )

    def _resume(self) -> None:
        self._send(signal.SIGCONT)

    def _close(self) -> None:
        self._broker.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, number: signal.Signals) -> None:
        pid = self._broker.pid
        if pid is not None:
            os.kill(pid, number)

    def _check_alive(self) -> None:
        if self._broker.pid is None:
            self.running = False
            raise RuntimeError(
                f"the development broker ended by itself. It printed last:\n{self._broker.tail()}"
            )
