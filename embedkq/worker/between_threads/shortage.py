"""What the system has no more of for this process, and what helps. It passes: who meets it tries
again."""

from __future__ import annotations

import errno
import resource

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
"""Of an OSError that may be over in a moment."""
RETRY_SECONDS = 0.25


def is_shortage(error: BaseException | None) -> bool:
    """Whether it may be over in a moment."""
    return isinstance(error, OSError) and error.errno in SHORTAGES


def cure_for(error: OSError) -> str:
    """What is missing and what to do, as the second half of a sentence."""
    if error.errno == errno.EMFILE:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"this process has no file descriptor left (its limit is {limit:,}): close what the"
            " application does not need, or raise the limit (`ulimit -n`, LimitNOFILE= of systemd)"
        )
    if error.errno == errno.ENFILE:
        return (
            "this machine has no file descriptor left: raise the limit of all its processes (sysctl"
            " fs.file-max)"
        )
    if error.errno == errno.EAGAIN:
        return (
            "no more processes are allowed: raise the limit (`ulimit -u`, pids.max of the control"
            " group, pids_limit of a container)"
        )
    return "this machine has no memory left"
