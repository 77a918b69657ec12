"""What the hosts' notes say: what was lost, doubled, out of order, and whether a fault explains
it."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from chaos.faults import Event
from chaos.lives import Life, records_of
from chaos.load import EXPECTED, Load

_COMMITTED_SECONDS = 3.0
"""In quiet times what is done is committed after so long, a slow poll and a busy machine
included."""
_LIVES = ("recreate_topic", "wipe_broker")
"""Faults that end the life of a topic: what waits in it goes with it."""
_OUTAGES = ("kill_broker", "freeze_broker")
_MOVES = (*_LIVES, *_OUTAGES, "kill_host", "freeze_host", "freeze_idle_host", "reset_offsets")
"""Faults after which a host may get jobs again that it had had before: those after which jobs run
again."""
_WARNINGS = {
    "eviction": "no longer knows this consumer",
    "unfinished_stop": "has stopped, but not in order",
}
"""Causes of repeats that a host tells itself: the group had thrown it out without its notice, which
is kafka-python's own doing (see `Membership`); or it was asked to leave, and could not commit in
time."""
_BEGINNING = re.compile(r"Processing Record\(topic=\w+, partition=(\d+), offset=\d+\)").search
_RUNNING = re.compile(r"Running Job \S+: \S+\((\d+), ").search
_SETTLING_SECONDS = 25.0
"""For so long after a fault its consequences may show: a session, a rebalance, a restart of the
broker."""


class Run(NamedTuple):
    """One run of a job."""

    number: int
    key: str
    host: str
    begin: float
    end: float | None


@dataclass
class Report:
    """The figures, each list with one text a case. `gone` are jobs that were not done when their
    topic was deleted."""

    enqueued: int
    done: int
    lost: list[int]
    gone: list[int]
    callbacks_missing: list[int]
    wrong_status: list[str]
    run_twice: list[str] = field(default_factory=list)
    order_broken: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    longest_stall: float = 0.0
    host_failures: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether every promise was kept."""
        return not (
            self.lost
            or self.callbacks_missing
            or self.wrong_status
            or self.unexplained
            or self.host_failures
        )


def read_notes(folder: Path) -> tuple[list[Run], dict[int, list[tuple[float, str, str]]]]:
    """All runs, and by job its callbacks (when, host, status)."""
    runs: list[Run] = []
    told: dict[int, list[tuple[float, str, str]]] = defaultdict(list)
    for path in folder.glob("host-*.log"):
        open_runs: dict[int, Run] = {}
        for line in path.read_text().splitlines():
            when, what, number, rest = line.split(" ", 3)
            if what == "begin":
                if int(number) in open_runs:
                    runs.append(open_runs.pop(int(number)))
                open_runs[int(number)] = Run(int(number), rest, path.stem, float(when), None)
            elif what == "end" and int(number) in open_runs:
                runs.append(open_runs.pop(int(number))._replace(end=float(when)))
            elif what == "told":
                told[int(number)].append((float(when), path.stem, rest))
        runs += open_runs.values()
    return sorted(runs, key=lambda run: run.begin), told


def read_warnings(folder: Path) -> dict[str, dict[str, list[float]]]:
    """By the cause of a repeat, then by host: when its log says so."""
    return {
        cause: {
            path.stem: [
                float(line.split()[0]) for line in path.read_text().splitlines() if text in line
            ]
            for path in folder.glob("host-*.own")
        }
        for cause, text in _WARNINGS.items()
    }


def read_partitions(folder: Path) -> dict[int, int]:
    """By number the partition on which a job lies, as the hosts' logs tell."""
    found: dict[int, int] = {}
    for path in folder.glob("host-*.own"):
        partition = None
        for line in path.read_text().splitlines():
            if (record := _BEGINNING(line)) is not None:
                partition = int(record[1])
            elif partition is not None and (job := _RUNNING(line)) is not None:
                found[int(job[1])] = partition
    return found


def make_report(
    folder: Path, load: Load, events: list[Event], lives: list[Life], host_failures: list[str]
) -> Report:
    """Compare what was sent with what the hosts noted."""
    runs, told = read_notes(folder)
    by_number: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        by_number[run.number].append(run)
    sent = load.acknowledged
    missing = [number for number in sent if number not in told]
    gone = {number for number in missing if _is_gone(number, load, events, lives)}
    report = Report(
        enqueued=len(sent),
        done=len(sent) - len(missing),
        lost=sorted(number for number in missing if number not in gone and number not in by_number),
        gone=sorted(gone),
        callbacks_missing=sorted(number for number in missing if number not in gone),
        wrong_status=[
            f"job {number} ({kind}) was told as {status} by {host}"
            for number, kind in sent.items()
            for _, host, status in told.get(number, ())
            if status != EXPECTED[kind]
        ],
        faults=Counter(event.kind for event in events),
        longest_stall=_longest_gap(when for calls in told.values() for when, _, _ in calls),
        host_failures=host_failures,
    )
    evidence = Evidence(load, events, lives, read_warnings(folder))
    for number, several in by_number.items():
        _check_repeats(number, several, told.get(number, ()), evidence, report)
    _check_order(runs, events, report, read_partitions(folder))
    return report


def _is_gone(number: int, load: Load, events: Sequence[Event], lives: list[Life]) -> bool:
    """Whether nobody has to do a job any more: it was not done when the topic in which it lay was
    deleted.

    Each topic was read before it was deleted, with what was committed of it. A job that was never
    seen can only have been acknowledged after that, before the topic was gone.
    """
    records = list(records_of(lives, number))
    if records:
        return all(life.end < math.inf and not record.done for life, record in records)
    return any(_was_sent_during(event, number, load) for event in events if event.kind in _LIVES)


def _was_sent_during(event: Event, number: int, load: Load) -> bool:
    return load.sent_at.get(
        number, math.inf
    ) <= event.end and event.begin <= load.acknowledged_at.get(number, math.inf)


class Evidence(NamedTuple):
    """What may have caused a repeat."""

    load: Load
    events: Sequence[Event]
    lives: list[Life]
    warnings: Mapping[str, Mapping[str, list[float]]]


def _check_repeats(
    number: int,
    several: Sequence[Run],
    calls: Sequence[tuple[float, str, str]],
    evidence: Evidence,
    report: Report,
) -> None:
    further_records = len(list(records_of(evidence.lives, number))) - 1
    for first, second in pairwise(several):
        cause = _cause_of_repeat(first, second, evidence)
        if not cause and further_records > 0:
            further_records -= 1
            cause = "another_record"
        report.run_twice.append(cause)
        if not cause:
            after = f"{second.begin - first.begin:.1f} s later"
            report.unexplained.append(
                f"job {number} ran on {first.host} and again on {second.host} {after}"
            )
    for host, count in Counter(host for _, host, _ in calls).items():
        ran_here = sum(run.host == host for run in several)
        if count > ran_here:
            report.unexplained.append(
                f"job {number} has {count} callbacks on {host}, where it ran {ran_here} times"
            )


def _cause_of_repeat(first: Run, second: Run, evidence: Evidence) -> str:
    """Which fault has a job run a second time; nothing if none has."""
    near = [
        event
        for event in evidence.events
        if event.begin <= second.begin and event.end >= first.begin - _SETTLING_SECONDS
    ]
    for event in near:
        if (
            event.kind in _LIVES
            and second.begin < event.end + _SETTLING_SECONDS
            and _is_of_next_life(first.number, event, evidence)
        ):
            return event.kind
    if first.host == second.host:
        return ""  # a host knows what it has done
    for cause, by_host in evidence.warnings.items():
        if any(
            abs(moment - first.begin) < _SETTLING_SECONDS for moment in by_host.get(first.host, ())
        ):
            return cause
    for event in near:
        if (
            event.kind == "reset_offsets"
            and event.end >= first.begin
            and _was_set_back(first.number, event, evidence.lives)
        ):
            return event.kind
        if event.kind in ("freeze_host", "freeze_idle_host") and event.host == first.host:
            return event.kind
        if (
            event.kind == "kill_host"
            and event.host == first.host
            and event.end > first.begin
            and _was_uncommitted(first, event, near)
        ):
            return event.kind
    return next(
        (
            event.kind
            for event in near
            if event.kind in _OUTAGES and second.begin < event.end + 2 * _SETTLING_SECONDS
        ),
        "",
    )


def _is_of_next_life(number: int, event: Event, evidence: Evidence) -> bool:
    """Whether a job is of the topic that came after: its first records are read again once the new
    topic is seen.

    A producer that gets no answer sends it again, so that it may have lain in both.
    """
    is_there = any(life.end > event.end for life, _ in records_of(evidence.lives, number))
    return is_there or _was_sent_during(event, number, evidence.load)


def _was_set_back(number: int, event: Event, lives: list[Life]) -> bool:
    life = next((life for life in lives if life.end > event.begin), None)
    records = () if life is None else life.records.get(number, ())
    return any(
        record.offset >= event.moved_to.get(record.partition, math.inf) for record in records
    )


def _was_uncommitted(run: Run, death: Event, near: Iterable[Event]) -> bool:
    """Whether a host may have died before it had committed what it did: in quiet times it does so
    within seconds."""
    if run.end is None:
        return True
    quiet = not any(
        other.end > death.begin - _SETTLING_SECONDS and other.begin < death.begin
        for other in near
        if other is not death
    )
    return death.begin - run.end < (_COMMITTED_SECONDS if quiet else _SETTLING_SECONDS)


def _check_order(
    runs: Iterable[Run], events: list[Event], report: Report, partitions: Mapping[int, int]
) -> None:
    """Within a key and host each run begins after the one before has ended, and none has a lower
    number."""
    last: dict[tuple[str, str], Run] = {}
    for run in runs:
        if run.key == "-":
            continue
        before = last.get((run.key, run.host))
        last[run.key, run.host] = run
        if before is None or (
            run.number > before.number and before.end is not None and run.begin >= before.end
        ):
            continue
        if before.end is None and run.number > before.number:
            continue  # its host died over it
        moved = partitions.get(before.number) != partitions.get(run.number)
        cause = "add_partition" if moved else _cause_of_disorder(before, run, events)
        text = f"key {run.key} on {run.host}: job {run.number} began {run.begin - before.begin:.2f} s after job {before.number}"
        report.order_broken.append(f"{text}: {cause or 'no cause'}")
        if not cause:
            report.unexplained.append(text)


def _cause_of_disorder(before: Run, run: Run, events: Iterable[Event]) -> str:
    for event in events:
        if (
            event.kind in _MOVES
            and event.begin <= run.begin
            and event.end >= before.begin - _SETTLING_SECONDS
        ):
            return event.kind
    return ""


def _longest_gap(moments: Iterable[float]) -> float:
    ordered = sorted(moments)
    return max((after - before for before, after in pairwise(ordered)), default=0.0)


def lines_of(report: Report) -> Mapping[str, str]:
    """The table's rows."""
    causes = Counter(cause or "no cause" for cause in report.run_twice)
    explained = ", ".join(f"{count} by {cause}" for cause, count in causes.most_common())
    return {
        "enqueued": str(report.enqueued),
        "done": str(report.done),
        "lost": str(len(report.lost)),
        "gone with their topic": str(len(report.gone)),
        "callbacks missing": str(len(report.callbacks_missing)),
        "callbacks with a wrong status": str(len(report.wrong_status)),
        "run again": f"{len(report.run_twice)}" + (f" ({explained})" if explained else ""),
        "order broken within a key": str(len(report.order_broken)),
        "without an explanation": str(len(report.unexplained)),
        "faults": ", ".join(f"{kind} {count}" for kind, count in sorted(report.faults.items())),
        "longest stall": f"{report.longest_stall:.1f} s",
        "hosts that failed by themselves": str(len(report.host_failures)),
    }
