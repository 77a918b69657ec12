"""The sockets of one kafka-python client, so that a forked copy of the process can close its copies
of them."""

from __future__ import annotations

import selectors
import socket
import weakref
from collections.abc import Iterable
from typing import Any


class ForkSafeSockets(selectors.DefaultSelector):
    """A client's selector that knows every socket it was given. Give it to the client as its option
    `selector`."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        """As every selector's."""
        if isinstance(fileobj, socket.socket):
            self._seen.add(fileobj)
        return super().register(fileobj, events, data)

    def close_after_fork(self, others: Iterable[Any]) -> None:
        """In a forked copy: close the sockets and the selector's own descriptor, which reaches
        through to the parent's.

        Nobody here could use or close the client: its thread is not here.

        Args:
            others: sockets of the client that it has beside.
        """
        for seen in [*self._seen, *others]:
            seen.close()
        self.close()
