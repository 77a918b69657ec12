"""embedkq: a Kafka job queue whose worker lives inside your application.

The public names load on first use, so that a child process (which imports this package) never
imports a Kafka client.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from embedkq.version import __version__

if TYPE_CHECKING:
    from embedkq import errors
    from embedkq._child.current_job import current_job as current_job
    from embedkq._enqueue import call as call
    from embedkq.job import Job as Job
    from embedkq.queue import Queue as Queue
    from embedkq.record import Record as Record
    from embedkq.worker import Worker as Worker

_HOME = {
    "Job": "embedkq.job",
    "Queue": "embedkq.queue",
    "Record": "embedkq.record",
    "Worker": "embedkq.worker",
    "call": "embedkq._enqueue",
    "current_job": "embedkq._child.current_job",
}

__all__ = ["Job", "Queue", "Record", "Worker", "__version__", "call", "current_job", "errors"]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("embedkq.errors")
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
