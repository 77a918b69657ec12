"""What keeps the development broker from running."""

from __future__ import annotations

from embedkq.errors import EmbedkqError


class BrokerMissing(EmbedkqError, ImportError):
    """There is no program for the development broker on this machine; the message names the
    cure."""


class BrokerFailed(EmbedkqError, RuntimeError):
    """The development broker did not start; the message says why, or holds what it printed last."""
