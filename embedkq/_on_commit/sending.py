"""Sends what has waited for a commit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from embedkq._brokerless import Place
from embedkq._enqueue import log, placed, shown
from embedkq._importing import first_line
from embedkq._safe_logging import SafeLogger
from embedkq.errors import Closed, EnqueueFailed

if TYPE_CHECKING:
    from embedkq._enqueue import Target
    from embedkq.job import Job

logger = SafeLogger("embedkq.queue")


class Waiting(NamedTuple):
    """A job that waits for a commit.

    Attributes:
        queue: where it goes.
        message: its record.
        robust: if it cannot be sent, log that instead of raising.
    """

    queue: Target
    job: Job
    message: Any
    robust: bool


Defer = Callable[[Sequence[Waiting]], None]
"""Has jobs wait for a commit."""


def send(waiting: Sequence[Waiting]) -> None:
    """Send the jobs of a transaction that has committed.

    Raises:
        EnqueueFailed: Kafka did not acknowledge all of those that are not robust. What an eager job
            raises.
    """
    acknowledged: list[Job] = []
    failed: list[tuple[Job, Exception]] = []
    for (_, robust), some in groupby(waiting, lambda each: (id(each.queue), each.robust)):
        batch = list(some)
        try:
            failures, places = _sent(batch)
        except Exception as error:
            if not robust:
                raise
            failures, places = dict.fromkeys(range(len(batch)), error), ()
        for index, each in enumerate(batch):
            if index not in failures:
                acknowledged.append(placed(each.job, places[index]))
                log(each.job)
            elif robust:
                logger.error(
                    "Not enqueued after the commit, and lost: %s: %s",
                    shown(each.job),
                    first_line(failures[index]),
                )
            else:
                failed.append((each.job, failures[index]))
    if failed:
        raise EnqueueFailed(acknowledged, [job for job, _ in failed]) from failed[0][1]


def _sent(batch: Sequence[Waiting]) -> tuple[dict[int, Exception], Sequence[Place]]:
    producer = batch[0].queue._producer([each.job for each in batch])
    try:
        failures, places = producer.send_and_locate([each.message for each in batch])
    except Closed as error:
        return dict.fromkeys(range(len(batch)), error), ()
    return failures, places
