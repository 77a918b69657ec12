"""What is logged of each job, in KQ's wording, so that its users' searches continue to work.
Control thread."""

from __future__ import annotations

from embedkq._formats.outcome import Outcome
from embedkq._printable import in_one_record, one_line
from embedkq._safe_logging import INFO, SafeLogger
from embedkq.errors import HostCrashed, RecordRefused
from embedkq.worker.between_threads.messages import JobRun

logger = SafeLogger("embedkq.worker")


class JobLog:
    """The lines of the jobs."""

    @property
    def announces(self) -> bool:
        """Whether anybody wants to know that a job begins, and what it returned."""
        return logger.is_enabled_for(INFO)

    def began(self, run: JobRun, call: str) -> None:
        """A child has begun the call."""
        logger.info("Processing %s ...", _record(run))
        logger.info("Running Job %s: %s ...", _short(run), one_line(call))

    def ended(self, run: JobRun, outcome: Outcome) -> None:
        """The job's end is known."""
        if outcome.status == "success":
            if run.announce:
                logger.info("Job %s returned: %s", _short(run), one_line(outcome.text))
        elif outcome.status == "failure":
            logger.error(
                "Job %s failed: %s%s",
                _short(run),
                one_line(outcome.message),
                _below(outcome.traceback),
            )
        elif outcome.status == "timeout":
            stuck = (
                in_one_record(f"\nIt was stuck here:\n{outcome.traceback}")
                if outcome.traceback
                else ""
            )
            logger.error(
                "Job %s timed out after %g seconds.%s",
                _short(run),
                run.limit,
                stuck,
                extra={"job_id": run.job_id},
            )
        else:
            text = "%s unloadable. Job %s failed: %s%s"
            logger.error(
                text,
                _record(run),
                _short(run),
                one_line(outcome.message),
                _below(outcome.traceback),
            )

    def runs_again(self, run: JobRun, seconds: float, most: int) -> None:
        """Another attempt follows."""
        logger.warning(
            "Job %s runs again in %.1f seconds (retry %d of %d).",
            _short(run),
            seconds,
            run.attempts,
            most,
        )

    def goes_elsewhere(self, run: JobRun) -> None:
        """Another attempt follows, but not here."""
        logger.warning(
            "Job %s will be run again by whoever has its partition next (attempts so far: %d).",
            _short(run),
            run.attempts,
        )

    def is_given_up(self, run: JobRun) -> None:
        """This was the last attempt of several."""
        logger.warning("Job %s is not run again (attempts: %d).", _short(run), run.attempts)

    def is_quarantined(
        self, run: JobRun, error: HostCrashed, dead_letter_topic: str | None
    ) -> None:
        """It crashed too many hosts, and will not run again."""
        again = (
            f"kq dlq retry {_short(run)} --dead-letter-topic={dead_letter_topic}"
            if dead_letter_topic
            else "enqueue it again"
        )
        logger.error(
            "Job %s of %s is not run: %s. If these hosts were killed from outside (out of memory, a"
            " deploy), shut them down gracefully: SIGTERM, and time for what runs. To run it"
            " again: %s.",
            _short(run),
            _record(run),
            error,
            again,
        )

    def kept_out(self, run: JobRun, reason: Exception) -> None:
        """The record is no job of embedkq, or one that may not run here."""
        text = (
            "%s refused. Skipping ... (%s)"
            if isinstance(reason, RecordRefused)
            else "%s malformed. Skipping ... (%s)"
        )
        logger.warning(text, _record(run), one_line(str(reason)))

    def passed_over(self, run: JobRun, reason: Exception) -> None:
        """The record is for another consumer group."""
        logger.info("%s passed over (%s).", _record(run), reason)

    def is_dead_letter(self, run: JobRun) -> None:
        """The record came from a dead-letter topic, and dies once more."""
        logger.warning(
            "%s is a dead letter already, and is not written to the dead-letter topic again: take"
            " this worker's topic for jobs only, and put letters back with `kq dlq retry`.",
            _record(run),
        )

    def goes_to_dead_letters(self, run: JobRun, topic: str) -> None:
        """The record is dead and goes to the dead-letter topic."""
        logger.warning(
            "%s goes to the dead-letter topic %s (%s).",
            _record(run),
            topic,
            "" if run.death is None else run.death.reason,
        )


def _record(run: JobRun) -> str:
    topic, number = run.partition
    return f"Record(topic={topic}, partition={number}, offset={run.offset})"


def _below(traceback: str) -> str:
    return in_one_record(f"\n{traceback.rstrip()}")


def _short(run: JobRun) -> str:
    return run.job_id[:8]
