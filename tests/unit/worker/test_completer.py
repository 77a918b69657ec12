"""What becomes of a run that has ended: another attempt, or its callback, then its dead letter,
then it is done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from partitions import P5, numbered
from support import logged
from unitjobs import run_at

from embedkq._formats import dead_letter
from embedkq._formats.dead_letter import DeadLetter, Record
from embedkq._formats.outcome import Outcome
from embedkq._partition import Partition
from embedkq.errors import DecodeError, HostCrashed, OtherGroup, SignatureRefused
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import Death, Finished, JobRun
from embedkq.worker.between_threads.stop_deadline import StopDeadline
from embedkq.worker.control_thread.completer import Completer, Retry
from embedkq.worker.control_thread.retries import Retries

SUCCESS = Outcome("success", b"result")
FAILURE = Outcome("failure", b"error", "ValueError", "no", "Traceback: no", "ValueError")
TIMEOUT = Outcome("timeout", traceback="it was here")


class Log:
    """Remembers what was logged of which run."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.lines.append((name, *arguments))

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.lines]


class Letters:
    """Takes dead letters."""

    topic = "dead"
    away_since: float | None = 77.0

    def __init__(self) -> None:
        self.waiting: list[JobRun] = []
        self.told: list[Any] = []

    def write(self, run: JobRun) -> None:
        self.waiting.append(run)

    def written(self, runs: Sequence[JobRun]) -> None:
        self.waiting = [run for run in self.waiting if run not in runs]

    def held_up(self, now: float) -> set[Partition]:
        return {numbered(int(now))}

    def close(self, stop: StopDeadline) -> None:
        self.told.append(stop)

    def close_after_fork(self) -> None:
        self.told.append("forked")


class Host:
    """A completer between doubles of what it works with."""

    def __init__(
        self,
        callback: bool = True,
        letters: bool = True,
        retries: int = 0,
        backoff: float = 1.0,
        retry_on: list[str] | None = None,
    ) -> None:
        self.log = Log()
        self.owner: Mailbox[Finished] = Mailbox()
        self.letters = Letters()
        self.completer = Completer(
            self.log,  # type: ignore[arg-type]
            Retries(retries, backoff, retry_on),
            self.owner if callback else None,
            self.letters if letters else None,  # type: ignore[arg-type]
        )
        self.done: list[JobRun] = []

    def settle(self, run: JobRun, outcome: Outcome) -> float | None:
        """Seconds until the next attempt; where there is none, what follows the end."""
        following = self.completer.settle(run, outcome)
        if isinstance(following, Retry):
            return following.pause
        self.end(following)
        return None

    def end(self, *ends: Finished) -> None:
        if self.completer.has_callback:
            self.completer.call_back(ends)
        else:
            self.write_letters([run for run, _ in ends])

    def callbacks_done(self, runs: list[JobRun]) -> None:
        self.completer.callbacks_done(runs)
        self.write_letters(runs)

    def keep_out(self, run: JobRun, reason: Exception) -> None:
        self.completer.keep_out(run, reason)
        self.write_letters([run])

    def letters_written(self, runs: list[JobRun]) -> None:
        self.completer.letters_written(runs)
        self.done += runs

    def write_letters(self, runs: list[JobRun]) -> None:
        self.done += [run for run in runs if not self.completer.write_letter(run)]


# The end of a job.


def test_a_success_is_done_once_its_callback_has_returned() -> None:
    host, run = Host(), run_at(0)
    assert host.settle(run, SUCCESS) is None
    assert not host.done
    assert host.owner.take() == [(run, SUCCESS)]
    host.callbacks_done([run])
    assert host.done == [run]
    assert not host.letters.waiting
    assert host.completer.counts == {"success": 1, "failure": 0, "timeout": 0, "undecodable": 0}
    assert host.log.lines == [("ended", run, SUCCESS)]


def test_without_a_callback_a_success_is_done_at_once() -> None:
    host, runs = Host(callback=False), [run_at(0), run_at(1)]
    for run in runs:
        host.settle(run, SUCCESS)
    assert host.done == runs
    assert host.completer.counts["success"] == 2
    assert not host.completer.has_callback


def test_the_owner_gets_what_ends_together_at_once() -> None:
    host, runs = Host(), [run_at(0), run_at(1)]
    assert host.completer.has_callback
    ends = [host.completer.settle(run, SUCCESS) for run in runs]
    assert host.owner.take() == []
    host.end(*[end for end in ends if isinstance(end, Finished)])
    assert [finished.run for finished in host.owner.take()] == runs
    host.callbacks_done(runs)
    assert host.done == runs


def test_ends_without_a_callback_are_given_to_nobody() -> None:
    completer, run = Host(callback=False).completer, run_at(0)
    completer.call_back([Finished(run, SUCCESS)])
    completer.callbacks_done([run])
    assert not completer.full and completer.waiting_since is None


def test_a_failure_has_its_callback_is_written_as_a_dead_letter_and_then_done() -> None:
    host, run = Host(), run_at(0)
    assert host.settle(run, FAILURE) is None
    assert host.owner.take() == [(run, FAILURE)]
    assert not host.letters.waiting, "a letter is written only of a job whose callback has returned"
    host.callbacks_done([run])
    assert host.letters.waiting == [run] and not host.done
    assert run.death == Death("failure", "ValueError: no", "Traceback: no", 1)
    host.letters_written([run])
    assert host.done == [run] and not host.letters.waiting
    assert host.completer.counts["failure"] == 1 and not run.unread
    assert host.log.lines == [("ended", run, FAILURE), ("goes_to_dead_letters", run, "dead")]


def test_without_a_dead_letter_topic_a_failure_is_done_after_its_callback() -> None:
    host, run = Host(letters=False), run_at(0)
    host.settle(run, FAILURE)
    host.callbacks_done([run])
    assert host.done == [run]
    assert host.log.names == ["ended"]


def test_a_timeout_has_a_traceback_and_no_exception() -> None:
    host, run = Host(callback=False), run_at(0)
    host.settle(run, TIMEOUT)
    assert run.death == Death("timeout", "", "it was here", 1)
    assert host.completer.counts["timeout"] == 1
    assert host.letters.waiting == [run]


@pytest.mark.parametrize("status", ["undecodable", "malformed"])
def test_what_no_child_could_unpickle_is_told_as_a_failure_and_buried_as_what_it_is(
    status: Any,
) -> None:
    host, run = Host(), run_at(0)
    outcome = FAILURE._replace(status=status)
    host.settle(run, outcome)
    assert run.unread
    assert host.owner.take() == [(run, FAILURE)]
    assert run.death is not None and run.death.reason == status
    assert host.completer.counts["failure"] == 1
    assert host.log.lines == [("ended", run, outcome)]


# Further attempts.


def test_a_job_that_is_run_again_is_neither_told_nor_counted() -> None:
    host, run = Host(callback=False, retries=2, backoff=8.0), run_at(0)
    pause = host.settle(run, FAILURE)
    assert pause is not None and 4.0 <= pause <= 8.0
    assert run.attempts == 1 and run.death is None
    assert not any(host.completer.counts.values())
    assert not host.done and not host.letters.waiting
    pause = host.settle(run, TIMEOUT)
    assert pause is not None and 8.0 <= pause <= 16.0
    assert host.settle(run, FAILURE) is None
    assert run.attempts == 3
    assert run.death is not None and run.death.attempts == 3
    assert host.log.names == ["ended"] * 3 + ["is_given_up", "goes_to_dead_letters"]
    assert host.log.lines[3] == ("is_given_up", run)


def test_what_was_not_loaded_is_run_again_as_a_failure_is() -> None:
    host, run = Host(retries=1), run_at(0)
    assert host.settle(run, FAILURE._replace(status="undecodable")) is not None


def test_what_no_host_can_load_is_not_run_again() -> None:
    host, run = Host(callback=False, retries=3), run_at(0)
    assert host.settle(run, FAILURE._replace(status="malformed")) is None
    assert run.death is not None and (run.death.reason, run.death.attempts) == ("malformed", 1)
    assert host.log.names == ["ended", "goes_to_dead_letters"]


def test_a_success_after_failures_counts_as_a_success() -> None:
    host, run = Host(callback=False, retries=1), run_at(0)
    host.settle(run, FAILURE)
    assert host.settle(run, SUCCESS) is None
    assert run.death is None and run.attempts == 1
    assert host.done == [run] and host.completer.counts["success"] == 1


def test_that_a_job_is_given_up_is_said_only_where_it_might_have_been_run_again() -> None:
    host = Host(callback=False)
    host.settle(run_at(0), FAILURE)
    assert "is_given_up" not in host.log.names
    elsewhere = run_at(1)
    elsewhere.attempts = 1
    host.settle(elsewhere, FAILURE)
    assert host.log.names.count("is_given_up") == 1
    unwanted = Host(callback=False, retries=1, retry_on=["KeyError"])
    unwanted.settle(run_at(0), FAILURE)
    assert unwanted.log.names.count("is_given_up") == 1


# Records that may not run.


@pytest.mark.parametrize(
    ("reason", "told", "exception"),
    [
        (DecodeError("no header"), "malformed", "DecodeError: no header"),
        (SignatureRefused("not signed"), "refused", "SignatureRefused: not signed"),
    ],
)
def test_a_record_that_is_kept_out_goes_to_the_dead_letters_without_a_callback(
    reason: Exception, told: str, exception: str
) -> None:
    host, run = Host(), run_at(0, key=b"k")
    host.keep_out(run, reason)
    assert not host.owner.take()
    assert run.death == Death(told, exception, "", 0)
    assert run.key is None, "it is in no key's lane, and frees none"
    assert host.letters.waiting == [run] and not host.done
    assert host.completer.counts == {"success": 0, "failure": 0, "timeout": 0, "undecodable": 1}
    assert host.log.lines == [("kept_out", run, reason), ("goes_to_dead_letters", run, "dead")]


def test_without_a_dead_letter_topic_a_record_that_is_kept_out_is_done() -> None:
    host, runs = Host(letters=False), [run_at(0), run_at(1)]
    for run in runs:
        host.keep_out(run, DecodeError("no header"))
    assert host.done == runs
    assert host.completer.counts["undecodable"] == 2


def test_a_record_for_another_group_is_passed_over() -> None:
    host, run = Host(), run_at(0, key=b"k")
    reason = OtherGroup("it is theirs")
    host.keep_out(run, reason)
    assert host.done == [run] and run.key is None and run.death is None
    assert not host.letters.waiting and not any(host.completer.counts.values())
    assert host.log.lines == [("passed_over", run, reason)]


def test_a_dead_letter_that_dies_again_is_not_written_again() -> None:
    host, run = Host(callback=False), run_at(0)
    letter = DeadLetter("topic", 0, 0, "failure")
    run.record.headers = dead_letter.as_dead_letter(Record(None, b"", ()), letter).headers  # type: ignore
    host.settle(run, FAILURE)
    assert host.done == [run] and not host.letters.waiting
    assert host.log.names == ["ended", "is_dead_letter"]
    assert host.log.lines[1] == ("is_dead_letter", run)


# Jobs that took hosts down.


@pytest.mark.parametrize("letters", [False, True])
def test_a_job_that_took_hosts_down_ends_as_a_failure_of_which_nothing_is_unpickled(
    letters: bool,
) -> None:
    host, run = Host(letters=letters), run_at(0)
    error = HostCrashed(3, ("web-1",))
    end = host.completer.quarantine(run, error)
    assert (end.run, end.outcome.status) == (run, "failure")
    assert not host.done and not host.owner.take() and not host.letters.waiting
    host.end(end)
    host.callbacks_done([run])
    assert (host.done, host.letters.waiting) == (([], [run]) if letters else ([run], []))
    assert run.attempts == 3 and run.unread
    assert run.death == Death("crashes", f"embedkq.errors.HostCrashed: {error}", "", 3)
    assert host.completer.counts["failure"] == 1
    assert host.log.lines[0] == ("is_quarantined", run, error, "dead" if letters else None)


# What waits.


def test_no_more_jobs_begin_once_a_thousand_callbacks_wait() -> None:
    host, runs = Host(), [run_at(offset) for offset in range(1_000)]
    for run in runs[:999]:
        host.settle(run, SUCCESS)
    assert not host.completer.full
    host.settle(runs[999], SUCCESS)
    assert host.completer.full
    host.callbacks_done(runs[:1])
    assert not host.completer.full
    assert not Host(callback=False).completer.full


def test_callbacks_that_have_returned_wait_no_longer_and_nothing_is_written_by_that() -> None:
    host, run = Host(), run_at(0)
    host.settle(run, FAILURE)
    assert host.completer.waiting_since is not None
    host.completer.callbacks_done([run])
    assert host.completer.waiting_since is None
    assert not host.done and not host.letters.waiting


def test_since_when_callbacks_wait_is_known() -> None:
    host, run, began = Host(), run_at(0), time.monotonic()
    assert host.completer.waiting_since is None
    host.settle(run, SUCCESS)
    assert began <= (host.completer.waiting_since or 0.0) <= time.monotonic()
    host.callbacks_done([run])
    assert host.completer.waiting_since is None
    assert Host(callback=False).completer.waiting_since is None


def test_an_owner_that_takes_no_callbacks_is_warned(caplog: Any) -> None:
    host = Host()
    host.settle(run_at(0), SUCCESS)
    host.completer.warn_if_deaf(time.monotonic() + 1.0)
    assert not logged(caplog)
    host.completer.warn_if_deaf(time.monotonic() + 100.0)
    assert logged(caplog).startswith("WARNING 1 callbacks have waited for 100 s")
    Host(callback=False).completer.warn_if_deaf(time.monotonic() + 100.0)


def test_what_the_dead_letters_say_is_passed_on() -> None:
    host, stop = Host(), StopDeadline()
    assert host.completer.letters_away_since == 77.0
    assert host.completer.held_up(5.0) == {P5}
    host.completer.close(stop)
    host.completer.close_after_fork()
    assert host.letters.told == [stop, "forked"]


def test_without_a_dead_letter_topic_no_letters_wait() -> None:
    completer, run = Host(letters=False).completer, run_at(0)
    assert completer.letters_away_since is None
    assert completer.held_up(5.0) == set()
    completer.close(StopDeadline())
    completer.close_after_fork()
    completer.letters_written([run])
    assert completer.write_letter(run) is False


def test_dead_letters_that_are_written_at_different_times_are_all_done() -> None:
    host, runs = Host(callback=False), [run_at(offset) for offset in range(3)]
    for run in runs:
        host.settle(run, FAILURE)
    host.letters_written(runs[:1])
    assert host.done == runs[:1] and host.letters.waiting == runs[1:]
    host.letters_written(runs[1:])
    assert host.done == runs
