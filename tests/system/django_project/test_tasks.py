"""Django's tasks on embedkq: `django.tasks` of Django 6, or else the package django-tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import djangoshop
import pytest
from django.test import override_settings
from djangoshop import MANAGE
from programs import Programs
from support import lines

from embedkq import Job
from embedkq.testing import captured


@pytest.fixture(scope="module", autouse=True)
def set_up() -> None:
    djangoshop.set_up()


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    with captured() as recorded:
        yield recorded


@pytest.fixture
def framework() -> Any:
    """Django's own module, or else that of the package."""
    from embedkq.django import tasks

    return __import__(tasks.base.__name__.rpartition(".")[0], fromlist=["base"])


def test_the_flags_are_those_that_are_true(framework: Any) -> None:
    backend = framework.default_task_backend
    assert not backend.supports_defer and not backend.supports_priority
    assert not backend.supports_get_result and backend.supports_async_task


def test_a_task_is_enqueued_as_a_job_of_its_topic(jobs: list[Job], framework: Any) -> None:
    from djangoshop import tasks

    result = tasks.ship.enqueue("tea", boxes=2)
    (job,) = jobs
    assert (result.status, result.id) == (framework.TaskResultStatus.READY, job.id)
    assert (result.args, result.kwargs, result.backend) == (["tea"], {"boxes": 2}, "default")
    assert result.enqueued_at is not None and result.started_at is None
    assert job.topic == "shop" and job.timeout == 30
    tasks.elsewhere.enqueue()
    assert jobs[1].topic == "other"
    tasks.limited.enqueue()
    assert (jobs[2].topic, jobs[2].timeout) == ("shop", 9)


def test_what_json_has_not_is_refused_when_it_is_enqueued(jobs: list[Job]) -> None:
    from djangoshop import tasks

    with pytest.raises(TypeError, match="Unsupported type"):
        tasks.ship.enqueue(object())
    assert jobs == []


def test_what_the_flags_deny_is_refused(jobs: list[Job], framework: Any) -> None:
    from django.utils import timezone
    from djangoshop import tasks

    invalid = getattr(framework.base, "InvalidTask", None) or Exception
    for how in ({"priority": 5}, {"run_after": timezone.now()}, {"queue_name": "unknown"}):
        with pytest.raises(invalid):
            tasks.ship.using(**how).enqueue("tea")
    with pytest.raises(NotImplementedError):
        tasks.ship.get_result("id")
    assert jobs == []


def test_an_option_that_cannot_work_is_an_error_of_the_system_check(framework: Any) -> None:
    broken = {"default": {"BACKEND": "embedkq.django.TasksBackend", "OPTIONS": {"timeot": 5}}}
    with override_settings(TASKS=broken):
        (error,) = framework.default_task_backend.check()
    assert error.id == "embedkq.E002"
    assert "TASKS['default']" in error.msg and "did you mean 'timeout'?" in error.msg


def test_signals_tell_of_what_is_enqueued(jobs: list[Job]) -> None:
    from djangoshop import tasks

    from embedkq.django.tasks import signals

    told: list[Any] = []

    def on_enqueued(sender: Any, task_result: Any, **_: Any) -> None:
        told.append((sender.__name__, task_result.id))

    signals.task_enqueued.connect(on_enqueued)
    try:
        result = tasks.ship.enqueue("tea")
    finally:
        signals.task_enqueued.disconnect(on_enqueued)
    assert told == [("TasksBackend", result.id)]


# In child processes.


def ended(programs: Programs) -> list[str]:
    """What the callback has been told of each job."""
    return [line.rpartition(" ")[0] for line in lines(programs.folder / "told")]


def work(programs: Programs, *options: str) -> None:
    """Run all jobs; some of them fail, and the log says so."""
    assert programs.start(*MANAGE, "kq", "worker", "--burst", *options).wait(60) == 0


def test_tasks_run_in_a_child_with_django(
    in_project: Callable[[str], str], programs: Programs, states: Callable[[], Any]
) -> None:
    id_of_tell = in_project(
        "from djangoshop import tasks\n"
        "Order.objects.create(name='tea')\n"
        "Order.objects.create(name='milk')\n"
        "tasks.ship.enqueue('tea', boxes=2)\n"
        "tasks.ship_async.enqueue('milk')\n"
        "tasks.give_a_set.enqueue()\n"
        "print(tasks.tell.enqueue('word').id)\n"
    ).strip()
    work(programs)
    assert states()[:2] == [("tea", "shipped"), ("milk", "shipped")]
    assert sorted(ended(programs)) == [
        "failure None",
        "success 1",
        "success ['tea', 2]",
        f"success ['word', 1, '{id_of_tell}', 'RUNNING', 'default']",
    ]


def test_an_attempt_is_counted(in_project: Callable[[str], str], programs: Programs) -> None:
    in_project("from djangoshop import tasks; tasks.fail_once.enqueue()")
    work(programs, "--retries=1", "--backoff=0.1")
    assert ended(programs) == ["success 2"]


def test_a_task_queue_is_a_topic(
    in_project: Callable[[str], str], programs: Programs, make_topic: Any
) -> None:
    topic = make_topic(1)
    (programs.folder / "queues.py").write_text(
        "from djangoshop.settings import *\n"
        f"TASKS['default']['QUEUES'] = ['default', 'other', '{topic}']\n"
        "EMBEDKQ_ALLOW = ['embedkq.django.tasks.run_task']\nEMBEDKQ_SERIALIZER = 'json'\n"
    )
    programs.environment["DJANGO_SETTINGS_MODULE"] = "queues"
    in_project(f"from djangoshop import tasks; tasks.tell.using(queue_name='{topic}').enqueue('w')")
    work(programs, f"--topic={topic}")
    (line,) = ended(programs)
    assert re.fullmatch(rf"success \['w', 1, '\S+', 'RUNNING', '{topic}'\]", line)


def test_nothing_but_a_task_runs(in_project: Callable[[str], str], programs: Programs) -> None:
    in_project(
        "from embedkq.django.tasks import run_task\n"
        "how = {'backend': 'default', 'queue_name': 'default'}\n"
        "queue().enqueue(run_task, 'djangoshop.tasks.not_a_task', ['x'], {}, how, '2026-01-01')\n"
    )
    work(programs)
    assert ended(programs) == ["failure None"]


def test_in_the_child_signals_tell_of_the_run(
    in_project: Callable[[str], str], programs: Programs
) -> None:
    (programs.folder / "listening.py").write_text(
        "from djangoshop.settings import *\nEMBEDKQ_INITIALIZER = 'listens:listen'\n"
    )
    (programs.folder / "listens.py").write_text(
        "import json\n"
        "from embedkq.django.tasks import signals\n"
        "def note(signal, task_result, **_):\n"
        "    name = next(n for n in dir(signals) if getattr(signals, n) is signal)\n"
        "    errors = [e.exception_class_path for e in task_result.errors]\n"
        "    with open('noted', 'a') as file:\n"
        "        print(json.dumps([name, task_result.status, errors]), file=file)\n"
        "def listen():\n"
        "    signals.task_started.connect(note)\n"
        "    signals.task_finished.connect(note)\n"
    )
    programs.environment["DJANGO_SETTINGS_MODULE"] = "listening"
    in_project("from djangoshop import tasks; tasks.ship.enqueue('tea'); tasks.fail_once.enqueue()")
    work(programs)
    noted = [json.loads(line) for line in lines(programs.folder / "noted")]
    assert sorted(noted) == [
        ["task_finished", "FAILED", ["builtins.OSError"]],
        ["task_finished", "SUCCESSFUL", []],
        ["task_started", "RUNNING", []],
        ["task_started", "RUNNING", []],
    ]
