"""`make mutants`: change the worker's core in one place at a time, run the unit tests, and list the
changes that none of them notices.

mutmut does the work, on a copy below `build`. It leaves decorated functions alone, so in the copy
each property calls a method of its own, which is not decorated. Arguments are modules to take, such
as `backlog`; all that setup.cfg lists by default.
"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / "build" / "mutants"
MUTMUT = Path(sys.executable).with_name("mutmut")

_PROPERTY = re.compile(r"^( +)@((?:cached_)?property)\n +def (\w+)\(self\)", re.MULTILINE)
_CALLS_ITS_METHOD = (
    r"\1\3 = \2(lambda self: self.get_\3())  # pragma: no mutate\n\1def get_\3(self)"
)
_CAUGHT = ("killed", "timeout", "suspicious", "segfault", "caught by type check")


def modules(wanted: Sequence[str]) -> list[Path]:
    """What is mutated, by path from the root."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    listed = [Path(line) for line in settings["mutmut"]["only_mutate"].split()]
    unknown = set(wanted) - {path.stem for path in listed}
    if unknown:
        sys.exit(f"not among the modules of [mutmut] in setup.cfg: {', '.join(sorted(unknown))}")
    return [path for path in listed if not wanted or path.stem in wanted]


def make_copy(mutated: Sequence[Path]) -> None:
    """What the unit tests need."""
    shutil.rmtree(COPY, ignore_errors=True)
    unneeded = shutil.ignore_patterns(
        "__pycache__", "program", "*.rst", "chaos", "benchmarks", "fuzz"
    )
    for folder in ("embedkq", "tests"):
        shutil.copytree(ROOT / folder, COPY / folder, ignore=unneeded)
    shutil.copy2(ROOT / "setup.cfg", COPY)
    for path in mutated:
        text = (ROOT / path).read_text(encoding="utf-8")
        (COPY / path).write_text(_PROPERTY.sub(_CALLS_ITS_METHOD, text), encoding="utf-8")


def mutmut(*arguments: str) -> str:
    return subprocess.run(
        [MUTMUT, *arguments], cwd=COPY, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def main(wanted: Sequence[str]) -> int:
    mutated = modules(wanted)
    make_copy(mutated)
    names = [".".join(path.with_suffix("").parts) for path in mutated]
    subprocess.run([MUTMUT, "run", *(f"{name}.*" for name in names)], cwd=COPY, check=True)
    status_of = dict(
        re.findall(r"^ +(\S+): (.+)$", mutmut("results", "--all", "true"), re.MULTILINE)
    )
    missed = [
        name
        for name, status in status_of.items()
        if status not in _CAUGHT and name.startswith(tuple(f"{each}." for each in names))
    ]
    for name in missed:
        print(f"{name}: {status_of[name]}\n{mutmut('show', name)}")
    for name in names:
        found = Counter(status for key, status in status_of.items() if key.startswith(f"{name}."))
        caught = sum(found[status] for status in _CAUGHT)
        share = caught / found.total()
        print(
            f"{name:58} {caught:4} of {found.total():4} caught ({share:.1%}),"
            f" {found['timeout']} of them by a timeout"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
