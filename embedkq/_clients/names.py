"""The part of kafka-python that the rest of embedkq uses beside the clients: its errors."""

from __future__ import annotations

from kafka import errors as kafka_errors

__all__ = ["kafka_errors"]
