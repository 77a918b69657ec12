"""What type checkers say: a wrong call is an error where it is written, a right one is none, and
README, guide and examples are right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from guidepages import SNIPPETS
from support import HANG_SECONDS, ROOT

TYPED = ROOT / "tests" / "typed"
CALLS = ("right_calls.py", "wrong_calls.py")
EXAMPLES = [*sorted((ROOT / "examples").glob("*.py")), ROOT / "examples/flask_shop/shop.py"]
UNANNOTATED = (
    "--allow-untyped-defs",
    "--allow-incomplete-defs",
    "--allow-untyped-calls",
    "--allow-untyped-decorators",
    "--disable-error-code=var-annotated",
)
"""What mypy allows in the snippets, which annotate nothing, to be short. The rest is as strict."""

Faults = dict[str, set[int]]
"""Lines with an error, by file."""


def mypy(folder: Path, names: Iterable[str], *, annotated: bool = True) -> Faults:
    """`mypy --strict` over files in a folder."""
    lenient = [] if annotated else UNANNOTATED
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", *lenient]
    command += [
        "--no-error-summary",
        f"--config-file={ROOT / 'setup.cfg'}",
        f"--cache-dir={ROOT / '.mypy_cache'}",
    ]
    done = subprocess.run(
        [*command, *names],
        cwd=folder,
        env={**os.environ, "MYPYPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode in (0, 1) and not done.stderr, done.stdout + done.stderr
    return _by_file(re.findall(r"^(.+?):(\d+): error:", done.stdout, re.MULTILINE), done.stdout)


def pyright(folder: Path, names: Iterable[str], *, annotated: bool = True) -> Faults:
    """pyright over files in a folder."""
    settings = {
        "include": [str(folder / name) for name in names],
        "extraPaths": [str(ROOT)],
        "pythonVersion": "3.10",
        "typeCheckingMode": "strict" if annotated else "standard",
    }
    project = folder / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", f"--pythonpath={sys.executable}"]
    done = subprocess.run(
        [*command, f"--project={project}"],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == len(settings["include"]), done.stdout
    return _by_file(
        [
            (each["file"], each["range"]["start"]["line"] + 1)
            for each in found["generalDiagnostics"]
            if each["severity"] == "error"
        ],
        done.stdout,
    )


def _by_file(places: Iterable[tuple[str, str | int]], shown: str) -> Faults:
    print(shown)  # for who reads a failure
    faults: Faults = {}
    for path, line in places:
        faults.setdefault(Path(path).name, set()).add(int(line))
    return faults


each_checker = pytest.mark.parametrize("check", [mypy, pyright], ids=["mypy", "pyright"])
Check = Callable[..., Faults]


def copied(paths: Iterable[Path], folder: Path) -> list[str]:
    """Copies of files, whose names are those of modules."""
    names = []
    for path in paths:
        names.append(path.stem.replace(".", "_") + ".py")
        (folder / names[-1]).write_text(path.read_text())
    return names


@each_checker
def test_ten_wrong_calls_are_ten_errors_and_right_ones_none(check: Check, tmp_path: Path) -> None:
    wrong = {
        number
        for number, line in enumerate((TYPED / "wrong_calls.py").read_text().splitlines(), 1)
        if "  # wrong: " in line
    }
    names = copied(sorted(TYPED.glob("*.py")), tmp_path)
    assert set(CALLS) < set(names) and len(wrong) == 10
    assert check(tmp_path, names) == {"wrong_calls.py": wrong}


@each_checker
def test_the_snippets_are_right(check: Check, tmp_path: Path) -> None:
    names = []
    for name, snippet in SNIPPETS.items():
        if name.startswith(("celery_", "rq_")):
            continue  # what these packages say of their types is no matter of ours
        names.append(name.removesuffix(".py").replace(".", "_") + ".py")
        (tmp_path / names[-1]).write_text(snippet)
    assert check(tmp_path, names, annotated=False) == {}


@each_checker
def test_the_examples_are_right(check: Check, tmp_path: Path) -> None:
    assert check(tmp_path, copied(EXAMPLES, tmp_path)) == {}
