"""Logging and conversion to text that never raise. Any thread; host and child.

A log call runs code of the application: logger class, record factory, filters, handlers,
formatters, and `__str__` and `__repr__` of logged objects. If any of these raises, the exception is
caught here and the line goes to stderr. So embedkq logs only through `SafeLogger`, and converts
foreign objects to text only with `safe_str` and `safe_repr`. tests/test_architecture.py enforces
both.

An exception from a signal handler on the main thread (KeyboardInterrupt of Ctrl-C, `sys.exit()` in
a handler for SIGTERM) can surface in any line, also in a log call. It is meant for the application,
so it is raised.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from embedkq._printable import escaped
from embedkq.errors import type_name

DEBUG, INFO, WARNING, ERROR = logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR

make_record = logging.makeLogRecord

_LONGEST_TEXT = 16 * 1024
_EXPLAIN_SECONDS = 60.0

_explain_at = 0.0


class SafeLogger:
    """A logger whose methods never raise. If the application's logging raises, the line goes to
    stderr.

    Args:
        name: the logger's name, such as "embedkq.worker".
    """

    def __init__(self, name: str) -> None:
        self._name = name
        try:
            self._logger = logging.getLogger(name)
        except Exception:  # noqa: BLE001  (a class passed to logging.setLoggerClass)
            self._logger = _logger_below(name, logging.getLogger())

    def is_enabled_for(self, level: int) -> bool:
        """Whether the logger emits lines of this level."""
        try:
            return self._enabled_logger(level) is not None
        except BaseException as error:  # noqa: BLE001  (the application's logger class)
            raise_signal(error)
            return level >= WARNING

    def debug(self, message: str, *args: Any, **how: Any) -> None:
        """Log at DEBUG. `args`, `exc_info` and `extra` as in `logging`."""
        self._log(DEBUG, message, args, **how)

    def info(self, message: str, *args: Any, **how: Any) -> None:
        """Log at INFO."""
        self._log(INFO, message, args, **how)

    def warning(self, message: str, *args: Any, **how: Any) -> None:
        """Log at WARNING."""
        self._log(WARNING, message, args, **how)

    def error(self, message: str, *args: Any, **how: Any) -> None:
        """Log at ERROR."""
        self._log(ERROR, message, args, **how)

    def _log(
        self,
        level: int,
        message: str,
        args: tuple[Any, ...],
        exc_info: BaseException | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            logger = self._enabled_logger(level)
            if logger is not None:
                logger.log(
                    level,
                    message,
                    *map(_loggable, args),
                    exc_info=exc_info,
                    extra=extra,
                    stacklevel=3,
                )
        except BaseException as error:  # noqa: BLE001  (the application's own code)
            raise_signal(error)
            _write_instead(level, self._name, _formatted(message, args), exc_info, error)

    def _enabled_logger(self, level: int) -> logging.Logger | None:
        logger = self._logger
        if logger.disabled:
            # By default, logging.config.dictConfig and fileConfig disable every existing logger
            # that they do not name, which is hardly ever intended. The nearest enabled parent
            # logger takes over.
            above = logger.parent
            while above is not None and above.disabled:
                above = above.parent
            logger = _logger_below(self._name, above)
        return logger if logger.isEnabledFor(level) else None


def handle(record: logging.LogRecord) -> None:
    """Pass a record from another process to the logger with its name. Never raises.

    Loggers are never freed, so a new one for each name that jobs use would fill the host's memory.
    A record whose logger does not exist goes to the nearest parent, where it would end up anyway.
    """
    try:
        logger, name, known = logging.getLogger(), record.name, logging.Logger.manager.loggerDict
        while name:
            found = known.get(name)
            if isinstance(found, logging.Logger):
                logger = found
                break
            name = name.rpartition(".")[0]
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except BaseException as error:  # noqa: BLE001  (the application's own code)
        raise_signal(error)
        _write_instead(record.levelno, record.name, safe_str(record.msg), None, error)


def levels() -> dict[str, int]:
    """The present levels of this process's loggers, by name; "" is the root logger."""
    found = {"": logging.getLogger().level}
    for name, known in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(known, logging.Logger) and known.level != logging.NOTSET:
            found[name] = known.level
    return found


def safe_repr(value: object) -> str:
    """The first 16 KiB of `repr(value)`. If that raises, a text that names the type."""
    return _converted(value, repr)


def safe_str(value: object) -> str:
    """The first 16 KiB of `str(value)`. If that raises, a text that names the type."""
    return _converted(value, str)


def raise_signal(error: BaseException) -> None:
    """Raise a caught exception again if a signal handler may have raised it. Such an exception does
    not come from the code that was called.

    Signal handlers run only on the main thread. Python's handler for SIGINT raises
    KeyboardInterrupt; the application's handlers may raise anything.
    """
    if threading.current_thread() is threading.main_thread() and (
        isinstance(error, KeyboardInterrupt) or _is_from_handler(error)
    ):
        raise error


def _is_from_handler(error: BaseException) -> bool:
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def _code_of(handler: Any) -> Any:
    while isinstance(handler, partial):
        handler = handler.func
    call = getattr(type(handler), "__call__", None)  # noqa: B004  (used for its code)
    return getattr(handler, "__code__", None) or getattr(call, "__code__", None)


def _loggable(arg: object) -> object:
    """A log argument that a handler can convert to text without an exception and without control
    characters."""
    return (
        escaped(arg)
        if isinstance(arg, str)
        else arg
        if isinstance(arg, (int, float))
        else _Text(arg)
    )


class _Text:
    """A logged object. It is converted to text only when a handler asks for it."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return escaped(safe_str(self._value))

    def __repr__(self) -> str:
        return safe_repr(self._value)


def _logger_below(name: str, above: logging.Logger | None) -> logging.Logger:
    """A logger that is not registered with `logging`, so that nobody can configure it."""
    logger = logging.Logger(name)
    logger.parent = above
    return logger


def _formatted(message: str, args: tuple[Any, ...]) -> str:
    try:
        return message % tuple(map(_loggable, args))
    except (TypeError, ValueError):
        return message


def _write_instead(
    level: int, name: str, text: str, exc_info: BaseException | None, reason: BaseException
) -> None:
    """Write a line that could not be logged to stderr, at WARNING and above. Once a minute, add the
    reason."""
    global _explain_at
    try:
        lines = []
        if level >= WARNING:
            lines.append(f"[{logging.getLevelName(level)}] {name}: {text}\n")
            if exc_info is not None:
                lines += traceback.format_exception(
                    type(exc_info), exc_info, exc_info.__traceback__
                )
        if time.monotonic() >= _explain_at:
            _explain_at = time.monotonic() + _EXPLAIN_SECONDS
            lines.append(
                f"[ERROR] {name}: this process's logging raises exceptions, so embedkq writes"
                " warnings to stderr. The exception:\n"
            )
            lines += traceback.format_exception(type(reason), reason, reason.__traceback__)
        if lines and sys.stderr is not None:
            sys.stderr.write("".join(lines))
    except BaseException as error:  # noqa: BLE001  (stderr may be the application's own broken object)
        raise_signal(error)


def _converted(value: object, convert: Callable[[object], str]) -> str:
    try:
        text = convert(value)
        return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."
    except BaseException as error:  # noqa: BLE001  (the value's own code)
        raise_signal(error)
        kind, raised = type_name(type(value)), type_name(type(error))
        return f"<{kind} whose {convert.__name__} raises {raised}>"
