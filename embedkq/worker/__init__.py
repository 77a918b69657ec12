"""The host's side: takes jobs from a topic, has child processes run them, fires callbacks on the thread that owns the worker."""
from __future__ import annotations

import os

if os.name != "posix":  # else the first module that is only there would be missed, which says nothing
    raise ImportError("a Worker needs Linux or macOS (on Windows: WSL); a Queue works here")

from embedkq.worker.worker import Worker

__all__ = ["Worker"]
