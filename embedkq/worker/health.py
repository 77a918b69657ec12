"""Health: how a worker does, and whether it makes progress. Any thread."""
from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from embedkq.safe_logging import SafeLogger

if TYPE_CHECKING:
    from embedkq.worker.engine import Engine
    from embedkq.worker.lifecycle import State


logger = SafeLogger("embedkq.worker")

NO_PROGRESS_SECONDS = 20.0
"""A thread that makes no turn for so long is stuck: its turns take seconds at most, however long a job runs."""
_LOOK_SECONDS = 5.0


@dataclass(frozen=True)
class Health:
    """How a worker does at one moment.

    Attributes:
        state: as `worker.state`.
        healthy: whether it takes jobs and makes progress.
        reasons: why it is not healthy; empty if it is.
        seconds_since_poll: since Kafka was asked for records; None before the first time.
        seconds_since_commit: since offsets were committed, or found unchanged; None before the first time.
        seconds_since_callback: since a callback returned; None before the first one.
        in_flight: jobs that were taken and are not done.
        oldest_running_seconds: for how long the job runs that has run for longest; None if none runs.
        waiting_retries: jobs in flight that wait for another attempt.
        waiting_callbacks: callbacks that the owner has not fired yet.
        children_alive: child processes that are ready or at work.
        children_started: child processes started so far, replacements included.
        ended: jobs that ended, by their last status; "undecodable" counts records that were no jobs, or were refused: no callback.
        lag: records that are not done, by partition, as far as this worker owns it.
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
        """The same in dicts, lists, strings and numbers, ready for `json.dumps`."""
        return {**asdict(self), "reasons": list(self.reasons), "ended": dict(self.ended or {}), "lag": dict(self.lag or {})}


def health_of(state: State, engine: Engine | None) -> Health:
    """Look at a worker. Any thread; takes no lock and asks nobody."""
    reasons = [] if state == "running" else [f"the worker is {state}"]
    loop = None if engine is None else engine.loop
    if engine is None or loop is None or state.ended:
        return Health(str(state), False, tuple(reasons))
    now = time.monotonic()
    consumer = engine.consumer
    reasons += reasons_of(engine, now) + loop.breaker.reasons
    reasons += [consumer.topic.reason] if consumer.topic.reason else []
    reasons += [f"partition {partition} is held: {reason}" for partition, reason in sorted(consumer.held.items())]
    return Health(
        str(state), not reasons, tuple(reasons),
        seconds_since_poll=_since(consumer.last_poll, now),
        seconds_since_commit=_since(consumer.commits.last, now),
        seconds_since_callback=_since(engine.owner.last_callback, now),
        in_flight=loop.in_flight,
        oldest_running_seconds=_since(loop.pool.oldest_running, now),
        waiting_retries=len(loop.retries),
        waiting_callbacks=len(engine.owner.mailbox),
        children_alive=loop.pool.alive,
        children_started=loop.pool.started,
        ended=dict(loop.endings.counts),
        lag=consumer.lag(),
    )


def reasons_of(engine: Engine, now: float) -> list[str]:
    """Why a worker that runs makes no progress; empty if it does."""
    consumer, loop = engine.consumer, engine.loop
    waits = [
        (engine.last_turn, "the worker's thread has made no turn"),
        (consumer.last_turn, "the consumer's thread has made no turn"),
        (consumer.away_since, f"Kafka at {consumer.hosts} has not answered"),
        (consumer.commits.refused_since, "Kafka has refused every commit"),
    ]
    if loop is not None:
        waits += [
            (loop.pool.weak_since, "child processes have been missing"),
            (loop.endings.waiting_since, "callbacks have waited for the owner, which must call run_callbacks(),"),
            (loop.endings.letters_away_since, "dead letters could not be written"),
        ]
    return [f"{text} for {now - since:.0f} s" for since, text in waits if since is not None and now - since > NO_PROGRESS_SECONDS]


class Watch:
    """Logs when a worker stops making progress and when it goes on. Each of the worker's threads looks after the others."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._looking = threading.Lock()
        self._look_at = 0.0
        self._told: tuple[str, ...] = ()

    def look(self, now: float) -> None:
        """Look, if it is time to. Worker's and consumer's thread."""
        if now < self._look_at or not self._looking.acquire(blocking=False):
            return
        try:
            self._look_at = now + min(_LOOK_SECONDS, NO_PROGRESS_SECONDS / 4)
            reasons = reasons_of(self._engine, now)
            kinds = tuple(reason.rpartition(" for ")[0] for reason in reasons)
            if set(kinds) - set(self._told):
                logger.warning("The worker makes no progress: %s.", "; ".join(reasons))
            elif self._told and not kinds:
                logger.info("The worker makes progress again.")
            self._told = kinds
        finally:
            self._looking.release()


def _since(moment: float | None, now: float) -> float | None:
    return None if moment is None else round(max(0.0, now - moment), 3)
