"""The settings of a Django project: each option has its door there too, as in Flask's
configuration, and on the command line of `manage.py kq`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import djangoshop
import pytest
from click.testing import CliRunner
from django.apps import apps as django_apps
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings

import embedkq.django
from embedkq import Queue, _configuration
from embedkq._options.declared import OPTIONS
from embedkq._options.option import EXTENSION, PREFIX, QUEUE, WORKER, Option
from embedkq._options.takers import options_of
from embedkq.django import apps, project
from embedkq.django.management.commands.kq import _commands

Made = dict[str, dict[str, Any]]
VALUES: dict[str, Any] = {
    "kafka": {"request_timeout_ms": 7_000},
    "initializer": os.getpid,
    "eager": False,
}
OF_FLASK_ALONE = ("app", "health_url")


@pytest.fixture(scope="module", autouse=True)
def set_up() -> None:
    djangoshop.set_up()


@pytest.fixture
def made_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Made]:
    """What queue and worker are given with some settings."""

    def make(given: dict[str, Any]) -> Made:
        made: Made = {QUEUE: {}, WORKER: {}}

        def queue(**options: Any) -> Queue:
            made[QUEUE] = options
            return Queue()

        monkeypatch.setattr(project, "Queue", queue)
        monkeypatch.setattr(
            embedkq, "Worker", lambda **options: made[WORKER].update(options), raising=False
        )
        with override_settings(**given):
            found = project.current()
            found.make_worker({})
            made[EXTENSION] = {"worker": found.runs_worker}
        return made

    return make


def keys() -> Iterator[tuple[Option, str, str]]:
    for option in OPTIONS:
        for taker in option.takers:
            for key in option.keys_for(taker):
                if option.name not in OF_FLASK_ALONE:
                    yield option, taker, key


@pytest.mark.parametrize(("option", "taker", "key"), list(keys()), ids=lambda each: str(each)[:40])
def test_a_setting_arrives(
    option: Option, taker: str, key: str, made_with: Callable[[dict[str, Any]], Made]
) -> None:
    value = VALUES.get(option.name, option.name == "worker" or object())
    made = made_with({key: value})
    if option.name == "initializer":
        assert made[WORKER]["initargs"] == ("djangoshop.settings", value)
    else:
        assert made[taker][option.name] == value


def test_the_settings_are_flasks_but_for_what_django_has_itself() -> None:
    of_flask = {f"{PREFIX}{name.upper()}" for name in OF_FLASK_ALONE}
    assert project.known_names() == (_configuration.known_names() - of_flask) | {"EMBEDKQ_CALLBACK"}


@pytest.mark.parametrize("name", sorted(project.known_names()))
def test_a_misspelt_setting_is_refused_when_the_project_starts(name: str) -> None:
    wrong = f"{name}{name[-1]}"
    config = django_apps.get_app_config("embedkq")
    with override_settings(**{wrong: 1}):
        with pytest.raises(ImproperlyConfigured) as caught:
            config.ready()
        with pytest.raises(ValueError, match="knows no such setting"):
            embedkq.django.queue()
    assert str(caught.value) == (
        f"the settings module has {wrong}, and embedkq knows no such setting: did you mean {name}?"
    )


def test_a_value_that_cannot_work_is_an_error_of_the_system_check() -> None:
    assert apps._check_values() == []
    with override_settings(EMBEDKQ_PROCESSES=0):
        (error,) = apps._check_values()
    assert error.id == "embedkq.E001" and error.msg == "processes=0: must be at least 1"


def test_queue_and_worker_are_made_once_and_anew_for_other_settings() -> None:
    queue = embedkq.django.queue()
    assert embedkq.django.queue() is queue and queue.topic == "shop"
    assert embedkq.django.worker() is embedkq.django.worker()
    with override_settings(EMBEDKQ_TOPIC="other"):
        assert embedkq.django.queue().topic == embedkq.django.worker().topic == "other"
    assert embedkq.django.queue().topic == "shop"
    assert set(embedkq.django.worker_options()) == {"initializer", "initargs", "callback"}


def test_an_eager_project_runs_no_worker() -> None:
    with override_settings(EMBEDKQ_EAGER=True, EMBEDKQ_WORKER=True):
        assert not project.current().runs_worker
        embedkq.django.start()
        assert str(embedkq.django.worker().state) == "new"


@pytest.fixture
def kq_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Runs `manage.py kq worker` up to the start of its worker; what that would be made with."""
    from embedkq.cli import hosted

    def run(*arguments: str, **settings: Any) -> dict[str, Any]:
        given: dict[str, Any] = {}
        monkeypatch.setattr(hosted, "set_up_logging", lambda verbose: None)
        monkeypatch.setattr(hosted, "run_in_foreground", lambda made, start: given.update(start))
        monkeypatch.setattr(
            embedkq, "Worker", lambda **options: given.update(options), raising=False
        )
        with override_settings(**settings):
            done = CliRunner().invoke(_commands(), ["worker", *arguments])
        assert done.exit_code == 0, done.output
        return given

    return run


SAMPLES = {
    "hosts": "a:1",
    "topic": "t",
    "timeout": "1.5",
    "job_size": "7",
    "proc_ttl": "3",
    "offset_policy": "earliest",
    "group": "g",
    "processes": "4",
    "decode_timeout": "2.5",
    "stop_timeout": "3.5",
    "revoke_timeout": "4.5",
    "dead_letter_topic": "d",
    "retries": "2",
    "backoff": "5.5",
    "max_crashes": "9",
    "max_age": "60",
}


@pytest.mark.parametrize("option", options_of(WORKER), ids=lambda option: option.name)
def test_the_command_line_wins_over_the_setting(
    option: Option,
    kq_worker: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if option.name not in SAMPLES:
        return
    text = SAMPLES[option.name]
    key = option.keys_for(WORKER)[-1]
    value = {"int": int, "float": float}.get(option.type.split()[0], str)(text)
    monkeypatch.setenv(str(option.variable), text)  # of another program: the settings are read
    setting = "latest" if option.name == "offset_policy" else type(value)(8)
    assert kq_worker(**{key: setting})[option.name] == setting
    assert option.name in ("hosts", "topic") or option.name not in kq_worker()
    assert kq_worker(f"{option.spelling}={text}", **{key: setting})[option.name] == value


def test_kq_worker_has_what_ends_a_run(kq_worker: Callable[..., dict[str, Any]]) -> None:
    given = kq_worker("--burst", "--max-jobs=3", "--keep-trying")
    assert (given["burst"], given["max_jobs"], given["wait"]) == (True, 3, False)


def test_old_connections_are_closed_before_and_after_each_callback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also after one that raises: the thread of a worker lives longer than connections do."""
    from embedkq.django import project

    order: list[str] = []
    monkeypatch.setattr(project, "close_old_connections", lambda: order.append("closed"))

    def callback(*told: Any) -> None:
        order.append("called")
        raise LookupError(told[0])

    with pytest.raises(LookupError, match="success"):
        project._with_fresh_connections(callback)("success", None, None, None, None)  # type: ignore[arg-type]
    assert order == ["closed", "called", "closed"]
