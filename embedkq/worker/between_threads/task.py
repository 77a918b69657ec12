"""What the pool runs: one attempt of one job. Control thread."""

from __future__ import annotations

from embedkq._child.current_job import JOB_HEADER, NO_RECORD
from embedkq._child.runner import JOB


class Task:
    """One run of a job's payload in some child.

    Attributes:
        job_id: marks what the child logs.
        payload: the encoded call; the host never reads it.
        limit: seconds that the call may take, from when it begins; None for no limit.
        announce: whether the child reports when it begins, with the call's text, for the log.
        number: given by the pool; a child's page and replies speak of it.
        restarted: it was taken once by a child that died before the call began.
        started, ended: `time.monotonic_ns()` of the call; 0 if it has not begun, or not ended.
    """

    form = 0
    """What the payload is: 0 for a pickled call, `FROM_KQ` or `FROM_JSON`."""

    __slots__ = (
        "announce",
        "ended",
        "job_id",
        "limit",
        "number",
        "payload",
        "restarted",
        "started",
    )

    def __init__(
        self, job_id: str, payload: bytes, limit: float | None = None, announce: bool = False
    ) -> None:
        self.job_id = job_id
        self.payload = payload
        self.limit = limit
        self.announce = announce
        self.number = 0
        self.restarted = False
        self.started = self.ended = 0

    def begun(self, content: bytes) -> str:
        """A child has begun the call, and sent this; returns the call's text."""
        return content.decode("utf-8", "replace")

    def parts(self) -> tuple[bytes, bytes]:
        """What goes down the child's channel."""
        payload = self.payload
        flags = JOB | self.announce | self.form
        return JOB_HEADER.pack(flags, self.number, len(payload), *NO_RECORD), payload
