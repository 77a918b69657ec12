"""Tests of `orders.py`: what it enqueues, and what becomes of its jobs in real child processes."""

from __future__ import annotations

import signal

import jobs
import orders
import pytest

LIMIT = 0.05


@pytest.mark.parametrize("order", range(20))
def test_a_job_that_never_ends_is_killed(order, kq_queue, kq_worker):
    job = kq_queue.using(timeout=LIMIT).enqueue(jobs.never_ends, order)
    ended = kq_worker.wait_for(job)
    assert ended.status == "timeout"


@pytest.mark.parametrize("order", range(15))
def test_the_next_job_runs_all_the_same(order, kq_queue, kq_worker):
    bad = kq_queue.using(timeout=LIMIT).enqueue(jobs.sleeps, order)
    good = kq_queue.enqueue(jobs.total, [order, 1])
    assert kq_worker.wait_for(good).result == order + 1
    assert kq_worker.wait_for(bad).status == "timeout"


@pytest.mark.parametrize("order", range(10))
def test_a_job_that_crashes_is_a_failure(order, kq_queue, kq_worker):
    job = kq_queue.enqueue(jobs.crashes, order)
    assert kq_worker.wait_for(job).exception.signal == signal.SIGKILL


def test_a_job_that_raises_is_a_failure(kq_queue, kq_worker):
    kq_queue.enqueue(jobs.fails, 7)
    (ended,) = kq_worker.drain()
    assert ended.status == "failure" and "no order 7" in ended.traceback


def test_many_jobs(kq_queue, kq_worker):
    kq_queue.enqueue_many([(jobs.total, ([number, 1],)) for number in range(100)])
    assert sorted(ended.result for ended in kq_worker.drain()) == list(range(1, 101))


def test_an_order_is_totalled(kq_redirect, kq_worker):
    job_id = orders.place([1, 2, 3])
    (ended,) = kq_worker.drain()
    assert (ended.job.id, ended.result) == (job_id, 6)


def test_an_order_is_enqueued(kq_jobs):
    job_id = orders.place([1, 2, 3])
    (job,) = kq_jobs
    assert (job.id, job.func, job.args) == (job_id, jobs.total, ([1, 2, 3],))


def test_nothing_is_enqueued_by_itself(kq_jobs):
    assert kq_jobs == []
