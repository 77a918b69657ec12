"""Options of kafka-python's consumer: which there are, and which are embedkq's.

Beside the consumer itself, so that making a `Worker` imports nothing that only a start needs: that
took 21 ms with it, and takes 12 without.
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
"""kafka-python's 45 s would be how long the jobs of a host that was killed wait for another
(KIP-735 has reasons of other consumers)."""
DEFAULT_OPTIONS: Mapping[str, Any] = {
    **KafkaConsumer.DEFAULT_CONFIG,
    "session_timeout_ms": SESSION_MILLISECONDS,
}
"""What counts unless a user says otherwise."""
