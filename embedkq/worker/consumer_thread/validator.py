"""Gate: what of a record is looked at before anything of it is unpickled, here or in a child.
Consumer's thread."""

from __future__ import annotations

from collections.abc import Sequence

from embedkq._formats import allowlist, kq_record, signing
from embedkq._formats.headers import Envelope, group_of, has_ours, read_headers, read_value
from embedkq._formats.signing import Signer
from embedkq.errors import DecodeError, OtherGroup, RecordRefused
from embedkq.worker.between_threads.kq_run import KQJobRun
from embedkq.worker.between_threads.messages import JobRun, Record

UNKNOWN_ID = "-"
UNKNOWN_SECONDS = 30.0
"""Limit of a job of KQ until a child has told its own."""


class RecordValidator:
    """Lets records in that are jobs, and where a secret is set, only those that its holders sent.

    Args:
        topic: where the records come from.
        timeout: limit of every job in seconds; None for the job's own.
        signer: checks signatures; None takes every record, signed or not.
        max_age: seconds after which a job is not run any more; None for never.
        allow: patterns of functions that may run; None for all.
        group: consumer group of this worker: what was put back for another one is refused.
    """

    def __init__(
        self,
        topic: str,
        timeout: float | None = None,
        signer: Signer | None = None,
        max_age: float | None = None,
        allow: Sequence[str] | None = None,
        group: str = "",
    ) -> None:
        self._topic = topic
        self._group = group
        self._timeout = timeout
        self._signer = signer
        self._max_age = max_age
        self._allow = allow

    def validate(self, partition: int, epoch: int, record: Record) -> JobRun:
        """The record as a run; its `refusal` says why it is no job, or may not run here."""
        run = JobRun(partition, epoch, record)
        if record.flaw is not None:
            run.refusal = DecodeError(record.flaw)
            return run
        try:
            if len(record.headers) > 1:
                self._check_group(record)
            try:
                envelope = self._check(record)
            except DecodeError as reason:
                envelope = self._check_from_kq(record, reason)
                run = KQJobRun(partition, epoch, record, has_own_limit=self._timeout is None)
        except (DecodeError, RecordRefused) as error:
            run.refusal = error
            return run
        run.job_id, run.timestamp, run.timeout = envelope.id, envelope.timestamp, envelope.timeout
        run.retries, run.backoff = envelope.retries, envelope.backoff
        run.limit = run.timeout if self._timeout is None else self._timeout
        return run

    def _check_group(self, record: Record) -> None:
        """Refuse what was put back for another group; raises OtherGroup."""
        group = group_of(record.headers)
        if group is not None and group != self._group:
            raise OtherGroup(f"it was put back for group {group!r} only")

    def _check(self, record: Record) -> Envelope:
        """What the headers say.

        Raises:
            DecodeError: it is no job of embedkq.
            RecordRefused: it may not run here.
        """
        if self._signer is None:
            envelope = read_headers(record.headers)
        else:
            envelope = read_value(
                self._signer.check(self._topic, record.key, record.headers, record.value)
            )
        if self._max_age is not None:
            signing.check_age(envelope.timestamp, self._max_age)
        if self._allow is not None:
            allowlist.check_function(record.value, self._allow)
        return envelope

    def _check_from_kq(self, record: Record, reason: DecodeError) -> Envelope:
        """Id, time and limit of a job of KQ, as far as they can be told while nothing is unpickled;
        `reason`: why it is none of ours.

        Raises:
            DecodeError: it is no job of KQ either: `reason`.
            RecordRefused: it may not run here.
        """
        payload = record.value or b""
        if has_ours(record.headers) or not kq_record.is_job(payload):
            raise reason
        if self._max_age is not None:
            signing.check_age(record.timestamp, self._max_age)
        if self._allow is not None:
            allowlist.check_name(kq_record.function_of(payload), self._allow)
        return Envelope(UNKNOWN_ID, record.timestamp, UNKNOWN_SECONDS)
