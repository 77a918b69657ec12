"""Recognizes temporary shortages of system resources, such as file descriptors, and says what
helps. Callers retry."""

from __future__ import annotations

import errno
import resource

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
"""Error numbers of an OSError that may be temporary."""
RETRY_SECONDS = 0.25


def is_shortage(error: BaseException | None) -> bool:
    """Whether the error may be temporary."""
    return isinstance(error, OSError) and error.errno in SHORTAGES


def cure_for(error: OSError) -> str:
    """What is missing and what to do, as the second half of a sentence."""
    if error.errno == errno.EMFILE:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"this process has no file descriptors left (its limit is {limit:,}): close files that"
            " the application does not need, or raise the limit (`ulimit -n`, LimitNOFILE= of"
            " systemd)"
        )
    if error.errno == errno.ENFILE:
        return (
            "this machine has no file descriptors left: raise the system-wide limit (sysctl"
            " fs.file-max)"
        )
    if error.errno == errno.EAGAIN:
        return (
            "the limit of processes is reached: raise it (`ulimit -u`, pids.max of the control"
            " group, pids_limit of a container)"
        )
    return "this machine has no memory left"
