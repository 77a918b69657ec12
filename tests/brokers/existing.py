"""Somebody else's cluster, named by EMBEDKQ_TEST_HOSTS."""

from __future__ import annotations

import os

from .base import Broker, Unavailable

VARIABLE = "EMBEDKQ_TEST_HOSTS"


class ExistingHosts(Broker):
    """A cluster that runs already; the tests make topics there and never delete them."""

    kind = "hosts"
    # Taken to be Apache Kafka, which a cluster that deserves the trouble usually is.
    capabilities = frozenset({"compression"})

    def __init__(self, hosts: str | None = None) -> None:
        super().__init__()
        self.hosts = hosts or os.environ[VARIABLE]

    @staticmethod
    def prepare() -> str:
        """Returns what it is; raises Unavailable."""
        if not os.environ.get(VARIABLE):
            raise Unavailable(f"{VARIABLE} is not set")
        return f"existing hosts {os.environ[VARIABLE]}"

    @property
    def description(self) -> str:
        return f"existing hosts {self.hosts}"

    def heal(self) -> None:
        """Nothing that a test may do here ends it."""

    def _start(self) -> None:
        """It runs already."""

    def stop(self) -> None:
        raise self._cannot()

    def kill(self) -> None:
        raise self._cannot()

    def _pause(self) -> None:
        raise self._cannot()

    def _resume(self) -> None:
        raise self._cannot()

    def _stop(self) -> None:
        raise self._cannot()

    def _kill(self) -> None:
        raise self._cannot()

    def _close(self) -> None:
        """Nothing here is ours."""
