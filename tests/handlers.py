"""Handlers of plain records and decoders, importable by child processes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import workerjobs

from embedkq import Record, current_job
from embedkq.errors import DecodeError


def give(value: Any) -> Any:
    """Returns what it was given."""
    return value


async def give_later(value: Any) -> Any:
    return value


def give_with_current_job(value: Any) -> tuple[Any, ...]:
    return (value, tuple(current_job()))


def note(order: dict[str, Any]) -> int:
    """Notes one order when it begins and when it ends; takes so long as the order says."""
    path = order["notes"]
    workerjobs.note(path, f"{order['key']} {order['number']} begins")
    time.sleep(order.get("seconds", 0))
    workerjobs.note(path, f"{order['key']} {order['number']} ends")
    return int(order["number"])


def misbehave(order: dict[str, Any]) -> Any:
    """Does what the order says."""
    how, notes = order["how"], order.get("notes", os.devnull)
    workerjobs.note(notes, how)
    if how == "raise":
        raise LookupError(how)
    if how == "hang":
        time.sleep(600)
    if how == "crash":
        os._exit(3)
    if how == "exit":
        sys.exit(4)
    if how == "twice" and Path(notes).read_text().split().count(how) < 2:
        raise OSError("the first time")
    return how


def of_record(record: Record) -> str:
    return type(record).__name__


def words(value: bytes) -> list[str]:
    """A decoder: hangs, exits, fails, or says that nobody can decode it, as the value says."""
    text = value.decode()
    if text == "hang":
        time.sleep(600)
    if text == "exit":
        sys.exit(4)
    if text.startswith("registry"):
        raise ConnectionError(text)
    if text == "damaged":
        raise DecodeError("these are no words")
    if text == "damaged with a cause":
        raise DecodeError("these are no words") from ValueError(text)
    return text.split()


class Message:
    """What a decoder may make: comparable, and rebuilt by its name."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and other.text == self.text

    __hash__ = None  # type: ignore[assignment]


def message(value: bytes) -> Message:
    return Message(value.decode())


def unpicklable(value: bytes) -> Any:
    return (each for each in value)


def kind_of(value: Any) -> str:
    return type(value).__name__


def sleep(seconds: bytes) -> bytes:
    """Takes so long; a decoder and a handler."""
    time.sleep(float(seconds))
    return seconds


_set_up: list[str] = []


def set_up(word: str) -> None:
    _set_up.append(word)


def what_is_set_up(value: Any) -> list[str]:
    return _set_up
