"""The health of a worker: its state, and whether it makes progress. Any thread."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkq.worker.lifecycle import State
    from embedkq.worker.runtime import Runtime


@dataclass(frozen=True)
class Health:
    """A worker's health at one moment.

    Attributes:
        state: as `worker.state`.
        healthy: whether the worker takes jobs and makes progress.
        reasons: why the worker is not healthy; empty if it is.
        seconds_since_poll: seconds since the last poll; None before the first one.
        seconds_since_commit: seconds since the last commit; None before the first one.
        seconds_since_callback: seconds since a callback returned; None before the first one.
        in_flight: number of jobs that were taken and are not done.
        oldest_running_seconds: how long the longest-running job has run; None if no job runs.
        waiting_retries: number of jobs in flight that wait for a retry.
        waiting_callbacks: number of callbacks that wait for the owner.
        children_alive: number of child processes that are ready or busy.
        children_started: number of child processes started so far, including replacements.
        ended: number of ended jobs by their last status. "undecodable" counts records that were not
            jobs or were refused, and so had no callback.
        lag: number of records that are not done, by partition, for the partitions of this worker.
    """

    state: str
    healthy: bool
    reasons: tuple[str, ...]
    seconds_since_poll: float | None = None
    seconds_since_commit: float | None = None
    seconds_since_callback: float | None = None
    in_flight: int = 0
    oldest_running_seconds: float | None = None
    waiting_retries: int = 0
    waiting_callbacks: int = 0
    children_alive: int = 0
    children_started: int = 0
    ended: Mapping[str, int] | None = None
    lag: Mapping[int, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The health as plain data, ready for `json.dumps`."""
        return {
            **asdict(self),
            "reasons": list(self.reasons),
            "ended": dict(self.ended or {}),
            "lag": dict(self.lag or {}),
        }


def read_health(state: State, runtime: Runtime | None) -> Health:
    """Read a worker's health. Takes no lock and makes no request. Any thread."""
    reasons = [] if state == "running" else [f"the worker is {state}"]
    loop = None if runtime is None else runtime.loop
    if runtime is None or loop is None or state.ended:
        return Health(str(state), False, tuple(reasons))
    now = time.monotonic()
    consumer = runtime.consumer
    reasons += runtime.standstill(now) + loop.breaker.reasons
    reasons += [consumer.topic.reason] if consumer.topic.reason else []
    reasons += [
        f"partition {partition.number} is held: {reason}"
        for partition, reason in sorted(consumer.held.items())
    ]
    return Health(
        str(state),
        not reasons,
        tuple(reasons),
        seconds_since_poll=_since(consumer.last_poll, now),
        seconds_since_commit=_since(consumer.committer.last, now),
        seconds_since_callback=_since(runtime.dispatcher.last_callback, now),
        in_flight=loop.in_flight,
        oldest_running_seconds=_since(loop.pool.oldest_running, now),
        waiting_retries=len(loop.retries),
        waiting_callbacks=len(runtime.dispatcher.mailbox),
        children_alive=loop.pool.alive,
        children_started=loop.pool.started,
        ended=dict(loop.completer.counts),
        lag={partition.number: count for partition, count in consumer.lag().items()},
    )


def _since(moment: float | None, now: float) -> float | None:
    return None if moment is None else round(max(0.0, now - moment), 3)
