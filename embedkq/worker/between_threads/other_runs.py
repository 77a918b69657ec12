"""Runs of jobs that are not written as embedkq's pickled calls. Each form of payload has a class
here, and a child decodes by its flag."""

from __future__ import annotations

from embedkq._child.runner import FROM_JSON, FROM_KQ
from embedkq._formats import kq_record
from embedkq._partition import Partition
from embedkq.errors import DecodeError
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
