"""The development broker: a Kafka-compatible broker of one process, for `kq demo`, `kq broker` and
tests. Not for production.

`embedded.py` starts and ends it, `finder.py` finds its program, `build.py` builds that from the Go
sources in `program/`.
"""

from __future__ import annotations

from embedkq.broker.embedded import BrokerFailed, BrokerMissing, EmbeddedBroker

__all__ = ["BrokerFailed", "BrokerMissing", "EmbeddedBroker"]
