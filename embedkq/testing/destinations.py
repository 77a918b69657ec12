"""Where jobs go in tests: into a list, or to the topic of the test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from embedkq._brokerless import Recorder, Redirect, taking
from embedkq.job import Job
from embedkq.queue import Queue


@contextlib.contextmanager
def captured() -> Iterator[list[Job]]:
    """In the `with` block, no queue of this process uses Kafka: its jobs are appended to the list
    that this gives, and do not run. Any thread.

    A job is encoded as in production, so that `EncodeError` and `JobTooLarge` are raised. Blocks
    may be nested: the innermost one gets the jobs.
    """
    recorder = Recorder()
    with taking(recorder):
        yield recorder.jobs


@contextlib.contextmanager
def redirected(queue: Queue) -> Iterator[Queue]:
    """In the `with` block, all queues of this process send their jobs to the topic of this queue:
    for an app whose queue is made when its module is imported. Any thread.

    A signature stays as it is, and does not fit the other topic: the worker must have no secret.
    """
    with taking(Redirect(queue)):
        yield queue
