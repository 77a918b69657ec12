"""The promises that the old development broker broke: as many callbacks as jobs, a lag and owners
that are right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import workerjobs as jobs
from support import send_many

from embedkq import Worker
from embedkq._clients import admin

JOBS = 3000


@pytest.mark.parametrize("turn", range(10))
def test_a_drain_fires_a_callback_for_every_job(
    turn: int, hosts: str, topic: str, group: str
) -> None:
    told: Counter[str] = Counter()
    ids = send_many(hosts, topic, jobs.echo, [()] * JOBS)
    with Worker(
        hosts=hosts,
        topic=topic,
        group=group,
        callback=lambda status, job, *rest: told.update([job.id]),
    ) as worker:
        assert worker.drain(100)
    assert told == Counter(ids)


def test_lag_and_owners_are_told(hosts: str, make_topic: Callable[[int], str], group: str) -> None:
    topic = make_topic(2)
    done: list[Any] = []
    send_many(hosts, topic, jobs.echo, [()] * 20)
    with Worker(
        hosts=hosts, topic=topic, group=group, callback=lambda *told: done.append(told)
    ) as worker:
        assert worker.drain(60)
        with admin.Inspector(hosts) as inspector:
            rows = inspector.describe(topic, group).partitions
        assert all(row.owner for row in rows) and len(rows) == 2
    send_many(hosts, topic, jobs.echo, [()] * 7)
    with admin.Inspector(hosts) as inspector:
        rows = inspector.describe(topic, group).partitions
    assert (
        len(done) == 20
        and sum(row.lag or 0 for row in rows) == 7
        and not any(row.owner for row in rows)
    )
