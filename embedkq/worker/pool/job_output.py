"""What jobs log and print, passed on to the host's own loggers. Control thread."""

from __future__ import annotations

import json
import os

from embedkq import _safe_logging
from embedkq._safe_logging import SafeLogger

logger = SafeLogger("embedkq.job")

_READ_BYTES = 65536
_LONGEST_LINE = 32_000


def relay(content: bytes, job_id: str) -> None:
    """Log what a child has logged, as if it had been logged here, marked with the job's id."""
    try:
        record = _safe_logging.make_record({**json.loads(content), "args": (), "job_id": job_id})
        if not isinstance(record.name, str) or not isinstance(record.levelno, int):
            raise TypeError(f"name={record.name!r}, levelno={record.levelno!r}")
    except BaseException as error:  # noqa: BLE001  (whatever a job sends, and the application's own record factory)
        logger.warning(
            "A child sent a log record that cannot be read: %r", error, extra={"job_id": job_id}
        )
    else:
        _safe_logging.handle(record)


class Output:
    """What one child prints, line by line, to the logger `embedkq.job`.

    Args:
        descriptor: of the pipe that it prints into.
        mark: what the child writes into it where a job has ended whose output was not read by then.
    """

    def __init__(self, descriptor: int, mark: bytes) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._mark = mark
        self._rest = b""
        """What was read and is not logged yet: a line without its end, or what a later job has
        printed."""

    @property
    def pending(self) -> bool:
        """Whether something was read and is not logged yet."""
        return bool(self._rest)

    def read(self, job_id: str) -> bool:
        """Log the lines that are there now, of the job that runs; False at the end of file."""
        is_open = self._fill() is not False
        self.log_lines(job_id)
        return is_open

    def log_lines(self, job_id: str) -> None:
        """Log the lines that were read of the job that runs."""
        text, mark, after = self._rest.partition(self._mark)
        *lines, rest = text.split(b"\n")
        if len(rest) > _LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            self._log(line, job_id)
        self._rest = rest + mark + after

    def end_job(self, job_id: str, marked: bool) -> None:
        """Log all that a job has printed, which has ended; `marked`: as the mark says that is in
        the pipe, or was read."""
        while marked and self._mark not in self._rest and self._fill():
            self.log_lines(job_id)
        self.log_lines(job_id)
        text, _, self._rest = self._rest.partition(self._mark)
        if text:
            self._log(text, job_id)

    def end(self, job_id: str) -> None:
        """Log all that is there, of a child that is gone."""
        while self._fill():
            self.log_lines(job_id)
        self._rest = self._rest.replace(self._mark, b"\n" if self._rest else b"")
        self.end_job(job_id, False)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)

    def _fill(self) -> bool | None:
        """Read once, so that nothing is read that is printed later; None if there is nothing now,
        False at the end of file."""
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return False
        self._rest += data
        return bool(data)

    def _log(self, line: bytes, job_id: str) -> None:
        text = line.rstrip(b"\r").decode("utf-8", "backslashreplace")
        logger.info("%s", text, extra={"job_id": job_id})
