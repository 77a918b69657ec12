"""Refuses contradictory timeouts of a group member when the worker is created, instead of when its
group expels it. Any thread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedkq._clients.consumer_options import DEFAULT_OPTIONS

_RISING = (
    (
        ("heartbeat_interval_ms", "session_timeout_ms"),
        "a member that is silent for session_timeout_ms is expelled",
    ),
    (
        ("session_timeout_ms", "max_poll_interval_ms"),
        "a member that does not poll for max_poll_interval_ms is expelled",
    ),
    (
        ("fetch_max_wait_ms", "request_timeout_ms"),
        "each fetch without records would count as unanswered",
    ),
    (
        ("request_timeout_ms", "connections_max_idle_ms"),
        "connections would be closed while they wait for an answer",
    ),
)
_AFTER_REVOKE_MILLISECONDS = 1_000
"""Time that a worker needs after revoke_timeout to commit and rejoin its group."""


def check_timeouts(kafka: Mapping[str, Any], revoke_seconds: float) -> None:
    """Check that a group member can work with these options of kafka-python, and with its defaults
    for the others.

    Args:
        kafka: the user's options.
        revoke_seconds: how long released partitions wait for their jobs.

    Raises:
        TypeError, ValueError: an option is not a number of milliseconds, or two contradict each
            other. The message names both and says what to change.
    """
    options = {**DEFAULT_OPTIONS, **kafka}
    for name in dict.fromkeys(name for pair, _ in _RISING for name in pair):
        _check_milliseconds(name, options[name])
    for (lower, higher), why in _RISING:
        if options[lower] > options[higher] or (
            options[lower] == options[higher] and higher != "max_poll_interval_ms"
        ):
            raise ValueError(
                f"kafka={{{lower!r}: {options[lower]}, {higher!r}: {options[higher]}}}: {why}; "
                f"make {lower} shorter or {higher} longer" + _whose(kafka, lower, higher)
            )
    if revoke_seconds * 1000 > options["max_poll_interval_ms"]:
        raise ValueError(
            f"revoke_timeout={revoke_seconds:g} and"
            f" kafka={{'max_poll_interval_ms': {options['max_poll_interval_ms']}}}: the group"
            " expels a member that delays a rebalance for that long, and its jobs run twice; make"
            f" revoke_timeout {options['max_poll_interval_ms'] / 1000:g} s or shorter, or"
            " max_poll_interval_ms longer" + _whose(kafka, "max_poll_interval_ms")
        )


def revoke_limit(kafka: Mapping[str, Any], revoke_seconds: float) -> float:
    """The same value, reduced if necessary to leave time for a commit and for rejoining the
    group."""
    interval = kafka.get("max_poll_interval_ms", DEFAULT_OPTIONS["max_poll_interval_ms"])
    return min(revoke_seconds, float(interval - _AFTER_REVOKE_MILLISECONDS) / 1000)


def _check_milliseconds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"kafka={{{name!r}: {value!r}}} must be a whole number of milliseconds")
    if value <= 0:
        raise ValueError(f"kafka={{{name!r}: {value!r}}} must be above 0 milliseconds")


def _whose(kafka: Mapping[str, Any], *names: str) -> str:
    defaults = [name for name in names if name not in kafka]
    return f" ({' and '.join(defaults)} is the default)" if defaults else ""
