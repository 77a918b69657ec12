"""What jobs log and print, and where a job was stuck, in the host's own loggers."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import pytest
import workerjobs
from support import Recorder, fire_until

from embedkq import Queue, Worker


@pytest.fixture
def run(hosts: str, topic: str, group: str) -> Callable[..., Recorder]:
    """Runs one call to its end through a worker."""

    def run(func: Any, *args: Any, timeout: float | None = None, **options: Any) -> Recorder:
        recorder = Recorder()
        with Queue(hosts=hosts, topic=topic, timeout=timeout) as queue:
            queue.enqueue(func, *args)
        worker = Worker(hosts=hosts, topic=topic, group=group, callback=recorder, **options)
        worker.start(max_jobs=1)
        return recorder

    return run


def test_what_a_job_logs_arrives_at_the_same_logger_with_the_jobs_id(run: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "shop")
    recorder = run(workerjobs.log_some)
    told = {
        (r.name, r.levelname, r.getMessage()): r
        for r in caplog.records
        if r.name.startswith("shop")
    }
    assert set(told) == {
        ("shop", "INFO", "sold 3 apples"),
        ("shop.till", "WARNING", "no change"),
        ("shop", "ERROR", "burnt"),
    }
    assert {record.job_id for record in told.values()} == {recorder.calls[0].job.id}
    assert "ZeroDivisionError" in told["shop", "ERROR", "burnt"].exc_text
    assert told["shop", "INFO", "sold 3 apples"].funcName == "log_some"


def test_levels_are_the_hosts(run: Any, caplog: Any) -> None:
    caplog.set_level(logging.ERROR, "shop")
    run(workerjobs.log_some)
    assert [r.getMessage() for r in caplog.records if r.name.startswith("shop")] == ["burnt"]


def test_what_a_job_prints_goes_to_a_logger_and_not_to_the_hosts_stdout(
    run: Any, caplog: Any, capfd: Any
) -> None:
    caplog.set_level(logging.INFO, "embedkq.job")
    recorder = run(workerjobs.print_some)
    lines = [record for record in caplog.records if record.name == "embedkq.job"]
    assert [record.getMessage() for record in lines] == [
        "to stdout",
        "to stderr",
        "from a shell",
        "without end",
    ]
    assert {record.job_id for record in lines} == {recorder.calls[0].job.id}
    assert capfd.readouterr().out == ""


def test_a_job_that_fills_stdout_is_not_stuck(run: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "embedkq.job")
    recorder = run(workerjobs.fill_stdout, 5_000, timeout=30)
    assert recorder.calls[0].status == "success"
    assert sum(record.name == "embedkq.job" for record in caplog.records) == 5_000


def test_a_job_that_logs_for_ever_ends_at_its_limit(run: Any, caplog: Any) -> None:
    caplog.set_level(logging.CRITICAL)
    caplog.set_level(logging.INFO, "shop")
    logging.getLogger("shop").addFilter(drop := lambda record: False)
    try:
        recorder = run(workerjobs.log_for_ever, timeout=1)
    finally:
        logging.getLogger("shop").removeFilter(drop)
    assert recorder.calls[0].status == "timeout"


@pytest.mark.parametrize("func", [workerjobs.spin, workerjobs.sleep, workerjobs.stick_in_c])
def test_the_error_line_of_a_timeout_says_where_the_job_was_stuck(
    run: Any, caplog: Any, tmp_path: Any, func: Any
) -> None:
    recorder = run(func, str(tmp_path / "notes"), timeout=0.3)
    assert recorder.calls[0].status == "timeout" and recorder.calls[0].traceback is None
    (line,) = [
        record.getMessage()
        for record in caplog.records
        if "timed out after 0.3 seconds." in record.getMessage()
    ]
    assert "workerjobs.py" in line and f"in {func.__name__}" in line


def test_a_record_that_is_no_record_harms_nothing(caplog: Any) -> None:
    from embedkq.worker.pool import job_output

    for content in (b"", b"\xff", b"[]", b'{"levelno": "x"}', b'{"name": 3}', b"null"):
        job_output.relay(content, "id")
    assert all(
        "cannot be read" in record.getMessage() for record in caplog.records
    ) and sys.exc_info() == (None, None, None)


def test_initializer_output_is_logged_without_an_id(run: Any, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "embedkq.job")
    caplog.set_level(logging.INFO, "shop")
    run(workerjobs.echo, initializer=workerjobs.print_some)
    printed = [record for record in caplog.records if record.name == "embedkq.job"]
    assert len(printed) == 4 and {record.job_id for record in printed} == {"-"}


def test_waiting_is_not_needed(hosts: str, topic: str, group: str, caplog: Any) -> None:
    """A line is there while its job still runs."""
    caplog.set_level(logging.INFO, "shop")
    recorder = Recorder()
    with (
        Queue(hosts=hosts, topic=topic, timeout=60) as queue,
        Worker(hosts=hosts, topic=topic, group=group, callback=recorder) as worker,
    ):
        queue.enqueue(workerjobs.log_and_sleep, 2)
        fire_until(worker, lambda: "begun" in caplog.text, "the line is there")
        assert not recorder.calls
        fire_until(worker, lambda: recorder.calls, "the job is done")
