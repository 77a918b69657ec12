"""Runs a program that ends with its parent, run as `PYTHON FILE PARENT_PID PROGRAM ARGUMENT...`.

A file of its own that needs nothing but the standard library: it is run as a script, becomes the
program, and is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Have the kernel send SIGKILL when the parent's thread ends, then become the program.

    The kernel watches the *thread* that started this process (prctl(2)): that thread has to live as
    long as the program shall.
    """
    parent, program = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked to watch it
        sys.exit(f"process {parent}, which started this one, has ended")
    os.execv(program[0], program)


if __name__ == "__main__":
    main(sys.argv[1:])
