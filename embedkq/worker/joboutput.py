"""What jobs log and print, brought before the host's own loggers. Worker's thread."""
from __future__ import annotations

import json
import logging
import os

logger = logging.getLogger("embedkq.job")

_READ_BYTES = 65536
_READS = 16
_LONGEST_LINE = 32_000


def levels() -> dict[str, int]:
    """The levels that the host's loggers have now, by name; "" for the root."""
    found = {"": logging.getLogger().level}
    for name, known in list(logging.Logger.manager.loggerDict.items()):
        if isinstance(known, logging.Logger) and known.level != logging.NOTSET:
            found[name] = known.level
    return found


def relay(content: bytes, job_id: str) -> None:
    """Log what a child has logged, as if it had been logged here, marked with the job's id."""
    try:
        fields = json.loads(content)
        record = logging.makeLogRecord({**fields, "args": (), "job_id": job_id})
        target = _nearest(record.name)
        if target.isEnabledFor(record.levelno):
            target.handle(record)
    except Exception as error:  # noqa: BLE001  (whatever a job sends, and whatever a handler makes of it: the worker goes on)
        logger.warning("A child sent a log record that cannot be read: %r", error, extra={"job_id": job_id})


def _nearest(name: str) -> logging.Logger:
    # A logger is for ever: one for each name that jobs make up would fill the host's memory. What has none of its own is handled by
    # the nearest one above it, as it would be anyway.
    known = logging.Logger.manager.loggerDict
    while name:
        found = known.get(name)
        if isinstance(found, logging.Logger):
            return found
        name = name.rpartition(".")[0]
    return logging.getLogger()


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
