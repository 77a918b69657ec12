"""What a forked copy of this process does with the workers and clients that it inherits: it lets go
of them.

Only `os.fork()` copies a process with all its descriptors; none of the threads that used them lives
on in the copy.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Inherited(Protocol):
    """What has descriptors of its own to close in a forked copy."""

    def close_after_fork(self) -> None:
        """Close this process's copies of all descriptors, telling nobody. No lock may be taken: its
        holder is not here."""


_inherited: weakref.WeakSet[Inherited] = weakref.WeakSet()


def register_fork_cleanup(inherited: Inherited) -> None:
    """Have `close_after_fork` called in every process forked from this one, as long as the object
    lives. Any thread."""
    _inherited.add(inherited)


def _after_fork_in_child() -> None:
    for inherited in list(_inherited):
        inherited.close_after_fork()


if hasattr(os, "register_at_fork"):  # Windows knows no fork
    os.register_at_fork(after_in_child=_after_fork_in_child)
