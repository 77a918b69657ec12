"""The commits of Django's transactions."""

from __future__ import annotations

from collections.abc import Sequence

from embedkq._on_commit.sending import Defer, Waiting, send


def deferring(using: str | None) -> Defer:
    """What has jobs wait for the commit of a database; without a transaction they are sent at once.

    Raises:
        ValueError: Django is not installed.
    """
    try:
        from django.db import transaction
    except ImportError:
        raise ValueError(
            "on_commit() without a session is for Django, which is not installed; with SQLAlchemy"
            " give the session: on_commit(session)"
        ) from None

    def defer(some: Sequence[Waiting]) -> None:
        transaction.on_commit(lambda: send(some), using=using)

    return defer
