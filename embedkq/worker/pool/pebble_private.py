"""What embedkq stands on in pebble, beyond what its documentation promises, checked before the
first pool is made.

A pool of pebble starts its processes through the context that it is given, asks them `is_alive`,
`pid`, `exitcode`, `terminate` and `join`, replaces one that has ended, and takes an OSError of a
start for its own end. setup.cfg takes the patch releases that follow the version that this was read
in.
"""

from __future__ import annotations

import inspect
from importlib.metadata import version

from embedkq.errors import EmbedkqError

TESTED_WITH = "5.2.3"
WORKER_MODULE = "pebble.pool.process"
"""What a child runs, for the fork server to import beforehand."""


def _sentence(missing: str) -> str:
    return (
        f"pebble {version('pebble')} does not have everything that embedkq needs ({missing}):"
        f" install a version that embedkq was tested with, pip install 'pebble~={TESTED_WITH}'"
    )


try:
    from pebble import ProcessPool
    from pebble.pool.process import worker_process
except ImportError as error:
    raise ImportError(_sentence(str(error))) from error

__all__ = ["ProcessPool", "check"]

ARGUMENTS = ("max_workers", "initializer", "initargs", "context")
METHODS = ("active", "join", "schedule", "stop")


def check() -> None:
    """See that all is there that is used. Called before each pool is made. Any thread.

    Raises:
        EmbedkqError: something is gone; the message names it, the version that is installed and
            what to install.
    """
    arguments = inspect.signature(ProcessPool.__init__).parameters
    for name in ARGUMENTS:
        if name not in arguments:
            raise EmbedkqError(_sentence(f"ProcessPool takes no {name}"))
    for name in METHODS:
        if not hasattr(ProcessPool, name):
            raise EmbedkqError(_sentence(f"ProcessPool.{name} is gone"))
    if worker_process.__module__ != WORKER_MODULE:
        raise EmbedkqError(_sentence(f"{WORKER_MODULE}.worker_process is elsewhere"))
