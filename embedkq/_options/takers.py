"""The options by who takes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedkq._options.declared import OPTIONS
from embedkq._options.option import EXTENSION, QUEUE, START, WORKER, Option


def options_of(*takers: str) -> tuple[Option, ...]:
    """Those that any of these take."""
    return tuple(option for option in OPTIONS if not set(takers).isdisjoint(option.takers))


def checked(taker: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What is accepted for the arguments of a taker, by name; `arguments` may hold more.

    Raises:
        TypeError, ValueError: one cannot work; the message names it.
    """
    return {option.name: option.checked(arguments[option.name]) for option in _TAKEN[taker]}


_TAKEN = {taker: options_of(taker) for taker in (QUEUE, WORKER, START, EXTENSION)}
