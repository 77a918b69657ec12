"""What becomes of a run that has ended: another attempt, or its callback, then its dead letter,
then it is done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest
from support import logged
from unitjobs import run_at

from embedkq._formats import dead_letter
from embedkq._formats.dead_letter import DeadLetter, Record
from embedkq._formats.outcome import Outcome
from embedkq.errors import DecodeError, HostCrashed, OtherGroup, SignatureRefused
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import Death, Finished, JobRun
from embedkq.worker.between_threads.stop_deadline import StopDeadline
from embedkq.worker.control_thread.completer import Completer
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

    def held_up(self, now: float) -> set[int]:
        return {int(now)}

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

    def settle(self, run: JobRun, outcome: Outcome) -> float | None:
        """Seconds until the next attempt; the owner knows of it where there is none."""
        pause = self.completer.settle(run, outcome)
        self.completer.hand_over()
        return pause

    @property
    def done(self) -> list[JobRun]:
        return self.completer.done

    @property
    def told(self) -> int:
        return self.completer.told


# The end of a job.


def test_a_success_is_done_once_its_callback_has_returned() -> None:
    host, run = Host(), run_at(0)
    assert host.settle(run, SUCCESS) is None
    assert not host.done and not host.told
    assert host.owner.take() == [(run, SUCCESS)]
    host.completer.fired([run])
    assert host.done == [run] and host.told == 1
    assert not host.letters.waiting
    assert host.completer.counts == {"success": 1, "failure": 0, "timeout": 0, "undecodable": 0}
    assert host.log.lines == [("ended", run, SUCCESS)]


def test_without_a_callback_a_success_is_done_at_once() -> None:
    host, runs = Host(callback=False), [run_at(0), run_at(1)]
    for run in runs:
        host.settle(run, SUCCESS)
    assert host.done == runs and host.told == 2
    assert host.completer.counts["success"] == 2
    host.completer.fired([])
    assert host.told == 2


def test_the_owner_gets_what_was_settled_together_and_once() -> None:
    host, runs = Host(), [run_at(0), run_at(1)]
    for run in runs:
        host.completer.settle(run, SUCCESS)
    assert host.owner.take() == []
    host.completer.hand_over()
    host.completer.hand_over()
    assert [finished.run for finished in host.owner.take()] == runs
    host.completer.fired(runs)
    assert host.told == 2 and host.done == runs


def test_a_result_counts_among_the_bytes_that_its_job_takes_until_its_callback() -> None:
    host, run = Host(), run_at(0, size=10)
    host.settle(run, SUCCESS)
    assert run.size == 10 + len(SUCCESS.payload)
    silent = run_at(1, size=10)
    Host(callback=False).settle(silent, SUCCESS)
    assert silent.size == 10


def test_a_failure_is_told_written_as_a_dead_letter_and_then_done() -> None:
    host, run = Host(), run_at(0)
    assert host.settle(run, FAILURE) is None
    assert host.owner.take() == [(run, FAILURE)]
    assert not host.letters.waiting, "only what was told to be final is written"
    host.completer.fired([run])
    assert host.letters.waiting == [run] and not host.done
    assert run.death == Death("failure", "ValueError: no", "Traceback: no", 1)
    host.completer.buried([run])
    assert host.done == [run] and not host.letters.waiting
    assert host.completer.counts["failure"] == 1 and not run.unread
    assert host.log.lines == [("ended", run, FAILURE), ("buried", run, "dead")]


def test_without_a_dead_letter_topic_a_failure_is_done_after_its_callback() -> None:
    host, run = Host(letters=False), run_at(0)
    host.settle(run, FAILURE)
    host.completer.fired([run])
    assert host.done == [run]
    assert host.log.names == ["ended"]


def test_a_timeout_has_a_traceback_and_no_exception() -> None:
    host, run = Host(callback=False), run_at(0)
    host.settle(run, TIMEOUT)
    assert run.death == Death("timeout", "", "it was here", 1)
    assert host.completer.counts["timeout"] == 1
    assert host.letters.waiting == [run] and host.told == 1


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
    assert not host.done and not host.told and not host.letters.waiting
    pause = host.settle(run, TIMEOUT)
    assert pause is not None and 8.0 <= pause <= 16.0
    assert host.settle(run, FAILURE) is None
    assert run.attempts == 3
    assert run.death is not None and run.death.attempts == 3
    assert host.log.names == ["ended"] * 3 + ["is_given_up", "buried"]
    assert host.log.lines[3] == ("is_given_up", run)


def test_what_was_not_loaded_is_run_again_as_a_failure_is() -> None:
    host, run = Host(retries=1), run_at(0)
    assert host.settle(run, FAILURE._replace(status="undecodable")) is not None


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
    host.completer.kept_out(run, reason)
    host.completer.hand_over()
    assert not host.owner.take() and not host.told
    assert run.death == Death(told, exception, "", 0)
    assert run.key is None, "it is in no key's lane, and frees none"
    assert host.letters.waiting == [run] and not host.done
    assert host.completer.counts == {"success": 0, "failure": 0, "timeout": 0, "undecodable": 1}
    assert host.log.lines == [("kept_out", run, reason), ("buried", run, "dead")]


def test_without_a_dead_letter_topic_a_record_that_is_kept_out_is_done() -> None:
    host, runs = Host(letters=False), [run_at(0), run_at(1)]
    for run in runs:
        host.completer.kept_out(run, DecodeError("no header"))
    assert host.done == runs
    assert host.completer.counts["undecodable"] == 2


def test_a_record_for_another_group_is_passed_over() -> None:
    host, run = Host(), run_at(0, key=b"k")
    reason = OtherGroup("it is theirs")
    host.completer.kept_out(run, reason)
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


@pytest.mark.parametrize("silently", [False, True])
@pytest.mark.parametrize("letters", [False, True])
def test_a_job_that_took_hosts_down_has_its_callback_unless_that_may_be_what_does_it(
    silently: bool, letters: bool
) -> None:
    host, run = Host(letters=letters), run_at(0)
    error = HostCrashed(3, ("web-1",))
    host.completer.condemn(run, error, silently)
    host.completer.hand_over()
    told = [(finished.run, finished.outcome.status) for finished in host.owner.take()]
    assert told == ([] if silently else [(run, "failure")])
    assert host.told == int(silently)
    if not silently:
        assert not host.done and not host.letters.waiting
        host.completer.fired([run])
    assert host.told == 1
    assert (host.done, host.letters.waiting) == (([], [run]) if letters else ([run], []))
    assert run.attempts == 3 and run.unread
    assert run.death == Death("crashes", f"embedkq.errors.HostCrashed: {error}", "", 3)
    assert host.completer.counts["failure"] == 1
    assert host.log.lines[0] == ("is_condemned", run, error, "dead" if letters else None)


# What waits.


def test_no_more_jobs_begin_once_a_thousand_callbacks_wait() -> None:
    host, runs = Host(), [run_at(offset) for offset in range(1_000)]
    for run in runs[:999]:
        host.settle(run, SUCCESS)
    assert not host.completer.full
    host.settle(runs[999], SUCCESS)
    assert host.completer.full
    host.completer.fired(runs[:1])
    assert not host.completer.full
    assert not Host(callback=False).completer.full


def test_callbacks_that_never_will_return_wait_no_longer() -> None:
    host, run = Host(), run_at(0)
    host.settle(run, SUCCESS)
    assert host.completer.waiting_since is not None
    host.completer.taken([run])
    assert host.completer.waiting_since is None
    assert not host.done and not host.told
    Host(callback=False).completer.taken([run])


def test_since_when_callbacks_wait_is_known() -> None:
    host, run, began = Host(), run_at(0), time.monotonic()
    host.completer.hand_over()
    assert host.completer.waiting_since is None
    host.settle(run, SUCCESS)
    assert began <= (host.completer.waiting_since or 0.0) <= time.monotonic()
    host.completer.fired([run])
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
    assert host.completer.held_up(5.0) == {5}
    host.completer.close(stop)
    host.completer.close_after_fork()
    assert host.letters.told == [stop, "forked"]


def test_without_a_dead_letter_topic_no_letters_wait() -> None:
    completer, run = Host(letters=False).completer, run_at(0)
    assert completer.letters_away_since is None
    assert completer.held_up(5.0) == set()
    completer.close(StopDeadline())
    completer.close_after_fork()
    completer.buried([run])
    assert completer.done == [run]


def test_dead_letters_that_are_written_at_different_times_are_all_done() -> None:
    host, runs = Host(callback=False), [run_at(offset) for offset in range(3)]
    for run in runs:
        host.settle(run, FAILURE)
    host.completer.buried(runs[:1])
    host.completer.buried(runs[1:])
    assert host.done == runs
