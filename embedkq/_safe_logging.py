"""Logging, and texts of objects, that cannot harm the thread that asks for them. Any thread, also a
child's.

A log call runs code of the application: logger class, record factory, filters, handlers,
formatters, `__str__` and `__repr__` of what is logged. Whatever these raise ends here, and the line
goes to stderr instead. So embedkq logs through `SafeLogger` only, and makes texts of objects that
are not its own with `safe_str` and `safe_repr` only; tests/test_architecture.py holds both.

What a signal handler raises on the main thread (KeyboardInterrupt of Ctrl-C, `sys.exit()` in a
handler for SIGTERM) may come out of any line, a log call too. It is meant for the application and
passes through.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
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
    """The logger of a name, whose methods never raise; the line is written to stderr if the
    application's logging does.

    Args:
        name: such as "embedkq.worker".
    """

    def __init__(self, name: str) -> None:
        self._name = name
        try:
            self._logger = logging.getLogger(name)
        except Exception:  # noqa: BLE001  (a class given to logging.setLoggerClass)
            self._logger = _logger_below(name, logging.getLogger())

    def is_enabled_for(self, level: int) -> bool:
        """Whether lines of this level are wanted."""
        try:
            return self._enabled_logger(level) is not None
        except BaseException as error:  # noqa: BLE001  (the application's logger class)
            raise_signal(error)
            return level >= WARNING

    def debug(self, message: str, *args: Any, **how: Any) -> None:
        """Log at DEBUG; `args`, `exc_info` and `extra` as in `logging`."""
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
            # logging.config.dictConfig and fileConfig do so, by default, with each logger that was
            # there before and that they do not name: hardly ever on purpose. Its lines go where
            # those of the nearest logger above it go.
            above = logger.parent
            while above is not None and above.disabled:
                above = above.parent
            logger = _logger_below(self._name, above)
        return logger if logger.isEnabledFor(level) else None


def handle(record: logging.LogRecord) -> None:
    """Hand a record that was made elsewhere to the logger of its name; raises nothing.

    A logger is for ever: one for each name that jobs make up would fill the host's memory. What has
    none of its own is handled by the nearest one above it, as it would be anyway.
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
    """The levels that this process's loggers have now, by name; "" for the root."""
    found = {"": logging.getLogger().level}
    for name, known in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(known, logging.Logger) and known.level != logging.NOTSET:
            found[name] = known.level
    return found


def safe_repr(value: object) -> str:
    """`repr(value)`, at most 16 KiB of it; where that raises, a text that names the type."""
    try:
        return _bounded(repr(value))
    except BaseException as error:  # noqa: BLE001  (the value's own code)
        raise_signal(error)
        return f"<{type_name(type(value))} whose repr raises {type_name(type(error))}>"


def safe_str(value: object) -> str:
    """`str(value)`, at most 16 KiB of it; where that raises, a text that names the type."""
    try:
        return _bounded(str(value))
    except BaseException as error:  # noqa: BLE001  (the value's own code)
        raise_signal(error)
        return f"<{type_name(type(value))} whose str raises {type_name(type(error))}>"


def raise_signal(error: BaseException) -> None:
    """Raise an exception that was caught if a signal handler may have raised it: it is not the
    answer of the code that was called.

    Signal handlers run on the main thread only: Python's own for SIGINT raises KeyboardInterrupt,
    the application's may raise anything.
    """
    if threading.current_thread() is threading.main_thread() and (
        isinstance(error, KeyboardInterrupt) or _came_out_of_handler(error)
    ):
        raise error


def _came_out_of_handler(error: BaseException) -> bool:
    codes = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


def _code_of(handler: Any) -> Any:
    while isinstance(handler, partial):
        handler = handler.func
    call = getattr(type(handler), "__call__", None)  # noqa: B004  (wanted for its code)
    return getattr(handler, "__code__", None) or getattr(call, "__code__", None)


def _loggable(arg: object) -> object:
    """What a handler may make a text of: it cannot raise, and steers no terminal."""
    return (
        escaped(arg)
        if isinstance(arg, str)
        else arg
        if isinstance(arg, (int, float))
        else _Text(arg)
    )


class _Text:
    """Something that is logged, whose text is made when a handler asks for it."""

    __slots__ = ("_value",)

    def __init__(self, value: object) -> None:
        self._value = value

    def __str__(self) -> str:
        return escaped(safe_str(self._value))

    def __repr__(self) -> str:
        return safe_repr(self._value)


def _logger_below(name: str, above: logging.Logger | None) -> logging.Logger:
    """A logger that `logging` does not know of: not one of its own, so nothing can be set on it."""
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
    """Write what could not be logged to stderr: WARNING and above, and now and then why."""
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
                f"[ERROR] {name}: this process's logging raises, so embedkq writes to stderr what"
                " it has to warn of. It raised:\n"
            )
            lines += traceback.format_exception(type(reason), reason, reason.__traceback__)
        if lines and sys.stderr is not None:
            sys.stderr.write("".join(lines))
    except BaseException as error:  # noqa: BLE001  (stderr may be the application's own object, and broken too)
        raise_signal(error)


def _bounded(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 3] + "..."
