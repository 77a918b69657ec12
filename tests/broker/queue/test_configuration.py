"""Settings named EMBEDKQ_...: what is none is refused, and queue, worker and each client get their
own."""

from __future__ import annotations

import functools
import os
from typing import Any

import pytest

from embedkq import Queue, _configuration, codec

flask = pytest.importorskip("flask")


def app_with(**config: Any) -> Any:
    from embedkq.flask import EmbedKQ

    app = flask.Flask("shop")
    app.config.update({f"EMBEDKQ_{name}": value for name, value in config.items()})
    EmbedKQ(app)
    return app.extensions["embedkq"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"SECRT": "x" * 16},
            "app.config has EMBEDKQ_SECRT, and embedkq knows no such setting: did you mean EMBEDKQ_SECRET?",
        ),
        (
            {"ALLOWED": ["a.*"]},
            "EMBEDKQ_ALLOWED, and embedkq knows no such setting: did you mean EMBEDKQ_ALLOW?",
        ),
        (
            {"OFFSET": "latest"},
            "EMBEDKQ_OFFSET, and embedkq knows no such setting: did you mean EMBEDKQ_OFFSET_POLICY?",
        ),
        (
            {"KAFKA": {"fetch_max_wait": 5}},
            "EMBEDKQ_KAFKA has 'fetch_max_wait', .* did you mean 'fetch_max_wait_ms'?",
        ),
        ({"SECRET": "short"}, "a secret must have at least 16 bytes"),
        ({"KAFKA": {"bootstrap_servers": "x"}}, "sets this itself"),
    ],
)
def test_what_is_no_setting_is_refused_with_the_nearest_one(
    config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        app_with(**config)


def test_an_initializer_is_a_function_or_the_name_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from embedkq._importing import initializer_of

    assert initializer_of("os:getpid") is initializer_of(os.getpid) is os.getpid
    assert initializer_of(None) is None
    for app, expected in [(None, [1]), ("shop:create_app", ["app", 1])]:
        encoded = app_with(INITIALIZER="os:getpid", APP=app).worker._settings.encoded_initializer
        function, (where, initializer), _ = codec.decode_call(encoded)
        assert (where, initializer) == (app, os.getpid)
        called: list[Any] = []
        monkeypatch.setattr(
            "embedkq.flask.enter_app", lambda where, called=called: called.append("app")
        )
        function(where, lambda called=called: called.append(1))
        assert called == expected
    partial = functools.partial(int, "17")
    encoded = app_with(INITIALIZER=partial).worker._settings.encoded_initializer
    _, (_, initializer), _ = codec.decode_call(encoded)
    assert initializer() == 17
    for wrong, message in [
        (
            "os:getpidd",
            "EMBEDKQ_INITIALIZER='os:getpidd': 'os' has no 'getpidd'; did you mean 'getpid'",
        ),
        (7, "not 7"),
    ]:
        with pytest.raises((TypeError, ValueError), match=message):
            app_with(INITIALIZER=wrong)


def test_settings_of_others_are_passed_over() -> None:
    _configuration.check_names(
        ["SECRET_KEY", "embedkq_topic", "KQ_TOPIC"], _configuration.known_names(), "app.config"
    )


def test_each_client_gets_the_kafka_options_that_it_knows() -> None:
    kafka = {"fetch_max_wait_ms": 100, "linger_ms": 3, "request_timeout_ms": 7_000}
    assert _configuration.queue_options({"EMBEDKQ_KAFKA": kafka}) == {
        "kafka": {"linger_ms": 3, "request_timeout_ms": 7_000}
    }
    assert _configuration.worker_options({"EMBEDKQ_KAFKA": kafka}) == {
        "kafka": {"fetch_max_wait_ms": 100, "request_timeout_ms": 7_000}
    }
    state = app_with(KAFKA=kafka)
    assert state.worker.client_options == {"fetch_max_wait_ms": 100, "request_timeout_ms": 7_000}


def test_a_limit_is_the_queues_and_retries_are_the_workers_unless_a_name_says_otherwise() -> None:
    config = {
        "EMBEDKQ_TIMEOUT": 5,
        "EMBEDKQ_RETRIES": 2,
        "EMBEDKQ_WORKER_TIMEOUT": 9,
        "EMBEDKQ_QUEUE_RETRIES": 4,
    }
    assert _configuration.queue_options(config) == {"timeout": 5, "retries": 4}
    assert _configuration.worker_options(config) == {"timeout": 9, "retries": 2}


def test_a_setting_for_one_goes_before_the_general_one() -> None:
    config = {"EMBEDKQ_JOB_SIZE": 10, "EMBEDKQ_WORKER_JOB_SIZE": 20}
    assert _configuration.queue_options(config) == {"job_size": 10}
    assert _configuration.worker_options(config) == {"job_size": 20}


def test_an_app_with_a_secret_runs_no_unsigned_job(hosts: str, topic: str) -> None:
    """The job that somebody else has put on the topic is refused; the app's own one, enqueued
    behind it, runs."""
    import os

    state = app_with(
        HOSTS=hosts,
        TOPIC=topic,
        SECRET="a-secret-of-16-bytes",
        ALLOW=["builtins.*", "operator.*"],
        MAX_AGE=600,
    )
    with Queue(hosts=hosts, topic=topic) as stranger:
        stranger.using(partition=0).enqueue(os.system, "echo forged")
    ours = state.queue.using(partition=0).enqueue(abs, -7)
    refused = state.queue.using(partition=0).enqueue(os.system, "true")
    ended = []
    state.worker._settings.callback = lambda *end: ended.append((end[1].id, end[0], end[2]))
    with state.worker as worker:
        assert worker.drain(60)
    assert ended == [(ours.id, "success", 7)] and refused.id != ours.id
