"""The options of kafka-python's consumer, and those that embedkq sets itself.

They are separate from the consumer, so that creating a `Worker` does not import what only a start
needs: 12 ms instead of 21 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka import KafkaConsumer

OWNED_OPTIONS = (
    "bootstrap_servers",
    "group_id",
    "enable_auto_commit",
    "auto_offset_reset",
    "key_deserializer",
    "value_deserializer",
    "consumer_timeout_ms",
    "selector",
)
"""Options of kafka-python that embedkq sets itself."""
KNOWN_OPTIONS = frozenset(KafkaConsumer.DEFAULT_CONFIG)
SESSION_MILLISECONDS = 10_000
"""With kafka-python's default of 45 s, the jobs of a killed host would wait that long for another
host. (The reasons in KIP-735 concern other consumers.)"""
DEFAULT_OPTIONS: Mapping[str, Any] = {
    **KafkaConsumer.DEFAULT_CONFIG,
    "session_timeout_ms": SESSION_MILLISECONDS,
}
"""The defaults."""
