"""Timeouts with which a group would expel a worker are refused when it is made."""

from __future__ import annotations

from typing import Any

import pytest

from embedkq import Worker
from embedkq.worker.consumer_thread.timeouts import revoke_limit


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (
            {"revoke_timeout": 40, "kafka": {"max_poll_interval_ms": 15_000}},
            ("revoke_timeout=40", "'max_poll_interval_ms': 15000", "15 s or"),
        ),
        (
            {"revoke_timeout": 301},
            (
                "revoke_timeout=301",
                "'max_poll_interval_ms': 300000",
                "(max_poll_interval_ms is the default)",
            ),
        ),
        (
            {
                "revoke_timeout": 9,
                "kafka": {"max_poll_interval_ms": 8_000, "session_timeout_ms": 8_000},
            },
            ("revoke_timeout=9", "8000"),
        ),
        (
            {"kafka": {"session_timeout_ms": 3_000}},
            ("'heartbeat_interval_ms': 3000", "'session_timeout_ms': 3000", "(heartbeat_i"),
        ),
        (
            {"kafka": {"heartbeat_interval_ms": 10_000}},
            ("'heartbeat_interval_ms': 10000, 'session_timeout_ms': 10000",),
        ),
        (
            {"kafka": {"heartbeat_interval_ms": 60_000, "session_timeout_ms": 45_000}},
            ("60000", "45000", "make heartbeat_interval_ms shorter"),
        ),
        (
            {"kafka": {"session_timeout_ms": 600_000}},
            ("'session_timeout_ms': 600000, 'max_poll_interval_ms': 300000",),
        ),
        (
            {"kafka": {"fetch_max_wait_ms": 30_000}},
            ("'fetch_max_wait_ms': 30000, 'request_timeout_ms': 30000",),
        ),
        (
            {"kafka": {"request_timeout_ms": 600_000}},
            ("'request_timeout_ms': 600000, 'connections_max_idle_ms': 540000",),
        ),
        ({"kafka": {"session_timeout_ms": -1}}, ("'session_timeout_ms': -1", "above 0")),
        ({"kafka": {"max_poll_interval_ms": 0}}, ("'max_poll_interval_ms': 0", "above 0")),
    ],
)
def test_timeouts_that_contradict_each_other_are_refused_with_both_values(
    wrong: dict[str, Any], told: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError) as caught:
        Worker(**wrong)
    assert all(part in str(caught.value) for part in told), str(caught.value)


@pytest.mark.parametrize("value", ["6000", 6000.5, None, True])
@pytest.mark.parametrize(
    "name",
    ["session_timeout_ms", "heartbeat_interval_ms", "max_poll_interval_ms", "request_timeout_ms"],
)
def test_a_timeout_that_is_no_number_of_milliseconds_is_refused_by_name(
    name: str, value: Any
) -> None:
    with pytest.raises(TypeError, match=f"{name}.*whole number of milliseconds"):
        Worker(kafka={name: value})


@pytest.mark.parametrize(
    "right",
    [
        {},
        {"revoke_timeout": 300},
        {"kafka": {"max_poll_interval_ms": 10_000}},
        {"kafka": {"session_timeout_ms": 1_000, "heartbeat_interval_ms": 250}},
        {"revoke_timeout": 900, "kafka": {"max_poll_interval_ms": 900_000}},
        {"kafka": {"fetch_max_wait_ms": 60_000, "request_timeout_ms": 120_000}},
    ],
)
def test_what_can_work_is_not_refused(right: dict[str, Any]) -> None:
    Worker(**right)


def test_time_is_left_to_commit_and_to_join_again() -> None:
    assert revoke_limit({}, 10.0) == 10.0
    assert revoke_limit({"max_poll_interval_ms": 10_000}, 10.0) == 9.0
