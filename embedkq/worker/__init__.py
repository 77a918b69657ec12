"""The host's side: takes jobs from a topic, has child processes run them, fires callbacks on the thread that owns the worker."""
from __future__ import annotations

from embedkq.worker.worker import Worker

__all__ = ["Worker"]
