"""What processes use, as /proc tells it. Linux only."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def family(pid: int | None = None) -> set[int]:
    """A process (this one) and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int(
                    (entry / "stat").read_text().rpartition(")")[2].split()[1]
                )
            except (FileNotFoundError, ProcessLookupError):
                continue
    found: set[int] = set()
    more = {pid or os.getpid()}
    while more:
        found |= more
        more = {child for child, parent in parents.items() if parent in more}
    return found


def processor_seconds(pids: Iterable[int]) -> float:
    """What all threads of these processes that live have used, to the microsecond: the clock ticks
    of `stat` are too coarse."""
    used = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            used += int((task / "schedstat").read_text().split()[0])
    return used / 1e9


def memory(pids: Iterable[int]) -> float:
    """MiB of memory, that which is shared counted by its share (PSS); those that have ended
    meanwhile have none."""
    kilobytes = 0
    for pid in pids:
        try:
            told = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        kilobytes += sum(
            int(line.split()[1]) for line in told.splitlines() if line.startswith("Pss:")
        )
    return kilobytes / 1024


def resident(pid: int | str = "self", field: str = "VmRSS") -> float:
    """MiB of a process, as /proc/PID/status names them: VmRSS now, VmHWM at the most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(field)
