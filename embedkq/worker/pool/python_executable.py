"""Which program starts Python here: `sys.executable` is another one under uWSGI, and the
application itself where that is frozen."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

from embedkq._ipc.multiprocessing_private import python_of_children
from embedkq.errors import WorkerError

_IS_PYTHON = re.compile(
    r"\.?(i?python|pypy|graalpy)[0-9.]*[a-z]{0,2}(-[a-z0-9-]+)?", re.IGNORECASE
).fullmatch
_TRIAL_SECONDS = 20.0
_TRIAL = "import sys; print(sys.implementation.cache_tag, *sys.version_info[:2])"


def find_python() -> str:
    """Path of the interpreter that child processes run on.

    Raises:
        WorkerError: there is none; the message names what was found, and the cure.
    """
    chosen = python_of_children()
    if chosen and (_IS_PYTHON(os.path.basename(chosen)) or chosen != (sys.executable or "")):
        return (
            chosen  # a Python, or what the application has set by `multiprocessing.set_executable`
        )
    if getattr(sys, "frozen", False):
        raise WorkerError(
            f"this application is frozen, so {chosen!r} starts the application and not Python,"
            " which child processes need: run the jobs with `kq worker` in a Python environment"
            " that has the same code; a Queue works here"
        )
    return _beside_the_library(chosen)


@cache
def _beside_the_library(chosen: str) -> str:
    """As in an interpreter that is embedded in another program."""
    for candidate in dict.fromkeys(_candidates()):
        if os.access(candidate, os.X_OK) and _is_same_python(candidate):
            return candidate
    raise WorkerError(
        f"sys.executable is {chosen!r}, which is no Python, and child processes need one: call"
        f" multiprocessing.set_executable('/path/to/python{_version()}') before the worker starts"
    )


def _candidates() -> Iterator[str]:
    import sysconfig  # here, since hardly any process needs it

    folders = [
        os.path.join(sys.exec_prefix, "bin"),
        os.path.join(sys.base_exec_prefix, "bin"),
        sysconfig.get_config_var("BINDIR") or "",
    ]
    for folder in filter(None, folders):
        for name in (f"python{_version()}", "python3", "python"):
            yield os.path.join(folder, name)


def _is_same_python(path: str) -> bool:
    try:
        told = subprocess.run(
            [path, "-I", "-c", _TRIAL],
            capture_output=True,
            text=True,
            timeout=_TRIAL_SECONDS,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return told.split() == [str(sys.implementation.cache_tag), *map(str, sys.version_info[:2])]


def _version() -> str:
    return "{}.{}".format(*sys.version_info[:2])
