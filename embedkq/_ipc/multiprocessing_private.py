"""All undocumented parts of multiprocessing and of Python's shutdown that embedkq uses. They are
checked at each start.

No other file of embedkq uses a private name of these modules, or imports an undocumented module of
multiprocessing (tests/test_architecture.py). Review this file before you declare support for
another version of Python.
"""

from __future__ import annotations

import atexit
import contextlib
import io
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from embedkq.errors import EmbedkqError

TESTED_WITH = "3.10 to 3.13"


def _sentence(missing: str) -> str:
    version = "{}.{}.{}".format(*sys.version_info[:3])
    return (
        f"Python {version} lacks something that embedkq needs ({missing}): use a version that"
        f" embedkq was tested with, {TESTED_WITH}, or a newer embedkq"
    )


try:
    from multiprocessing import (
        context,
        forkserver,
        process,
        reduction,
        resource_tracker,
        spawn,
        util,
    )
    from multiprocessing.popen_forkserver import Popen as ForkServerPopen
    from multiprocessing.popen_spawn_posix import Popen as SpawnPopen
    from multiprocessing.reduction import DupFd
except ImportError as error:
    raise ImportError(_sentence(str(error))) from error

__all__ = ["DupFd", "ForkServerPopen", "SpawnPopen", "check", "context"]

NEEDED: dict[Any, tuple[str, ...]] = {
    context: (
        "assert_spawning",
        "set_spawning_popen",
        "ForkServerContext",
        "ForkServerProcess",
        "SpawnProcess",
    ),
    forkserver: ("_forkserver", "read_signed", "write_signed"),
    ForkServerPopen: ("_launch", "_send_signal", "duplicate_for_child", "poll", "wait"),
    SpawnPopen: ("_launch", "_send_signal", "duplicate_for_child", "poll", "wait"),
    process: ("_children", "ORIGINAL_DIR"),
    process.BaseProcess: ("_Popen", "sentinel"),
    reduction: ("dump",),
    resource_tracker: ("getfd",),
    spawn: ("_main", "get_command_line", "get_executable"),
    util: (
        "_args_from_interpreter_flags",
        "_close_stdin",
        "close_fds",
        "Finalize",
        "spawnv_passfds",
    ),
    threading: ("_threading_atexits",),
    atexit: ("_run_exitfuncs",),
    sys: ("_xoptions",),
}
"""The names that this file and subclasses use, by owner."""


def check() -> None:
    """Check that all names exist. Takes about 10 us; called before each start of a worker. Any
    thread.

    Raises:
        EmbedkqError: a name is missing. The message names it and says which version to use.
    """
    for owner, names in NEEDED.items():
        for name in names:
            if not hasattr(owner, name):
                raise EmbedkqError(
                    _sentence(f"{getattr(owner, '__qualname__', owner.__name__)}.{name} is missing")
                )


# In the host.

read_status: Callable[[int], int] = forkserver.read_signed
write_status: Callable[[int, int], None] = forkserver.write_signed
tracker_descriptor: Callable[[], Any] = resource_tracker.getfd


def python_of_children() -> str:
    """The executable that `multiprocessing.set_executable` set, or `sys.executable`; empty if
    unknown."""
    return os.fsdecode(spawn.get_executable() or "")


def interpreter_flags() -> list[str]:
    """The flags of this process's Python that its children need too: -O, -W, -X, -E, -I and similar
    ones."""
    flags: list[str] = util._args_from_interpreter_flags()  # type: ignore[attr-defined]
    for option, value in sys._xoptions.items():  # that function returns only some of them
        flag = option if value is True else f"{option}={value}"
        if flag not in flags and f"-X{flag}" not in flags:
            flags += ["-X", flag]
    return flags


def import_path() -> list[str]:
    """`sys.path` for a process in another directory."""
    return [entry or process.ORIGINAL_DIR or os.getcwd() for entry in sys.path]  # type: ignore[attr-defined]


def start_program(executable: str, arguments: Sequence[Any], descriptors: Sequence[int]) -> int:
    """Start a program that inherits only these descriptors. Returns its process id."""
    return util.spawnv_passfds(os.fsencode(executable), arguments, descriptors)


def spawn_command(tracker: int, preparation: int) -> list[Any]:
    """The command line of a child that reads its preparation data from a pipe."""
    return spawn.get_command_line(tracker_fd=tracker, pipe_handle=preparation)


def close_with(owner: Any, descriptors: Sequence[int]) -> Any:
    """Close the descriptors when the owner is garbage-collected, or when the returned object is
    called."""
    return util.Finalize(owner, util.close_fds, descriptors)  # type: ignore[attr-defined]


def descriptors_of(popen: Any) -> list[int]:
    """The list of descriptors that a child inherits. Callers may extend it."""
    descriptors: list[int] = popen._fds
    return descriptors


def popen_of(child: Any) -> Any:
    """The `Popen` of a started process object."""
    return child._popen


def hide(child: Any) -> None:
    """Remove a started process from `multiprocessing.active_children`, so that Python does not wait
    for it at exit."""
    process._children.discard(child)  # type: ignore[attr-defined]


def prepared(popen: Any, child: Any) -> memoryview:
    """The preparation data that a child reads first. The data of multiprocessing itself would make
    the child import `__main__`, and would freeze the start method."""
    preparation = {
        "name": child.name,
        "authkey": process.current_process().authkey,
        "log_to_stderr": False,
        "sys_path": import_path(),
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,  # type: ignore[attr-defined]
        "dir": os.getcwd(),
    }
    buffer = io.BytesIO()
    context.set_spawning_popen(popen)
    try:
        reduction.dump(preparation, buffer)
        reduction.dump(child, buffer)
    finally:
        context.set_spawning_popen(None)
    return buffer.getbuffer()


# In the fork server and in children.


def close_stdin() -> None:
    """Replace standard input by an empty one."""
    util._close_stdin()  # type: ignore[attr-defined]


def run_child(preparation: int, inherited: list[int]) -> int:
    """Run the child that the preparation data describes. Returns its exit status."""
    forkserver._forkserver._inherited_fds = inherited  # type: ignore[attr-defined] # DupFd reads them from here
    return spawn._main(preparation, os.dup(preparation))


def run_threads_exit_hooks() -> None:
    """Run the hooks that Python runs at exit before it waits for threads. concurrent.futures stops
    its threads in one of them."""
    for hook in reversed(threading._threading_atexits):  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):
            hook()


def run_exit_functions() -> None:
    """Run the functions registered with `atexit`."""
    atexit._run_exitfuncs()
