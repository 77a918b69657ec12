"""The commits of SQLAlchemy's sessions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session

from embedkq._on_commit.sending import Defer, Waiting, send

_KEPT_AS = "embedkq"


class _Commits:
    """The jobs that wait for the end of a session's transaction, each with the transaction or
    savepoint in which it was enqueued."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self._waiting: list[tuple[Any, Waiting]] = []
        self._has_committed = False
        event.listen(session, "after_commit", self._note_commit)
        event.listen(session, "after_soft_rollback", self._forget)
        event.listen(session, "after_transaction_end", self._end)

    def defer(self, some: Sequence[Waiting]) -> None:
        """Have these wait. Without a transaction they belong to the one that begins next."""
        current = self._session.get_nested_transaction() or self._session.get_transaction()
        self._waiting += [(current, each) for each in some]

    def _note_commit(self, session: Any) -> None:
        # SQLAlchemy tells of released savepoints too.
        self._has_committed = not session.in_nested_transaction()

    def _forget(self, session: Any, rolled_back: Any) -> None:
        self._waiting = [
            (within, each)
            for within, each in self._waiting
            if rolled_back not in _with_outer(within)
        ]

    def _end(self, session: Any, ended: Any) -> None:
        # Not in `after_commit`: here the database connection is back in its pool, and an exception
        # leaves a session that can be used.
        if ended.parent is not None:
            return
        waiting, has_committed = self._waiting, self._has_committed
        self._waiting, self._has_committed = [], False
        if has_committed:
            send([each for _, each in waiting])


def _with_outer(transaction: Any) -> Iterator[Any]:
    while transaction is not None:
        yield transaction
        transaction = transaction.parent


def deferring(given: Any) -> Defer:
    """What has jobs wait for the commit of a session.

    Raises:
        TypeError: it is none.
    """
    found = given.registry() if hasattr(given, "registry") else given  # that of a scoped session
    found = getattr(found, "sync_session", found)  # that of an asynchronous one
    if not isinstance(found, Session):
        raise TypeError(f"on_commit() needs a Session of SQLAlchemy, not {given!r}")
    if _KEPT_AS not in found.info:
        found.info[_KEPT_AS] = _Commits(found)
    commits: _Commits = found.info[_KEPT_AS]
    return commits.defer
