"""Validates a record before anything in it is unpickled, here or in a child. Consumer thread."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from hashlib import sha1

from embedkq._formats import allowlist, json_job, kq_record, signing, user_headers
from embedkq._formats.headers import (
    UNKNOWN_TIME,
    Envelope,
    has_ours,
    read_headers,
    read_value,
    target_group,
)
from embedkq._formats.plain_record import Handling
from embedkq._formats.signing import Signer
from embedkq._partition import Partition
from embedkq.errors import (
    DecodeError,
    FunctionRefused,
    OtherGroup,
    RecordRefused,
    SignatureRefused,
)
from embedkq.worker.between_threads.messages import JobRun, Record
from embedkq.worker.between_threads.other_runs import (
    JSONJobRun,
    KQJobRun,
    PlainRun,
    TellingPlainRun,
)

UNKNOWN_ID = "-"
_PLACES = uuid.uuid5(uuid.NAMESPACE_URL, "kafka")
"""The namespace of ids that are made from a record's place."""
_VARIANTS = "89ab" * 4
"""The digit of a UUID that holds its variant, for each digit that a hash may have there."""
UNKNOWN_SECONDS = 30.0
"""Time limit of a job of KQ until a child reports the job's own limit."""


class RecordValidator:
    """Accepts records that are jobs. With a secret, accepts only jobs from senders with that
    secret.

    Args:
        timeout: time limit of every job in seconds; None for the job's own limit.
        signer: checks signatures; None accepts every record, signed or not.
        max_age: seconds after which a job is refused; None for never.
        allow: patterns of allowed functions; None for all.
        group: this worker's consumer group. Records retried for another group are refused.
    """

    def __init__(
        self,
        timeout: float | None = None,
        signer: Signer | None = None,
        max_age: float | None = None,
        allow: Sequence[str] | None = None,
        group: str = "",
    ) -> None:
        self._group = group
        self._timeout = timeout
        self._signer = signer
        self._max_age = max_age
        self._allow = allow

    def validate(self, partition: Partition, epoch: int, record: Record) -> JobRun:
        """The record as a `JobRun`. Its `refusal` says why it is not a job, or may not run here."""
        run = JobRun(partition, epoch, record)
        if record.flaw is not None:
            run.refusal = DecodeError(record.flaw)
            return run
        try:
            if len(record.headers) > 1:
                _check_group(record, self._group)
            try:
                envelope = self._check(partition.topic, record)
                if envelope.is_json:
                    run = JSONJobRun(partition, epoch, record)
                    envelope = self._completed(envelope, partition, record)
                if len(record.headers) > 1:
                    run.headers = user_headers.decode(record.headers)
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

    def _check(self, topic: str, record: Record) -> Envelope:
        """Check and read the headers.

        Raises:
            DecodeError: the record is not a job of embedkq.
            RecordRefused: the record may not run here.
        """
        if self._signer is None:
            envelope = read_headers(record.headers)
        else:
            envelope = read_value(
                self._signer.check(topic, record.key, record.headers, record.value)
            )
        if self._max_age is not None:
            self._check_age(envelope, record, self._max_age)
        if envelope.is_json:
            self._check_json(record)
        elif self._allow is not None:
            allowlist.check_function(record.value, self._allow)
        return envelope

    def _check_age(self, envelope: Envelope, record: Record, max_age: float) -> None:
        """Refuse an old record, by the time in its header or else by its own."""
        timestamp = envelope.timestamp
        if timestamp == UNKNOWN_TIME:
            if self._signer is not None:
                raise SignatureRefused(
                    "its header has no timestamp, and the record's own is not signed: max_age needs"
                    " one in the header"
                )
            timestamp = record.timestamp
        signing.check_age(timestamp, max_age)

    def _check_json(self, record: Record) -> None:
        """Accept a JSON job whose function `allow` includes. Imports nothing."""
        name = json_job.read(record.value or b"").name
        if self._allow is None:
            raise FunctionRefused(
                f"it is a JSON job, which runs only what `allow` includes, and this worker has no"
                f' `allow`: to run it, set for example allow=["{name}"]'
            )
        allowlist.check_name(name, self._allow)

    def _completed(self, envelope: Envelope, partition: Partition, record: Record) -> Envelope:
        """The envelope of a JSON job with what its header may lack."""
        timestamp = record.timestamp if envelope.timestamp == UNKNOWN_TIME else envelope.timestamp
        return envelope._replace(id=envelope.id or _id_of(partition, record), timestamp=timestamp)

    def _check_from_kq(self, record: Record, reason: DecodeError) -> Envelope:
        """Read id, time and limit of a job of KQ, as far as possible without unpickling. `reason`
        says why it is not a job of embedkq.

        Raises:
            DecodeError: it is not a job of KQ either; this raises `reason`.
            RecordRefused: the record may not run here.
        """
        payload = record.value or b""
        if has_ours(record.headers) or not kq_record.is_job(payload):
            raise reason
        if self._max_age is not None:
            signing.check_age(record.timestamp, self._max_age)
        if self._allow is not None:
            allowlist.check_name(kq_record.function_name(payload), self._allow)
        return Envelope(UNKNOWN_ID, record.timestamp, UNKNOWN_SECONDS)


class PlainRecordValidator:
    """Accepts every record, for the worker's handler.

    Args:
        handling: what is done with records.
        tells: whether a callback wants the handler's arguments.
        timeout: time limit of every record in seconds; None for no limit.
        max_age: seconds after which a record is refused; None for never.
        group: this worker's consumer group. Records retried for another group are refused.
    """

    def __init__(
        self,
        handling: Handling,
        tells: bool,
        timeout: float | None = None,
        max_age: float | None = None,
        group: str = "",
    ) -> None:
        self._handling = handling
        self._kind = TellingPlainRun if tells and handling.is_own else PlainRun
        self._timeout = timeout
        self._max_age = max_age
        self._group = group

    def validate(self, partition: Partition, epoch: int, record: Record) -> JobRun:
        """The record as a `JobRun`. Its `refusal` says why it is not handled."""
        run = self._kind(partition, epoch, record, self._handling)
        run.job_id, run.timestamp = _id_of(partition, record), record.timestamp
        run.limit = self._timeout
        try:
            if record.flaw is not None:
                raise DecodeError(record.flaw)
            if record.headers:
                _check_group(record, self._group)
            if self._max_age is not None:
                signing.check_age(record.timestamp, self._max_age)
        except (DecodeError, RecordRefused) as error:
            run.refusal = error
        return run


def _check_group(record: Record, own: str) -> None:
    """Refuse a record that was retried for another group. Raises OtherGroup."""
    group = target_group(record.headers)
    if group is not None and group != own:
        raise OtherGroup(f"it was retried for group {group!r} only")


def _id_of(partition: Partition, record: Record) -> str:
    """An id that is made from a record's place, so that it stays the same at each attempt."""
    place = f"{partition.topic}/{partition.number}/{record.offset}/{record.timestamp}"
    # As uuid.uuid5(), which takes twice as long.
    made = sha1(_PLACES.bytes + place.encode(), usedforsecurity=False).hexdigest()
    variant = _VARIANTS[int(made[16], 16)]
    return f"{made[:8]}-{made[8:12]}-5{made[13:16]}-{variant}{made[17:20]}-{made[20:32]}"
