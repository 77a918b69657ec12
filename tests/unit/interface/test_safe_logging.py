"""What the application's logging does and raises ends in the log call: nothing of it reaches the
thread that logs."""

from __future__ import annotations

import logging
import logging.config
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from support import ROOT

from embedkq import _safe_logging
from embedkq._safe_logging import SafeLogger, safe_repr, safe_str


class Rude:
    """An object whose every text raises."""

    def __init__(self, error: type[BaseException] = RuntimeError) -> None:
        self.error = error

    def __repr__(self) -> str:
        raise self.error("no text")

    __str__ = __repr__


class RudeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.fixture(autouse=True)
def explains_anew(monkeypatch: Any) -> None:
    monkeypatch.setattr(_safe_logging, "_explain_at", 0.0)


@pytest.fixture
def name(request: Any) -> Iterator[str]:
    """A logger of this test's own."""
    name = f"embedkq.{request.node.name}"
    yield name
    logging.Logger.manager.loggerDict.pop(name, None)


def raising(error: type[BaseException]) -> Callable[..., Any]:
    def raise_(*_: Any, **__: Any) -> Any:
        raise error("from the application")

    return raise_


def rude_filter(logger: logging.Logger, error: type[BaseException]) -> None:
    logger.addFilter(raising(error))


def rude_handler(logger: logging.Logger, error: type[BaseException]) -> None:
    handler = logging.Handler()
    handler.emit = raising(error)  # type: ignore[method-assign]
    logger.addHandler(handler)


def rude_handlers_filter(logger: logging.Logger, error: type[BaseException]) -> None:
    handler = logging.StreamHandler()
    handler.addFilter(raising(error))
    logger.addHandler(handler)


def rude_formatter(logger: logging.Logger, error: type[BaseException]) -> None:
    handler = logging.Handler()
    handler.emit = lambda record: handler.format(record) and None  # type: ignore[method-assign, assignment, return-value]
    handler.setFormatter(type("Rude", (logging.Formatter,), {"format": raising(error)})())
    logger.addHandler(handler)


def rude_level(logger: logging.Logger, error: type[BaseException]) -> None:
    logger.isEnabledFor = raising(error)  # type: ignore[method-assign]


RUDE = [rude_filter, rude_handler, rude_handlers_filter, rude_formatter, rude_level]


@pytest.mark.parametrize("error", [RuntimeError, SystemExit, GeneratorExit])
@pytest.mark.parametrize("spoil", RUDE, ids=lambda spoil: spoil.__name__)
def test_whatever_the_applications_logging_raises_the_line_goes_to_stderr(
    spoil: Any, error: Any, name: str, capsys: Any
) -> None:
    logger = SafeLogger(name)
    spoil(logging.getLogger(name), error)
    logger.warning("Job %s failed.", "1b92xle0", exc_info=LookupError("no business"))
    written = capsys.readouterr().err
    assert f"[WARNING] {name}: Job 1b92xle0 failed.\nLookupError: no business\n" in written
    assert f"{error.__name__}: from the application" in written
    assert logger.is_enabled_for(logging.WARNING)


@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_a_record_factory_that_raises_harms_nobody(error: Any, name: str, capsys: Any) -> None:
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(raising(error))
    try:
        SafeLogger(name).error("The worker has failed: %s", RudeError())
    finally:
        logging.setLogRecordFactory(factory)
    assert (
        "[ERROR]" in (written := capsys.readouterr().err)
        and "RudeError whose str raises RuntimeError>" in written
    )


def test_a_logger_class_that_cannot_be_made_harms_nobody(name: str, caplog: Any) -> None:
    class Rude(logging.Logger):
        def __init__(self, name: str) -> None:
            raise RuntimeError("not today")

    former = logging.getLoggerClass()
    logging.setLoggerClass(Rude)
    try:
        logger = SafeLogger(name)
    finally:
        logging.setLoggerClass(former)
    logger.warning("seen by the root's handlers")
    assert (name, logging.WARNING, "seen by the root's handlers") in caplog.record_tuples


def test_why_lines_come_on_stderr_is_told_once_in_a_while_and_info_is_not_written_there(
    name: str, capsys: Any
) -> None:
    logger = SafeLogger(name)
    logging.getLogger(name).setLevel(logging.INFO)
    rude_filter(logging.getLogger(name), RuntimeError)
    for number in range(5):
        logger.info("chatter")
        logger.warning("warning %d", number)
    written = capsys.readouterr().err
    assert written.count("logging raises") == 1 and "chatter" not in written
    assert [line.partition(": ")[2] for line in written.splitlines() if "WARNING" in line] == [
        f"warning {n}" for n in range(5)
    ]


def test_without_a_stderr_nothing_is_raised_either(name: str, monkeypatch: Any) -> None:
    logger = SafeLogger(name)
    rude_filter(logging.getLogger(name), RuntimeError)
    for stderr in (None, object(), type("Closed", (), {"write": raising(ValueError)})()):
        monkeypatch.setattr(sys, "stderr", stderr)
        logger.error("lost")


@pytest.mark.parametrize("raise_exceptions", [True, False])
@pytest.mark.parametrize("error", [RuntimeError, SystemExit])
def test_what_is_logged_may_have_no_text(
    error: Any, raise_exceptions: bool, name: str, caplog: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", raise_exceptions)
    SafeLogger(name).warning("%s, %r, %d and %.1f", Rude(error), Rude(error), 3, 4.0)
    raised = f"raises {error.__name__}>"
    assert caplog.messages == [
        f"<test_safe_logging.Rude whose str {raised}, <test_safe_logging.Rude whose repr {raised}, 3 and 4.0"
    ]


def test_safe_texts_of_harmless_things_are_their_own_and_bounded() -> None:
    assert safe_repr("x") == "'x'" and safe_str("x") == "x" and safe_repr(None) == "None"
    assert len(safe_repr("x" * 10**6)) == len(safe_str("x" * 10**6)) == 16 * 1024


def test_a_line_tells_where_it_was_logged(name: str, caplog: Any) -> None:
    SafeLogger(name).warning("here", extra={"job_id": "1b92xle0"})
    record = caplog.records[0]
    assert (record.filename, record.funcName) == (
        "test_safe_logging.py",
        "test_a_line_tells_where_it_was_logged",
    )
    assert record.job_id == "1b92xle0"


def test_what_is_not_wanted_is_not_formatted(name: str) -> None:
    logging.getLogger(name).setLevel(logging.ERROR)
    logger = SafeLogger(name)
    logger.warning("%s", Rude(SystemExit))
    assert not logger.is_enabled_for(logging.WARNING) and logger.is_enabled_for(logging.ERROR)


# What a signal handler raises is meant for the application.


def end_by_signal(*_: Any) -> None:
    raise SystemExit(3)


class Stops:
    def on_signal(self, *_: Any) -> None:
        raise TimeoutError("the application's own alarm")

    __call__ = on_signal


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (signal.default_int_handler, KeyboardInterrupt),
        (end_by_signal, SystemExit),
        (Stops().on_signal, TimeoutError),
        (Stops(), TimeoutError),
        (partial(end_by_signal, "x"), SystemExit),
    ],
)
def test_what_a_signal_handler_raises_during_a_log_call_passes_through(
    handler: Any, kind: Any, name: str
) -> None:
    logger = SafeLogger(name)
    logging.getLogger(name).addFilter(lambda record: signal.raise_signal(signal.SIGUSR1) or True)  # type: ignore[func-returns-value]
    former = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(kind):
            logger.warning("interrupted")
        with pytest.raises(kind):
            safe_repr(
                type(
                    "Slow", (), {"__repr__": lambda self: str(signal.raise_signal(signal.SIGUSR1))}
                )()
            )
    finally:
        signal.signal(signal.SIGUSR1, former)


def test_on_other_threads_nothing_passes_through(name: str, capsys: Any) -> None:
    logger = SafeLogger(name)
    rude_filter(logging.getLogger(name), KeyboardInterrupt)
    ends: list[str] = []

    def log() -> None:
        logger.warning("on a thread")
        ends.append("well")

    thread = threading.Thread(target=log)
    thread.start()
    thread.join()
    assert ends == ["well"] and "on a thread" in capsys.readouterr().err


# Nothing is silent by default.


def printed_by(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    return done.stderr


def test_without_logging_set_up_warnings_and_errors_reach_stderr() -> None:
    code = "import embedkq\nfrom embedkq._safe_logging import SafeLogger\nlogger = SafeLogger('embedkq.worker')\n"
    assert (
        printed_by(
            f"{code}logger.info('an info'); logger.warning('a warning'); logger.error('an error')"
        )
        == "a warning\nan error\n"
    )


def test_loggers_that_were_there_before_dictconfig_go_on() -> None:
    """Flask's documentation configures logging so; `disable_existing_loggers` is True unless told
    otherwise."""
    code = (
        "from embedkq._safe_logging import SafeLogger\nimport logging.config\nlogger = SafeLogger('embedkq.worker')\n"
        "logging.config.dictConfig({'version': 1, 'formatters': {'f': {'format': '%(name)s %(levelname)s %(message)s'}},"
        " 'handlers': {'h': {'class': 'logging.StreamHandler', 'formatter': 'f'}}, 'root': {'level': 'INFO', 'handlers': ['h']}})\n"
        "logger.info('an info'); logger.debug('a debug')"
    )
    assert printed_by(code) == "embedkq.worker INFO an info\n"
