"""CrashGuard: a job that takes its worker's host down does so a few times, and then not again.
Control thread.

The commit metadata of a partition counts the hosts that have begun its jobs one after the other,
without progress and without being asked to stop. After two such starts the partition's jobs run one
at a time, and before each the metadata names it and the host: so the next host knows which job the
last one crashed over. A job that was at too many crashes is quarantined. Few jobs need this care,
those that the earlier hosts had begun and not committed: it ends after some seconds and some jobs.

What this buys: of 41 short jobs, one of which killed its host, all were done after 5 hosts had gone
down (`max_crashes=3`). Without the guard none was committed after 20, and callbacks had run 385
times. Where nothing is suspected, it takes 0.1 µs a job.

Jobs of other partitions run beside the suspect, and one of them may be what takes the host down.
Therefore the suspect gets its last chance with nothing else in any child, for a bounded time: no
job is quarantined for what another one has done.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Set
from typing import NamedTuple

from embedkq._partition import Partition
from embedkq._safe_logging import SafeLogger
from embedkq.errors import HostCrashed
from embedkq.worker.between_threads.messages import JobRun
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.control_thread.partition_ledger import PartitionLedger

logger = SafeLogger("embedkq.worker")

CAREFUL_SECONDS = 30.0
"""For so long at least, and for two jobs of each process at least, a partition's jobs run one at a
time."""
_LAST_CHANCE_SECONDS = 30.0
"""For so long at most a suspect waits, for its last chance, until nothing else runs; and for so
long at most nothing else begins then."""


class Quarantined(NamedTuple):
    """A run that must not begin.

    Attributes:
        run: which.
        error: the hosts that it took down.
        silently: one of them went down after the run was quarantined, so its callback may be what
            does it.
    """

    run: JobRun
    error: HostCrashed
    silently: bool


class Release(NamedTuple):
    """What follows for the runs that the guard has: those that begin now, and the one that never
    will."""

    begin: list[JobRun]
    quarantined: Quarantined | None = None


class CrashGuard:
    """Runs that may begin pass through here. The first ones of a partition wait for a commit; those
    under suspicion wait for their turn, one at a time in the whole worker, and for one that names
    them.

    Args:
        processes: how many jobs run at once where nothing is suspected.
        max_crashes: hosts that a job may take down while it is the suspect; None guards against
            nothing.
        is_idle: whether nothing is in any child.
    """

    def __init__(
        self,
        shared: SharedState,
        ledger: PartitionLedger,
        processes: int,
        max_crashes: int | None,
        is_idle: Callable[[], bool] = lambda: True,
    ) -> None:
        self.suspect: JobRun | None = None
        """The one under suspicion whose turn it is."""
        self._max_crashes = max_crashes
        self._shared = shared
        self._ledger = ledger
        self._beginning: set[Partition] = set()
        self._waiting: list[JobRun] = []
        self._runs_alone = False
        self._is_idle = is_idle
        self._alone_until = 0.0
        self._fewest = 2 * processes
        self._seen: dict[Partition, tuple[float, int]] = {}

    @property
    def held_up(self) -> set[Partition]:
        """Partitions that should be paused."""
        if self.suspect is None and not self._waiting:
            return set()
        held = {run.partition for run in (*self._waiting, self.suspect) if run is not None}
        if self._has_last_chance:
            return held
        return {partition for partition in held if self._ledger.notes_of(partition).serial_mode}

    def assigned(self, partition: Partition) -> None:
        """A partition is ours; what another host was at when it went down is known, and counts
        against that."""
        self._beginning.discard(partition)
        if self._max_crashes is None:
            self._shared.begun.add(partition)  # nothing waits for it
        noted = self._ledger.notes_of(partition)
        offset = noted.suspect
        ours = (
            self.suspect is not None
            and self._runs_alone
            and (self.suspect.partition, self.suspect.offset) == (partition, offset)
        )
        if offset is None or ours:
            return
        noted = noted.with_crash()
        self._ledger.note(partition, noted)
        logger.warning(
            "%s went down while the job at partition %d, offset %d ran alone in it (so far %d"
            " times).",
            f"Host {noted.hosts[-1]}" if noted.hosts else "A host",
            partition.number,
            offset,
            noted.crashes[offset],
        )

    def release(self, runs: list[JobRun]) -> Release:
        """Of these and those that wait here, which begin now; the others wait here."""
        begun = self._shared.begun
        suspicious = self._waiting or self.suspect is not None or self._ledger.suspicious
        if self._max_crashes is None or not (
            suspicious or any(run.partition not in begun for run in runs)
        ):
            return Release(runs)
        free, self._waiting = self._divided([*self._waiting, *runs])
        if self.suspect is None:
            self._choose_suspect()
        quarantined = None
        if self.suspect is not None and not self._runs_alone and self._may_run(self.suspect):
            quarantined = self._begin_alone(self.suspect)
            if quarantined is None:
                free.append(self.suspect)
        was_serial = self._shared.serial_mode
        self._shared.serial_mode = self.suspect is not None or bool(self._waiting)
        if was_serial and not self._shared.serial_mode:
            # nothing waits for a commit: the consumer's thread need not wait for a question
            self._shared.asked.set()
        return Release(free, quarantined)

    def _divided(self, runs: list[JobRun]) -> tuple[list[JobRun], list[JobRun]]:
        """Those that may begin, and those that wait."""
        free: list[JobRun] = []
        waiting: list[JobRun] = []
        alone = self._has_last_chance
        for run in runs:
            may_begin = (
                not alone
                and self._has_begun(run)
                and not self._is_suspicious(run)
                and not self._is_named(run.partition)
            )
            (free if may_begin else waiting).append(run)
        return free, waiting

    def _choose_suspect(self) -> None:
        """The first of those that wait under suspicion has its turn."""
        following = next(filter(self._is_suspicious, self._waiting), None)
        if following is None or self._max_crashes is None:
            return
        self._waiting.remove(following)
        self.suspect, self._runs_alone = following, False
        noted = self._ledger.notes_of(following.partition)
        named = noted.suspecting(following.offset, socket.gethostname())
        self._ledger.note(following.partition, named)
        if self._max_crashes - noted.crashes.get(following.offset, 0) == 1:
            self._alone_until = time.monotonic() + _LAST_CHANCE_SECONDS

    def _begin_alone(self, suspect: JobRun) -> Quarantined | None:
        """The suspect begins now, unless it has been at too many crashes: then why it does not."""
        self._runs_alone = True
        if self._has_last_chance:
            self._alone_until = time.monotonic() + _LAST_CHANCE_SECONDS
        self._shared.begun.add(suspect.partition)  # the same commit says so
        noted = self._ledger.notes_of(suspect.partition)
        crashes = noted.crashes.get(suspect.offset, 0)
        if self._max_crashes is None or crashes < self._max_crashes:
            return None
        error = HostCrashed(crashes, tuple(dict.fromkeys(noted.hosts[:-1])))
        return Quarantined(suspect, error, silently=crashes > self._max_crashes)

    def left(self, run: JobRun) -> None:
        """The run has ended, or will not begin."""
        if run is not self.suspect:
            return
        noted = self._ledger.notes_of(run.partition)
        if self._runs_alone and noted.serial_mode and self._has_seen_enough(run.partition):
            noted = noted._replace(starts=0)
        self._ledger.note(run.partition, noted.cleared())
        self.suspect, self._runs_alone, self._alone_until = None, False, 0.0

    @property
    def _has_last_chance(self) -> bool:
        """Whether the suspect is quarantined if one more host crashes over it, and so runs with
        nothing else beside it."""
        return self.suspect is not None and time.monotonic() < self._alone_until

    def _may_run(self, suspect: JobRun) -> bool:
        """Whether it is committed who the suspect is, and nothing else runs where that matters."""
        return self._is_named(suspect.partition, suspect) and (
            not self._has_last_chance or self._is_idle()
        )

    def drop(self, partitions: Set[Partition]) -> list[JobRun]:
        """Forget partitions; the runs of them that have not begun."""
        for partition in partitions:
            self._seen.pop(partition, None)
        dropped = [run for run in self._waiting if run.partition in partitions]
        self._waiting = [run for run in self._waiting if run.partition not in partitions]
        if (
            self.suspect is not None
            and self.suspect.partition in partitions
            and not self._runs_alone
        ):
            dropped.append(self.suspect)
        return dropped

    def _has_begun(self, run: JobRun) -> bool:
        """Whether it is committed that this host has begun jobs of the partition; if not, that is
        noted, once."""
        partition, begun = run.partition, self._shared.begun
        if partition in begun:
            return True
        if partition not in self._beginning:
            self._beginning.add(partition)
            self._ledger.note(partition, self._ledger.notes_of(partition).begun())
        committed = self._shared.committed.get(partition)
        if (
            committed is None
            or committed.epoch != run.epoch
            or committed.notes.starts != self._ledger.notes_of(partition).starts
        ):
            return False
        begun.add(
            partition
        )  # for as long as this host lives: should it get the partition again, no other went down
        return True

    def _has_seen_enough(self, partition: Partition) -> bool:
        since, jobs = self._seen.get(partition, (time.monotonic(), 0))
        self._seen[partition] = since, jobs + 1
        enough = jobs + 1 >= self._fewest and time.monotonic() >= since + CAREFUL_SECONDS
        if enough:
            del self._seen[partition]
        return enough

    def _is_suspicious(self, run: JobRun) -> bool:
        noted = self._ledger.notes_of(run.partition)
        return noted.serial_mode or run.offset in noted.crashes

    def _is_named(self, partition: Partition, run: JobRun | None = None) -> bool:
        """Whether the last commit says that this run is the suspect; without a run, whether it says
        so of any."""
        committed = self._shared.committed.get(partition)
        if committed is None or committed.notes.suspect is None:
            return False
        return run is None or (
            committed.epoch == run.epoch and committed.notes.suspect == run.offset
        )
