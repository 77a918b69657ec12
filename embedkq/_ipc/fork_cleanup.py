"""Makes a forked copy of this process close the workers and clients that it inherits.

Only `os.fork()` copies a process with all its descriptors. The threads that use them do not exist
in the copy.

Python's own hook, `os.register_at_fork`, cannot be taken back. One hook with weak references lets
workers and clients be freed.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """An object with descriptors that a forked copy must close."""

    def close_after_fork(self) -> None:
        """Close this process's copies of all descriptors, without any message to a peer. Must not
        take a lock: its holder may not exist here."""


_inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


def register_fork_cleanup(inherited: Inherited) -> None:
    """Call the object's `close_after_fork` in every process forked from this one, as long as the
    object exists. Any thread."""
    _inherited.add(inherited)


def _after_fork_in_child() -> None:
    for inherited in list(_inherited):
        inherited.close_after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
