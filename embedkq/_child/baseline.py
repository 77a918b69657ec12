"""Saves the state of the process before the first job and restores it after each job, so that no
job affects the next.

Restored: `sys.stdout` and `sys.stderr` and their descriptors, logging, the working directory, the
umask, the handlers of SIGINT and SIGTERM, and a pending alarm. Not restored, because modules set
them permanently when they are imported: the environment, the locale, other signal handlers,
`sys.path`, and settings of single loggers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from _signal import getsignal  # type: ignore[import-not-found]  # signal.getsignal takes 2 us a call
from typing import Any, NamedTuple, TextIO

from embedkq._child import output, process


class _LoggerState(NamedTuple):
    level: int = logging.NOTSET
    propagate: bool = True
    disabled: bool = False
    handlers: tuple[logging.Handler, ...] = ()
    filters: tuple[Any, ...] = ()


class Baseline:
    """The state of this process at construction. For the thread that runs jobs."""

    def __init__(self) -> None:
        self._signals = {number: getsignal(number) for number in process.SIGNALS_FOR_HOST}
        self._has_alarm = any(signal.getitimer(signal.ITIMER_REAL))
        self._directory = os.getcwd()
        self._umask = os.umask(0o22)
        os.umask(self._umask)
        self._stdout, self._stderr = sys.stdout, sys.stderr
        self._root = logging.getLogger()
        self._manager = logging.Logger.manager
        self._disable = self._manager.disable
        self._root_state = _state_of(self._root)
        self._root_handlers = list(self._root.handlers)
        self._loggers = {logger: _state_of(logger) for logger in self._known_loggers()}
        output.logs.reset()

    def end_output(self) -> bool:
        """Flush the output and restore the streams, before the end of a job is reported. Returns
        whether the host has unread output."""
        if sys.stdout is not self._stdout or self._stdout.closed:
            process.flush_output()
            self._stdout = sys.stdout = _reopened(self._stdout, 1)
        if sys.stderr is not self._stderr or self._stderr.closed:
            process.flush_output()
            self._stderr = sys.stderr = _reopened(self._stderr, 2)
        process.flush_output()
        return output.mark_end_of_job()

    def restore(self) -> None:
        """Restore everything else, between two jobs. Each job pays its cost."""
        for number, handler in self._signals.items():
            if getsignal(number) is not handler:
                signal.signal(number, handler)
        if not self._has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)  # the alarm would interrupt the next job
        os.umask(self._umask)
        root = self._root
        if (
            root.handlers != self._root_handlers
            or root.level != self._root_state.level
            or root.disabled
            or output.logs.was_closed
            or self._manager.disable != self._disable
        ):
            self._restore_logging()
        try:
            moved = os.getcwd() != self._directory
        except OSError:  # a job changed to a directory and removed it
            moved = True
        if moved:
            with contextlib.suppress(OSError):  # the directory is gone, for the host too
                os.chdir(self._directory)

    def restore_descriptors(self) -> None:
        """Restore the streams' descriptors. Too expensive to do after each job."""
        output.reconnect()

    def _restore_logging(self) -> None:
        # Any reconfiguration of logging (dictConfig, fileConfig, basicConfig with force) closes our
        # handler or changes the root logger.
        logging.disable(self._disable)
        _apply(self._root_state, self._root)
        for logger in self._known_loggers():
            state = self._loggers.get(logger)
            if state is None:  # of a module imported later
                state = _LoggerState(
                    handlers=tuple(
                        each for each in logger.handlers if isinstance(each, logging.NullHandler)
                    )
                )
            _apply(state, logger)
        output.logs.reset()

    def _known_loggers(self) -> list[logging.Logger]:
        return [
            known
            for known in list(self._manager.loggerDict.values())
            if isinstance(known, logging.Logger)
        ]


def _state_of(logger: logging.Logger) -> _LoggerState:
    return _LoggerState(
        logger.level,
        logger.propagate,
        logger.disabled,
        tuple(logger.handlers),
        tuple(logger.filters),
    )


def _apply(state: _LoggerState, logger: logging.Logger) -> None:
    logger.setLevel(state.level)
    logger.propagate, logger.disabled = state.propagate, state.disabled
    logger.handlers[:] = state.handlers
    logger.filters[:] = state.filters


def _reopened(stream: TextIO, descriptor: int) -> TextIO:
    if not stream.closed:
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
        return stream
    return open(descriptor, "w", encoding=stream.encoding, errors=stream.errors, closefd=False)
