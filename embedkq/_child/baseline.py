"""What a job finds in its process: taken before the first one, and put back after each, so that
none spoils its successors.

Put back: `sys.stdout` and `sys.stderr` with what is behind them, logging, the working directory,
the umask, the handlers of SIGINT and SIGTERM, an alarm that is set. Not put back, since modules set
them for good when they are imported: the environment, the locale, other signal handlers,
`sys.path`, settings of a single logger.
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
    """The state of this process at the time when this is made. The thread that runs jobs."""

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
        output.logs.begin_anew()

    def end_output(self) -> bool:
        """Write out what was printed and put the streams back; whether the host has not read all of
        it. Before a job's end is told."""
        if sys.stdout is not self._stdout or self._stdout.closed:
            process.flush_output()
            self._stdout = sys.stdout = _reopened(self._stdout, 1)
        if sys.stderr is not self._stderr or self._stderr.closed:
            process.flush_output()
            self._stderr = sys.stderr = _reopened(self._stderr, 2)
        process.flush_output()
        return output.mark_end_of_job()

    def restore(self) -> None:
        """Put back all else. Between two jobs; what it costs, each job pays."""
        for number, handler in self._signals.items():
            if getsignal(number) is not handler:
                signal.signal(number, handler)
        if not self._has_alarm:
            signal.setitimer(signal.ITIMER_REAL, 0)  # it would go off in the next job
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
        except OSError:  # a job has removed the one that it went to
            moved = True
        if moved:
            with contextlib.suppress(OSError):  # it is gone: for the host as well
                os.chdir(self._directory)

    def restore_descriptors(self) -> None:
        """Put back what is behind the streams. Too dear to do after each job."""
        output.reconnect()

    def _restore_logging(self) -> None:
        # Each configuration of all logging (dictConfig, fileConfig, basicConfig with force) closes
        # our handler or changes the root.
        logging.disable(self._disable)
        _apply(self._root_state, self._root)
        for logger in self._known_loggers():
            state = self._loggers.get(logger)
            if state is None:  # of a module that was imported since
                state = _LoggerState(
                    handlers=tuple(
                        each for each in logger.handlers if isinstance(each, logging.NullHandler)
                    )
                )
            _apply(state, logger)
        output.logs.begin_anew()

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
