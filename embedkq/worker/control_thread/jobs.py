"""Jobs: all that was admitted and is not done, and in which state each is. Control thread.

The life of a job, by the methods of `ControlLoop` that move it on:

1. `_take_batch`: the consumer thread has polled it. It is `queued`.
2. `_admit_some`: it is its partition's turn. What is done, or in flight, already is `dropped`; what
   is refused is `held` where the fault may be this host's, else it continues with 6. If another job
   has its key, it is `waiting_for_key`.
3. `_admit`: the crash guard releases it to the pool, `in_pool`, or it is `waiting_for_commit`.
4. `_settle`: it has ended. If another attempt follows, it is `waiting_for_retry`; if this host can
   load no job, it is `held`; both continue with 3.
5. `_end`: its outcome is final. It is `awaiting_callback`, if there is a callback.
6. `_complete`: if it has failed for good, it is `awaiting_dead_letter`, else `done`.
7. `_letters_written`: it is `done`.

`_drop` and `kill_jobs` end what has not begun, or must not continue, as `dropped`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from embedkq._partition import Partition
from embedkq.worker.between_threads.backlog import Backlog
from embedkq.worker.between_threads.job_state import MOVES, JobState
from embedkq.worker.between_threads.messages import Finished, JobRun
from embedkq.worker.control_thread.crash_guard import CrashGuard
from embedkq.worker.control_thread.partition_ledger import PartitionLedger

_ORIGINS = {
    to: frozenset(state for state, following in MOVES.items() if to in following) for to in MOVES
}
"""The table of moves turned round: one look-up for all jobs that go to the same state."""


class Jobs:
    """The jobs in flight. Nobody else moves a job from state to state: so each move is checked, and
    what an end entails (lane, bytes, offset, suspect) happens here.

    Args:
        backlog: has the lanes of the keys, and counts what the worker holds.
        ledger: learns which offsets are done.
        guard: learns that a suspect has ended.
        most: how many jobs may be admitted; None for any number. One that is dropped does not
            count.
    """

    def __init__(
        self, backlog: Backlog, ledger: PartitionLedger, guard: CrashGuard, most: int | None = None
    ) -> None:
        self.admissible = math.inf if most is None else most
        """How many more jobs may be admitted."""
        self._backlog, self._ledger, self._guard = backlog, ledger, guard
        self._by_place: dict[tuple[Partition, int, int], JobRun] = {}

    def __len__(self) -> int:
        return len(self._by_place)

    def __iter__(self) -> Iterator[JobRun]:
        return iter(self._by_place.values())

    def admit(self, run: JobRun) -> bool:
        """Take a run in; False if its job is in flight already, since an earlier assignment."""
        place = run.place
        in_flight = self._by_place.get(place)
        if in_flight is not None:
            in_flight.epoch = run.epoch  # one run, one callback; its end finishes this admission
            self.pass_over(run)
            return False
        self._by_place[place] = run
        if run.refusal is None:
            self.admissible -= 1
        return True

    def pass_over(self, run: JobRun) -> None:
        """The run is one too many: its job is done, or in flight."""
        self.move((run,), JobState.DROPPED)
        self._backlog.leave(run)

    def move(self, runs: Iterable[JobRun], to: JobState) -> None:
        """Go on to a state that entails nothing else.

        Raises:
            RuntimeError: there is no such move.
        """
        origins = _ORIGINS[to]
        for run in runs:
            if run.state not in origins:
                raise _no_such_move(run, to)
            run.state = to

    def await_callbacks(self, ends: Sequence[Finished]) -> None:
        """The outcomes of these are final: from now on the worker holds their results, too."""
        origins, to = _ORIGINS[JobState.AWAITING_CALLBACK], JobState.AWAITING_CALLBACK
        grown = 0
        for run, outcome in ends:
            if run.state not in origins:
                raise _no_such_move(run, to)
            run.state = to
            size = len(outcome.payload)
            run.size += size
            grown += size
        self._backlog.grow(grown)

    def finish(self, runs: Iterable[JobRun]) -> None:
        """They are done: their offsets count, their keys are free."""
        origins, to = _ORIGINS[JobState.DONE], JobState.DONE
        left, leave, finish = self._guard.left, self._backlog.leave, self._ledger.finish
        for run in runs:
            if run.state not in origins:
                raise _no_such_move(run, to)
            run.state = to
            del self._by_place[run.place]
            if run.key is not None:
                self._backlog.leave_lane(run)
            left(run)
            leave(run)
            finish(run)

    def drop(self, runs: Iterable[JobRun]) -> None:
        """They will not run here and are not done.

        With a limit on the number of jobs, others may run in their place.
        """
        for run in runs:
            waited_for_key = run.state is JobState.WAITING_FOR_KEY
            self.move((run,), JobState.DROPPED)
            del self._by_place[run.place]
            self._guard.left(run)
            if not waited_for_key:  # else it has no lane of its own
                self._backlog.leave_lane(run)
            self._backlog.leave(run)
            if run.refusal is None:
                self.admissible += 1

    def abandon(self) -> None:
        """Give all of them up: no outcome, no callback, no commit."""
        self.move(self, JobState.DROPPED)
        self._by_place.clear()


def _no_such_move(run: JobRun, to: JobState) -> RuntimeError:
    return RuntimeError(
        f"the job at partition {run.partition.number}, offset {run.offset} is {run.state} and"
        f" cannot become {to}"
    )
