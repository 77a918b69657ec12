"""CircuitBreaker: stops a worker that can load or verify none of its jobs from throwing them away.
Control thread.

A missing module, a framework that was not set up, a wrong secret are faults of this host, not of a
job. They show in that one job after the other cannot be loaded or verified while none can. Then no
more jobs begin, but for one every 10 seconds, and the first that works ends it. What is held
meanwhile is not done: it is not committed, and another host may run it.
"""

from __future__ import annotations

import time
from collections.abc import Set

from embedkq._formats.outcome import NOT_LOADED, Outcome
from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.errors import SecretUnknown
from embedkq.worker.between_threads.messages import JobRun

logger = SafeLogger("embedkq.worker")

MOST_IN_A_ROW = 10
"""So many jobs that cannot be loaded, or verified, while none can, are taken for a fault of this
host."""
PROBE_SECONDS = 10.0
MOST_REFUSED = 10_000
"""Records with an unknown secret that wait for a first record to be verified; from there on no more
are taken."""


class CircuitBreaker:
    """Counts the jobs that could not be loaded or verified, and says what may begin.

    It must not be a weapon: who can write to the topic and holds no secret could have sent any
    number of records that are refused. So those are counted only where no dead-letter topic keeps
    them, only if they name a secret, and only until the first is verified.

    Args:
        topic: for messages.
        verifies: whether records are signed, and refused ones kept nowhere.
    """

    def __init__(self, topic: str, verifies: bool) -> None:
        self.in_a_row = 0
        """Jobs that could not be loaded since one could; each counts once."""
        self.verifies = verifies
        """No record has been verified yet, though some should be."""
        self.probes_new = False
        """The next job to try is one that was not held before."""
        self._topic = topic
        self._unloadable = ""
        self._unverified = ""
        self._probe_at = 0.0
        self._unknown = 0
        self._refused: list[JobRun] = []

    @property
    def reasons(self) -> list[str]:
        """What is held, why, and what to do; empty while nothing is. Any thread."""
        return [reason for reason in (self._unloadable, self._unverified) if reason]

    # Jobs that cannot be loaded.

    def holds(self, run: JobRun, outcome: Outcome) -> bool:
        """A child has tried to load the run: whether the run is to be held for `PROBE_SECONDS`, as
        if it had not begun."""
        if outcome.status not in NOT_LOADED:
            self.loaded()
        if outcome.status != "undecodable":  # a damaged payload is no fault of this host
            return False
        if not run.unloadable:
            run.unloadable = True
            self.in_a_row += 1
        elif not self._unloadable:
            return False  # it was tried again after others could be loaded
        if self.in_a_row >= MOST_IN_A_ROW:
            self._open(run, outcome)
        return bool(self._unloadable)

    def loaded(self) -> None:
        """A child has loaded a job."""
        self.in_a_row = 0
        if self._unloadable:
            self._unloadable, self.probes_new = "", False
            logger.warning(
                "A job of topic %s could be loaded: jobs begin again, first those that were held.",
                self._topic,
            )

    def room(self, room: int) -> int:
        """How many jobs may begin, of those that the pool has room for."""
        if not self._unloadable:
            return room
        return min(room, 1) if time.monotonic() >= self._probe_at else 0

    def probe(self, runs: list[JobRun]) -> None:
        """These begin, though nothing could be loaded."""
        if self._unloadable and runs:
            self._probe_at = time.monotonic() + PROBE_SECONDS
            self.probes_new = (
                not self.probes_new
            )  # what is held may be beyond help, and the next one not
            for run in runs:
                # a long job that could be loaded must not hold up the others until its end
                run.announce = True

    def _open(self, run: JobRun, outcome: Outcome) -> None:
        if not self._unloadable:
            self._probe_at = time.monotonic() + PROBE_SECONDS
        reason = (
            f"{MOST_IN_A_ROW} jobs in a row of topic {self._topic} could not be loaded by this"
            f" worker ({outcome.message}). Only one is tried every {PROBE_SECONDS:g} s until one"
            f" works; they are held, and not done. {_cure_of(outcome)}"
        )
        if reason != self._unloadable:
            self._unloadable = reason
            logger.error(
                "%s The last was at partition %d, offset %d.",
                reason,
                run.partition.number,
                run.offset,
            )

    # Records that cannot be verified.

    def holds_refused(self, run: JobRun) -> bool:
        """The record is refused: whether it is to wait here until another one is verified."""
        if not (self.verifies and isinstance(run.refusal, SecretUnknown)):
            return False
        self._unknown += 1
        if self._unknown < MOST_IN_A_ROW:
            return False
        run.forget_payload()
        self._refused.append(run)
        if not self._unverified:
            self._unverified = (
                f"{MOST_IN_A_ROW} records of topic {self._topic} could not be verified by this"
                f" worker, and none could ({run.refusal}). Further ones are held until one can be"
                " verified, and not done. Start the worker with the secret that signs them"
                " (several may be given), or set dead_letter_topic, which keeps what is refused."
            )
            logger.error(
                "%s The last was at partition %d, offset %d.",
                self._unverified,
                run.partition.number,
                run.offset,
            )
        return True

    def verified(self) -> list[JobRun]:
        """A record was verified, so this worker has the right secret; the records to be refused
        that have waited."""
        self.verifies, self._unverified = False, ""
        refused, self._refused = self._refused, []
        return refused

    @property
    def full(self) -> bool:
        """Whether polling should pause, because too many refused records wait."""
        return len(self._refused) >= MOST_REFUSED

    def drop(self, partitions: Set[Partition]) -> list[JobRun]:
        """Forget partitions; the refused records of them that waited."""
        dropped = [run for run in self._refused if run.partition in partitions]
        if dropped:
            self._refused = [run for run in self._refused if run.partition not in partitions]
        return dropped


def _cure_of(outcome: Outcome) -> str:
    kinds = outcome.text.splitlines()
    if "ImportError" in kinds:
        return (
            "Start the worker where what its jobs import can be found (its folder, PYTHONPATH,"
            " installed packages)."
        )
    if "AttributeError" in kinds:
        return "Deploy the version of the code that has what the jobs were enqueued with."
    if "decode_timeout" in outcome.message:
        return "Raise decode_timeout, or import less in the modules of the jobs."
    return (
        "Set up what the modules of the jobs need, with initializer= (--initializer on the command"
        " line)."
    )
