"""Errors of the development broker."""

from __future__ import annotations

from embedkq.errors import EmbedkqError


class BrokerMissing(EmbedkqError, ImportError):
    """This machine has no program for the development broker; the message says what to install."""


class BrokerFailed(EmbedkqError, RuntimeError):
    """The development broker did not start; the message has the reason, or the broker's last
    output."""
