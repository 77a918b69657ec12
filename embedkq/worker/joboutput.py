"""What jobs log and print, brought before the host's own loggers. Worker's thread."""
from __future__ import annotations

import json
import os

from embedkq import safe_logging
from embedkq.safe_logging import SafeLogger

logger = SafeLogger("embedkq.job")

_READ_BYTES = 65536
_READS = 16
_LONGEST_LINE = 32_000


def relay(content: bytes, job_id: str) -> None:
    """Log what a child has logged, as if it had been logged here, marked with the job's id."""
    try:
        record = safe_logging.make_record({**json.loads(content), "args": (), "job_id": job_id})
        if not isinstance(record.name, str) or not isinstance(record.levelno, int):
            raise TypeError(f"name={record.name!r}, levelno={record.levelno!r}")
    except BaseException as error:  # noqa: BLE001  (whatever a job sends, and the application's own record factory)
        logger.warning("A child sent a log record that cannot be read: %r", error, extra={"job_id": job_id})
    else:
        safe_logging.handle(record)


class Output:
    """What one child prints, line by line, to the logger `embedkq.job`."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._rest = b""

    def read(self, job_id: str) -> bool:
        """Log what is there now; False at the end of file."""
        for _ in range(_READS):
            try:
                data = os.read(self.descriptor, _READ_BYTES)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            *lines, self._rest = (self._rest + data).split(b"\n")
            for line in lines:
                self._log(line, job_id)
            if len(self._rest) > _LONGEST_LINE:
                self.end_line(job_id)
        return True

    def end_line(self, job_id: str) -> None:
        """Log what has no end of line yet."""
        if self._rest:
            self._log(self._rest, job_id)
            self._rest = b""

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.descriptor)

    def _log(self, line: bytes, job_id: str) -> None:
        text = line.rstrip(b"\r").decode("utf-8", "backslashreplace")
        logger.info("%s", text, extra={"job_id": job_id})
