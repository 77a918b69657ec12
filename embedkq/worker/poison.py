"""PoisonGuard: a job that takes its worker's host down does not do so for ever. Worker's thread.

How often a partition was begun in a row without progress is in its commit's metadata. After two such starts its jobs run one at a time,
and before each the metadata says which: so it is known what a host went down over. What has been at that too often is condemned. What
the earlier hosts had begun and not committed is little: done one at a time it takes seconds, and some jobs for each process. After that
the partition runs as ever.
"""
from __future__ import annotations

import time
from collections.abc import Set

from embedkq.worker.exchange import Exchange
from embedkq.worker.ledger import Ledger
from embedkq.worker.messages import Run

CAREFUL_SECONDS = 30.0
"""For so long at least, and for two jobs of each process at least, a partition's jobs run one at a time."""


class PoisonGuard:
    """Runs that may begin pass through here; those under suspicion wait for their turn, one at a time in the whole worker.

    Args:
        processes: how many jobs run at once where nothing is suspected.
        max_crashes: hosts that a job may take down while it is the suspect; None guards against nothing.
    """

    def __init__(self, exchange: Exchange, ledger: Ledger, processes: int, max_crashes: int | None) -> None:
        self.suspect: Run | None = None
        """The one under suspicion whose turn it is."""
        self.condemned: list[tuple[Run, int, bool]] = []
        """What is not to run: how many hosts it took down, and whether one of them after it was condemned. The caller empties it."""
        self._exchange = exchange
        self._ledger = ledger
        self._max_crashes = max_crashes
        self._waiting: list[Run] = []
        self._begun = False
        self._fewest = 2 * processes
        self._seen: dict[int, tuple[float, int]] = {}

    @property
    def held_up(self) -> set[int]:
        """Partitions of which no more records should begin."""
        if self.suspect is None and not self._waiting:
            return set()
        held = {run.partition for run in (*self._waiting, self.suspect) if run is not None}
        return {partition for partition in held if self._ledger.notes_of(partition).careful}

    def assigned(self, partition: int) -> None:
        """A partition is ours; what another host was at when it went down is known, and counts against that."""
        noted = self._ledger.notes_of(partition)
        ours = self.suspect is not None and self._begun and (self.suspect.partition, self.suspect.offset) == (partition, noted.suspect)
        if not ours:
            self._ledger.note(partition, noted.blamed())

    def sift(self, runs: list[Run]) -> list[Run]:
        """Those that may begin now; the others wait here."""
        if self._max_crashes is None or not (self._waiting or self.suspect is not None or self._ledger.suspicious):
            return runs
        free: list[Run] = []
        waiting: list[Run] = []
        for run in [*self._waiting, *runs]:
            (waiting if self._is_suspicious(run) or self._is_named(run.partition) else free).append(run)
        self._waiting = waiting
        if self.suspect is None and (suspicious := next(filter(self._is_suspicious, waiting), None)) is not None:
            waiting.remove(suspicious)
            self._suspect(suspicious)
        if self.suspect is not None and not self._begun and self._is_named(self.suspect.partition, self.suspect):
            self._begun = True
            crashes = self._ledger.notes_of(self.suspect.partition).crashes.get(self.suspect.offset, 0)
            if crashes < self._max_crashes:
                free.append(self.suspect)
            else:
                self.condemned.append((self.suspect, crashes, crashes > self._max_crashes))
        self._exchange.careful = self.suspect is not None or bool(waiting)
        return free

    def left(self, run: Run) -> None:
        """The run has ended, or will not begin."""
        if run is not self.suspect:
            return
        noted = self._ledger.notes_of(run.partition)
        if self._begun and noted.careful and self._has_seen_enough(run.partition):
            noted = noted._replace(starts=0)
        self._ledger.note(run.partition, noted._replace(suspect=None))
        self.suspect, self._begun = None, False

    def _has_seen_enough(self, partition: int) -> bool:
        since, jobs = self._seen.get(partition, (time.monotonic(), 0))
        self._seen[partition] = since, jobs + 1
        enough = jobs + 1 >= self._fewest and time.monotonic() >= since + CAREFUL_SECONDS
        if enough:
            del self._seen[partition]
        return enough

    def drop(self, partitions: Set[int]) -> list[Run]:
        """Forget partitions; the runs of them that have not begun."""
        for partition in partitions:
            self._seen.pop(partition, None)
        dropped = [run for run in self._waiting if run.partition in partitions]
        self._waiting = [run for run in self._waiting if run.partition not in partitions]
        if self.suspect is not None and self.suspect.partition in partitions and not self._begun:
            dropped.append(self.suspect)
        return dropped

    def _suspect(self, run: Run) -> None:
        self.suspect, self._begun = run, False
        noted = self._ledger.notes_of(run.partition)
        self._ledger.note(run.partition, noted._replace(suspect=run.offset))

    def _is_suspicious(self, run: Run) -> bool:
        noted = self._ledger.notes_of(run.partition)
        return noted.careful or run.offset in noted.crashes

    def _is_named(self, partition: int, run: Run | None = None) -> bool:
        """Whether the last commit says that this run is the suspect; without a run, whether it says so of any."""
        committed = self._exchange.committed.get(partition)
        if committed is None or committed.notes.suspect is None:
            return False
        return run is None or (committed.epoch == run.epoch and committed.notes.suspect == run.offset)
