"""The states of a job in this host, and the moves that are allowed between them.

`control_thread/jobs.py` is the only place that moves a job, and checks each move against the table.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping


class JobState(str, enum.Enum):
    """Where a job is in this host; compares equal to its name in lower case."""

    QUEUED = "queued"
    """In the backlog, until it is its partition's turn and the pool has room."""
    WAITING_FOR_KEY = "waiting_for_key"
    """In the backlog, until the job before it with the same key is done and the pool has room."""
    WAITING_FOR_COMMIT = "waiting_for_commit"
    """In the crash guard, until a commit says that its partition, or this suspect, begins."""
    HELD = "held"
    """This host can load, or verify, none of its jobs at the moment: the job waits until it can."""
    WAITING_FOR_RETRY = "waiting_for_retry"
    """Its last attempt has failed: it waits for its delay, and until the pool has room."""
    IN_POOL = "in_pool"
    """A child process has it, or is the next to get it."""
    AWAITING_CALLBACK = "awaiting_callback"
    """Its outcome is final and with the owner, whose callback has not returned yet."""
    AWAITING_DEAD_LETTER = "awaiting_dead_letter"
    """Its callback has returned; its dead letter is not written yet."""
    DONE = "done"
    """Its offset counts as done, and its key is free."""
    DROPPED = "dropped"
    """Left to others, not done: its partition goes away, or this host stops. Also a record that was
    polled once more although its job is done, or still runs here."""

    __str__ = str.__str__

    @property
    def ended(self) -> bool:
        """Whether this host has nothing more to do with the job."""
        return self in (JobState.DONE, JobState.DROPPED)


def _to(*states: JobState) -> frozenset[JobState]:
    return frozenset(states)


_BEGINS = _to(JobState.IN_POOL, JobState.WAITING_FOR_COMMIT)
_ENDS = _to(JobState.AWAITING_DEAD_LETTER, JobState.DONE)
_DROPPED = _to(JobState.DROPPED)

MOVES: Mapping[JobState, frozenset[JobState]] = {
    # A record that is refused neither runs nor has a callback.
    JobState.QUEUED: _BEGINS | _ENDS | _DROPPED | _to(JobState.WAITING_FOR_KEY, JobState.HELD),
    JobState.WAITING_FOR_KEY: _BEGINS | _DROPPED,
    # A suspect that has taken too many hosts down has a callback and does not run.
    JobState.WAITING_FOR_COMMIT: _ENDS
    | _DROPPED
    | _to(JobState.IN_POOL, JobState.AWAITING_CALLBACK),
    # A refused record is held only where no dead-letter topic takes it.
    JobState.HELD: _BEGINS | _DROPPED | _to(JobState.DONE),
    JobState.WAITING_FOR_RETRY: _BEGINS | _DROPPED,
    JobState.IN_POOL: _ENDS
    | _DROPPED
    | _to(JobState.AWAITING_CALLBACK, JobState.WAITING_FOR_RETRY, JobState.HELD),
    JobState.AWAITING_CALLBACK: _ENDS | _DROPPED,
    JobState.AWAITING_DEAD_LETTER: _to(JobState.DONE, JobState.DROPPED),
    JobState.DONE: frozenset(),
    JobState.DROPPED: frozenset(),
}
"""From each state, where a job may go next."""
