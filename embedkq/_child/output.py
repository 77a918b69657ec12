"""Sends a job's log records and printed output to the host, and writes the stack of a stuck job."""

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
"""The signal on which a child writes the stacks of its threads. Hardly any program uses this
number."""
_HIGH_NUMBER = 700
"""The lowest number for descriptors that must survive jobs. A job that closes all descriptors and
opens its own will hardly reach it."""
_HELD_BACK = 100
_LONGEST_TEXT = 32_000
_LONGEST_RECORD = 32_000
_TEXTS = ("stack_info", "exc_text", "msg")


_pipe = -1
_pipe_identity = (0, 0)
_mark = b""


def redirect() -> tuple[int, str]:
    """Redirect the output of this process and of its children into a pipe.

    Returns:
        The descriptor to read from, and the token of the mark that ends a job's output (see
            `mark_of`).
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
        if getattr(sys, name) is None:  # the host has no such stream
            options: Any = {"encoding": "utf-8", "errors": "backslashreplace", "closefd": False}
            setattr(sys, name, open(kind, "w", **options))  # noqa: SIM115  (the stream stays open)
    return reader, token


def mark_of(token: str) -> bytes:
    """The mark in a child's output at the end of a job that printed something."""
    return b"\0embedkq-end-%s\n" % token.encode()


def mark_end_of_job() -> bool:
    """Write the mark if the host has not read all output yet. Returns whether the mark was
    written."""
    count = bytearray(4)
    try:
        fcntl.ioctl(_pipe, termios.FIONREAD, count)
        if not any(count):
            return False
        os.write(_pipe, _mark)
    except OSError:  # a job closed the pipe
        return False
    return True


def reconnect() -> None:
    """Reconnect the standard streams to the host if a job has closed or replaced them."""
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
    """Make `STACK_SIGNAL` write the stacks of all threads to a new anonymous file. Returns its
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
    except OSError:  # the limit of open files is low
        return os.dup(descriptor)


class LogsToHost(logging.Handler):
    """Sends log records to the host as JSON, so that reading them runs no code. Records before
    `attach` are kept until then."""

    def __init__(self) -> None:
        super().__init__()
        self.was_closed = False
        """Whether logging was reconfigured or shut down since `reset`."""
        self._held: list[bytes] = []
        self._send: Callable[[bytes], None] | None = None

    def attach(self, send: Callable[[bytes], None]) -> None:
        """Send records with `send` from now on."""
        self._send = send
        for content in self._held:
            send(content)
        self._held.clear()

    def reset(self) -> None:
        """Restore the handler's initial state: no filters, and registered with `logging` again,
        which closes all registered handlers when it is reconfigured."""
        super().__init__()
        self.was_closed = False

    def close(self) -> None:
        """Called when logging is reconfigured or shut down."""
        self.was_closed = True
        super().close()

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record. Any thread of the child."""
        try:
            content = _content_of(record)
            if self._send is not None:
                self._send(content)
            elif len(self._held) < _HELD_BACK:
                self._held.append(content)
        except Exception:  # noqa: BLE001  (as logging does: a log line never harms the job)
            self.handleError(record)


logs = LogsToHost()


def warn(text: str) -> None:
    """Log a warning of embedkq in the host. It bypasses everything that a job may have added to
    loggers."""
    logs.emit(logging.LogRecord("embedkq.worker", logging.WARNING, __file__, 0, text, (), None))


def send_logs(levels: Mapping[str, int]) -> None:
    """Make all loggers of this process send to the host, at the host's levels."""
    root = logging.getLogger()
    root.addHandler(logs)
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


def _content_of(record: logging.LogRecord) -> bytes:
    # The record must fit into an inline message. Any thread, or a forked copy of the process, may
    # log it, and only the thread that runs jobs may send larger messages.
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
    text = record.exc_text
    if not text and record.exc_info and record.exc_info[1] is not None:
        text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
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
        "exc_text": text,
        "stack_info": record.stack_info,
    }
