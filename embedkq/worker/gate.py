"""Gate: what of a record is looked at before anything of it is unpickled, here or in a child. Worker's thread."""
from __future__ import annotations

from collections.abc import Sequence

from embedkq import allowed, signing
from embedkq.headers import Envelope, read_headers
from embedkq.signing import Signer
from embedkq.worker.messages import Record


class Gate:
    """Lets records in that are jobs, and where a secret is set, only those that its holders sent.

    Args:
        topic: where the records come from.
        signer: checks signatures; None takes every record, signed or not.
        max_age: seconds after which a job is not run any more; None for never.
        allow: patterns of functions that may run; None for all.
    """

    def __init__(
        self, topic: str, signer: Signer | None = None, max_age: float | None = None, allow: Sequence[str] | None = None
    ) -> None:
        self._topic = topic
        self._signer = signer
        self._max_age = max_age
        self._allow = allow

    def admit(self, record: Record) -> Envelope:
        """What the record's headers say.

        Raises:
            DecodeError: it is no job of embedkq.
            RecordRefused: it may not run here.
        """
        if self._signer is not None:
            self._signer.check(self._topic, record.key, list(record.headers), record.value)
        envelope = read_headers(record.headers)
        if self._max_age is not None:
            signing.check_age(envelope.timestamp, self._max_age)
        if self._allow is not None:
            allowed.check_function(record.value, self._allow)
        return envelope
