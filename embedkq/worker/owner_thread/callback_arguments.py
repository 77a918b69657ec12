"""What a callback is called with: a run and its outcome, unpickled. Owner's thread."""

from __future__ import annotations

from typing import Any

from embedkq import codec
from embedkq._child.runner import FROM_JSON, FROM_KQ
from embedkq._formats import json_job, kq_record
from embedkq._formats.outcome import Outcome
from embedkq._safe_logging import safe_repr
from embedkq.errors import DecodeError, JobFailed, ResultNotPicklable
from embedkq.job import Job, know
from embedkq.worker.between_threads.messages import JobRun
from embedkq.worker.between_threads.other_runs import PlainRun


def _unread_job(run: JobRun) -> Job:
    """The job of a run whose payload cannot be, or must not be, unpickled here."""
    topic = run.partition.topic
    func = run.handling.handler if isinstance(run, PlainRun) else None
    return Job(run.job_id, run.timestamp, topic, func, None, None, run.timeout, run.key)


def job_of(run: JobRun) -> Job:
    """The job of a run whose payload a child has already decoded.

    Raises:
        DecodeError: this process cannot decode it.
    """
    if isinstance(run, PlainRun):
        func, args = run.handling.handler, run.arguments()
        kwargs: dict[str, Any] | None = None if args is None else {}
        topic = run.partition.topic
        return Job(run.job_id, run.timestamp, topic, func, args, kwargs, run.timeout, run.key)
    if run.form == FROM_KQ:
        return kq_record.decode_job(run.payload)
    decode = json_job.decode if run.form == FROM_JSON else codec.decode_call
    call = decode(run.payload)
    return Job(run.job_id, run.timestamp, run.partition.topic, *call, run.timeout, run.key)


def callback_arguments(
    run: JobRun, outcome: Outcome, worker: str = "", clock: float = 0.0
) -> tuple[str, Job, Any, Any, Any]:
    """The callback's arguments. A child has already unpickled all of them, so unpickling is safe
    here. `worker` and `clock` are as in `Facts`."""
    reason: Exception | None = None
    try:
        job = _unread_job(run) if run.unread else job_of(run)
    except DecodeError as error:
        job, reason = _unread_job(run), error
    # A failed attempt is counted already.
    attempts = run.attempts + 1 if outcome.status == "success" else run.attempts
    know(
        job,
        (
            run.partition.number,
            run.offset,
            run.headers,
            attempts,
            run.started,
            run.ended,
            clock,
            worker,
        ),
    )
    if reason is not None:
        return "failure", job, None, reason, f"{type(reason).__name__}: {reason}\n"
    if outcome.status == "success":
        return _success_arguments(job, outcome)
    if outcome.status == "failure":
        return "failure", job, None, _exception_of(outcome), outcome.traceback
    return outcome.status, job, None, None, None


def _success_arguments(job: Job, outcome: Outcome) -> tuple[str, Job, Any, Any, Any]:
    try:
        return "success", job, codec.decode_object(outcome.payload), None, None
    except Exception as error:  # noqa: BLE001  (the result's own code)
        unpicklable = ResultNotPicklable(
            "its type", f"it cannot be rebuilt in this process: {safe_repr(error)}"
        )
        text = f"{type(unpicklable).__name__}: {unpicklable}\n"
        return "failure", job, None, unpicklable, text


def _exception_of(outcome: Outcome) -> Exception:
    try:
        error = codec.decode_object(outcome.payload)
    except Exception:  # noqa: BLE001  (the exception's own code)
        error = None
    return error if isinstance(error, Exception) else JobFailed(outcome.type_name, outcome.message)
