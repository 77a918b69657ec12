"""Runs of jobs that are not written as embedkq's pickled calls. Each form of payload has a class
here, and a child decodes by its flag."""

from __future__ import annotations

from typing import Any

from embedkq import codec
from embedkq._child.runner import FROM_JSON, FROM_KQ, PLAIN, TELL_ARGS
from embedkq._formats import kq_record, plain_record
from embedkq._formats.plain_record import Handling
from embedkq._partition import Partition
from embedkq.errors import DecodeError
from embedkq.record import Record as PlainRecord
from embedkq.worker.between_threads.messages import JobRun, Record


class JSONJobRun(JobRun):
    """A record whose value is a JSON job."""

    __slots__ = ()

    form = FROM_JSON


class KQJobRun(JobRun):
    """A record that a Queue of KQ wrote. Id and limit are in its payload, and so known only once a
    child has unpickled that.

    Args:
        has_own_limit: the job's own limit counts, since the worker has none.
    """

    __slots__ = ("has_own_limit",)

    form = FROM_KQ

    def __init__(
        self, partition: Partition, epoch: int, record: Record, has_own_limit: bool
    ) -> None:
        super().__init__(partition, epoch, record)
        self.has_own_limit = has_own_limit

    def begun(self, content: bytes) -> str:
        """A child has begun the call, and sent its limit and id besides the text."""
        try:
            self.timeout, self.job_id, text = kq_record.unpack_told(content)
        except DecodeError:  # the job speaks with its host by itself: then the limit stays as it is
            return ""
        if self.has_own_limit:
            self.limit = self.timeout
        return super().begun(text)


class PlainRun(JobRun):
    """A record that any program may have written, for the worker's handler.

    Args:
        handling: what is done with it.
    """

    __slots__ = ("handling",)

    form = PLAIN

    def __init__(
        self, partition: Partition, epoch: int, record: Record, handling: Handling
    ) -> None:
        super().__init__(partition, epoch, record)
        self.handling = handling
        if record.headers:
            self.headers = plain_record.as_text(plain_record.visible(record.headers))

    def parts(self) -> tuple[bytes, bytes]:
        """As `JobRun.parts`: a handler may want the record's headers and time too."""
        record = self.record
        headers = plain_record.visible(record.headers) if record.headers else ()
        return self._with_head(plain_record.pack(record.value, headers, record.timestamp))

    def arguments(self) -> tuple[Any, ...] | None:
        """The handler's arguments, for the callback's job; None if they are not known here. A child
        has made them before.

        Raises:
            DecodeError: this process cannot make them.
        """
        record, (topic, number) = self.record, self.partition
        headers = plain_record.visible(record.headers)
        place = (topic, number, self.offset)
        made = PlainRecord(record.value, record.key, headers, *place, record.timestamp)
        return (self.handling.argument(made),)


class TellingPlainRun(PlainRun):
    """One whose decoder is the user's, and runs in the child only: so that tells the arguments."""

    __slots__ = ("_args",)

    form = PLAIN | TELL_ARGS

    def __init__(
        self, partition: Partition, epoch: int, record: Record, handling: Handling
    ) -> None:
        super().__init__(partition, epoch, record, handling)
        self._args = b""

    def begun(self, content: bytes) -> str:
        """A child has begun the call, and sent its arguments besides the text."""
        self._args, text = plain_record.unpack_told(content)
        return super().begun(text)

    def arguments(self) -> tuple[Any, ...] | None:
        """As `PlainRun.arguments`, from what the child has told."""
        if not self._args:
            return None
        try:
            args = codec.decode_object(self._args)
        except Exception as error:
            raise DecodeError(f"the arguments cannot be unpickled here: {error}") from error
        return args if isinstance(args, tuple) else None
