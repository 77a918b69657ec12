"""Tests of `shop.py`: what it enqueues, and what its page says of jobs in real child processes."""

from __future__ import annotations

import pytest
import shop


@pytest.fixture
def app(kq_settings):
    shop.orders.clear()
    return shop.create_app(kq_settings)


@pytest.fixture
def kq_worker_options(app):
    return {**shop.kq.worker_options(app), "timeout": 0.2}


def test_an_order_waits_until_it_is_billed(app, kq_jobs):
    job_id = app.test_client().post("/orders/tea/2").text
    assert [(job.id, job.args) for job in kq_jobs] == [(job_id, ("tea", 2))]
    assert f'<li id="{job_id}">waiting</li>' in app.test_client().get("/orders").text


@pytest.mark.parametrize(
    ("item", "said"),
    [("tea", "2 x tea"), ("nothing", "failure nothing costs nothing"), ("forever", "timeout")],
)
def test_the_page_says_what_became_of_an_order(app, kq_worker, item, said):
    app.test_client().post(f"/orders/{item}/2")
    kq_worker.drain()
    assert f">{said}</li>" in app.test_client().get("/orders").text
