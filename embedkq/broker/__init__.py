"""The development broker: a Kafka-compatible broker in one process, for `kq demo`, `kq broker` and
tests. Not for production.

`embedded.py` starts and stops the broker, `finder.py` finds its program, and `build.py` builds the
program from the Go sources in `program/`.
"""

from __future__ import annotations

from embedkq.broker.embedded import BrokerFailed, BrokerMissing, EmbeddedBroker

__all__ = ["BrokerFailed", "BrokerMissing", "EmbeddedBroker"]
