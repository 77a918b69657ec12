"""What a job logs and prints on its way to the host, and the stack where a job is stuck."""

from __future__ import annotations

import faulthandler
import fcntl
import json
import logging
import os
import signal
import sys
import termios
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from embedkq._ipc import channel

STACK_SIGNAL: int | None = signal.SIGRTMIN + 9 if hasattr(signal, "SIGRTMIN") else None
"""At which a child writes down the stacks of its threads, whatever it does; a number that hardly
anything else uses."""
_HIGH_NUMBER = 700
"""The lowest number for descriptors that should outlive a job's: one that closes all and opens its
own will hardly come that far."""
_HELD_BACK = 100
_LONGEST_TEXT = 32_000
_LONGEST_RECORD = 32_000
_TEXTS = ("stack_info", "exc_text", "msg")


_pipe = -1
_pipe_identity = (0, 0)
_mark = b""


def redirect() -> tuple[int, str]:
    """Send what this process prints, and what its own children print, into a pipe.

    Returns:
        The descriptor to read it from, and what stands in it where a job has ended (see `mark_of`).
    """
    global _pipe, _pipe_identity, _mark
    reader, writer = os.pipe()
    for stream in (1, 2):
        os.dup2(writer, stream, inheritable=True)
    _pipe = _at_high_number(writer)
    _pipe_identity = channel.identify(_pipe)
    os.close(writer)
    token = os.urandom(12).hex()
    _mark = mark_of(token)
    for kind, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:  # the host has none
            options: Any = {"encoding": "utf-8", "errors": "backslashreplace", "closefd": False}
            setattr(sys, name, open(kind, "w", **options))  # noqa: SIM115  (it stays open)
    return reader, token


def mark_of(token: str) -> bytes:
    """What stands in the output of a child where a job has ended that had printed something."""
    return b"\0embedkq-end-%s\n" % token.encode()


def mark_end_of_job() -> bool:
    """Write the mark if something was printed that the host has not read yet; whether it was
    written."""
    count = bytearray(4)
    try:
        fcntl.ioctl(_pipe, termios.FIONREAD, count)
        if not any(count):
            return False
        os.write(_pipe, _mark)
    except OSError:  # a job has closed it
        return False
    return True


def reconnect() -> None:
    """Have the standard streams lead to the host again, where a job has closed them or put
    something else there."""
    try:
        if channel.identify(_pipe) != _pipe_identity:
            return
    except OSError:
        return
    for stream in (1, 2):
        try:
            connected = channel.identify(stream) == _pipe_identity
        except OSError:
            connected = False
        if not connected:
            os.dup2(_pipe, stream, inheritable=True)


def watch_stack() -> int:
    """Have `STACK_SIGNAL` write the stacks of all threads into a new anonymous file; its
    descriptor."""
    first = channel.anonymous_file("embedkq-stack")
    descriptor = _at_high_number(first)
    os.close(first)
    if STACK_SIGNAL is not None:
        faulthandler.register(STACK_SIGNAL, file=descriptor, all_threads=True, chain=False)
    return descriptor


def _at_high_number(descriptor: int) -> int:
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH_NUMBER)
    except OSError:  # a low limit of open files
        return os.dup(descriptor)


class LogsToHost(logging.Handler):
    """Sends log records to the host as JSON: who reads them runs no code. What comes before
    `attach` is held back."""

    def __init__(self) -> None:
        super().__init__()
        self.was_closed = False
        """Whether something has configured all logging anew, or ended it, since `begin_anew`."""
        self._held: list[bytes] = []
        self._send: Callable[[bytes], None] | None = None

    def attach(self, send: Callable[[bytes], None]) -> None:
        """From now on, records go by `send`."""
        self._send = send
        for content in self._held:
            send(content)
        self._held.clear()

    def begin_anew(self) -> None:
        """Be as it was made: known to `logging`, which closes all handlers it knows of when it is
        configured, and without filters."""
        super().__init__()
        self.was_closed = False

    def close(self) -> None:
        """Called when logging is configured anew, or ends."""
        self.was_closed = True
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record. Any thread of the child."""
        try:
            content = _content_of(record)
            if self._send is not None:
                self._send(content)
            elif len(self._held) < _HELD_BACK:
                self._held.append(content)
        except Exception:  # noqa: BLE001  (logging's own way: a log line never harms the job)
            self.handleError(record)


logs = LogsToHost()


def warn(text: str) -> None:
    """Log a warning of embedkq's own in the host, past all that a job may have added to loggers."""
    logs.emit(logging.LogRecord("embedkq.worker", logging.WARNING, __file__, 0, text, (), None))


def send_logs(levels: Mapping[str, int]) -> None:
    """Have all loggers of this process send to the host, at the host's levels."""
    root = logging.getLogger()
    root.addHandler(logs)
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


def _content_of(record: logging.LogRecord) -> bytes:
    # It must fit into one message: a thread or a forked copy of the process may be the one that
    # logs, and only the thread that runs jobs may send what is larger.
    fields = _fields_of(record)
    content = json.dumps(fields, default=str, ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )
    for name in _TEXTS:
        if (excess := len(content) - _LONGEST_RECORD) > 0 and fields[name]:
            text = fields[name].encode("utf-8", "backslashreplace")
            fields[name] = (
                text[: max(0, len(text) - excess - 200) * 2 // 3].decode("utf-8", "ignore") + " ..."
            )
            content = json.dumps(fields, default=str, ensure_ascii=False).encode(
                "utf-8", "backslashreplace"
            )
    return content


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    told = record.exc_text
    if not told and record.exc_info and record.exc_info[1] is not None:
        told = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    return {
        "name": record.name,
        "levelno": record.levelno,
        "levelname": record.levelname,
        "msg": record.getMessage()[:_LONGEST_TEXT],
        "created": record.created,
        "pathname": record.pathname,
        "filename": record.filename,
        "module": record.module,
        "lineno": record.lineno,
        "funcName": record.funcName,
        "process": record.process,
        "processName": record.processName,
        "threadName": record.threadName,
        "exc_text": told,
        "stack_info": record.stack_info,
    }
