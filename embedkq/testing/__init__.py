"""For tests of applications that use embedkq: what was enqueued, and a worker to run it.

The fixtures of `embedkq.pytest_plugin` are made from these; with another test runner use them
directly. Needs no pytest.

    destinations.py     jobs go into a list, or to another topic
    running_worker.py   a worker on a thread of its own, and how its jobs ended
    session.py          what the fixtures of one test run share
"""

from __future__ import annotations

from embedkq.testing.destinations import captured, redirected
from embedkq.testing.running_worker import Ended, RunningWorker

__all__ = ["Ended", "RunningWorker", "captured", "redirected"]
