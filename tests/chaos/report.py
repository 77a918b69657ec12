"""What the hosts' notes say: what was lost, doubled, out of order, and whether a fault explains it."""
from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from chaos.faults import Event
from chaos.load import EXPECTED, Load

_COMMITTED_SECONDS = 3.0
"""In quiet times what is done is committed after so long, a slow poll and a busy machine included."""
_SETTLING_SECONDS = 25.0
"""For so long after a fault its consequences may show: a session, a rebalance, a restart of the broker."""


class Run(NamedTuple):
    """One run of a job."""

    number: int
    key: str
    host: str
    begin: float
    end: float | None


@dataclass
class Report:
    """The figures, each list with one text a case."""

    enqueued: int
    done: int
    lost: list[int]
    callbacks_missing: list[int]
    wrong_status: list[str]
    run_twice: dict[int, str] = field(default_factory=dict)
    order_broken: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    longest_stall: float = 0.0
    host_failures: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Whether every promise was kept."""
        return not (self.lost or self.callbacks_missing or self.wrong_status or self.unexplained or self.host_failures)


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


def read_evictions(folder: Path) -> dict[str, list[float]]:
    """By host when its log says that the group had thrown it out without its notice: kafka-python's own doing, see `Membership`."""
    return {
        path.stem: [float(line.split()[0]) for line in path.read_text().splitlines() if "does not know this consumer any more" in line]
        for path in folder.glob("host-*.own")
    }


def make_report(
    folder: Path, load: Load, events: list[Event], host_failures: list[str], partitions: Mapping[int, int]
) -> Report:
    """Compare what was sent with what the hosts noted; `partitions` tells on which one each job lies."""
    runs, told = read_notes(folder)
    by_number: dict[int, list[Run]] = defaultdict(list)
    for run in runs:
        by_number[run.number].append(run)
    evictions = read_evictions(folder)
    sent = load.acknowledged
    report = Report(
        enqueued=len(sent),
        done=sum(number in told for number in sent),
        lost=sorted(number for number in sent if number not in by_number),
        callbacks_missing=sorted(number for number in sent if number not in told),
        wrong_status=[
            f"job {number} ({kind}) was told as {status} by {host}"
            for number, kind in sent.items() for _, host, status in told.get(number, ()) if status != EXPECTED[kind]
        ],
        faults=Counter(event.kind for event in events),
        longest_stall=_longest_gap(when for calls in told.values() for when, _, _ in calls),
        host_failures=host_failures,
    )
    for number, several in by_number.items():
        for first, second in pairwise(several):
            cause = _cause_of_repeat(first, second, events, evictions)
            report.run_twice[number] = cause
            if not cause:
                after = f"{second.begin - first.begin:.1f} s later"
                report.unexplained.append(f"job {number} ran on {first.host} and again on {second.host} {after}")
        calls = Counter(host for _, host, _ in told.get(number, ()))
        for host, count in calls.items():
            ran_here = sum(run.host == host for run in several)
            if count > ran_here:
                report.unexplained.append(f"job {number} has {count} callbacks on {host}, where it ran {ran_here} times")
    _check_order(runs, events, report, partitions)
    return report


def _cause_of_repeat(first: Run, second: Run, events: Sequence[Event], evictions: Mapping[str, list[float]]) -> str:
    """The first host's death or freezing before it can have committed, or an outage in which another took its partition over."""
    if first.host == second.host:
        return ""  # a host knows what it has done
    if any(first.begin - _SETTLING_SECONDS < moment < second.begin + _SETTLING_SECONDS for moment in evictions.get(first.host, ())):
        return "eviction"
    before = [event for event in events if event.begin <= second.begin and event.end >= first.begin - _SETTLING_SECONDS]
    for event in before:
        if event.kind == "freeze_host" and event.host == first.host:
            return event.kind
        if event.kind == "kill_host" and event.host == first.host and event.end > first.begin:
            quiet = not any(other.end > event.begin - _SETTLING_SECONDS for other in before if other is not event)
            if first.end is None or event.begin - first.end < _COMMITTED_SECONDS or not quiet:
                return event.kind
    return next((event.kind for event in before if event.kind in ("kill_broker", "freeze_broker")), "")


def _check_order(runs: Iterable[Run], events: list[Event], report: Report, partitions: Mapping[int, int]) -> None:
    """Within a key and host each run begins after the one before has ended, and none has a lower number."""
    last: dict[tuple[str, str], Run] = {}
    for run in runs:
        if run.key == "-":
            continue
        before = last.get((run.key, run.host))
        last[run.key, run.host] = run
        if before is None or (run.number > before.number and before.end is not None and run.begin >= before.end):
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
    for event in events:  # all of these move partitions from host to host
        if event.kind != "add_partition" and event.begin <= run.begin and event.end >= before.begin - _SETTLING_SECONDS:
            return event.kind
    return ""


def _longest_gap(moments: Iterable[float]) -> float:
    ordered = sorted(moments)
    return max((after - before for before, after in pairwise(ordered)), default=0.0)


def lines_of(report: Report) -> Mapping[str, str]:
    """The table's rows."""
    causes = Counter(cause.split()[0] if cause else "no cause" for cause in report.run_twice.values())
    explained = ", ".join(f"{count} by {cause}" for cause, count in causes.most_common())
    return {
        "enqueued": str(report.enqueued),
        "done": str(report.done),
        "lost": str(len(report.lost)),
        "callbacks missing": str(len(report.callbacks_missing)),
        "callbacks with a wrong status": str(len(report.wrong_status)),
        "run twice": f"{len(report.run_twice)}" + (f" ({explained})" if explained else ""),
        "order broken within a key": str(len(report.order_broken)),
        "without an explanation": str(len(report.unexplained)),
        "faults": ", ".join(f"{kind} {count}" for kind, count in sorted(report.faults.items())),
        "longest stall": f"{report.longest_stall:.1f} s",
        "hosts that failed by themselves": str(len(report.host_failures)),
    }
