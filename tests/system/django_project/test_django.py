"""A Django project: its jobs write to the database in child processes, its worker runs by
`manage.py kq` or inside the server."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from djangoshop import MANAGE
from programs import Programs, end, request
from support import lag, lines, wait_until

InProject = Callable[[str], str]
ENQUEUE = """
from django.db import transaction
with transaction.atomic():
    Order.objects.create(name="tea")
    queue().on_commit().enqueue(jobs.ship, "tea")
try:
    with transaction.atomic():
        Order.objects.create(name="milk")
        queue().on_commit().enqueue(jobs.ship, "milk")
        raise ValueError
except ValueError:
    pass
"""


def test_a_job_writes_to_the_database_after_the_commit_and_not_after_a_rollback(
    in_project: InProject, programs: Programs, states: Callable[[], Any], hosts: str, topic: str
) -> None:
    in_project(ENQUEUE)
    programs.run(*MANAGE, "kq", "worker", "--burst")
    assert states() == [("tea", "shipped"), ("told", "success 0 1 None 0")]
    assert lag(hosts, topic, topic) == 0


def test_each_job_and_each_callback_finds_a_connection_as_after_a_request(
    in_project: InProject, programs: Programs, states: Callable[[], Any]
) -> None:
    in_project(
        "one = queue().using(key='one')\n"
        "for job in (jobs.leave_a_transaction_open, jobs.is_clean, jobs.count_connections):\n"
        "    one.enqueue(job)\n"
    )
    programs.run(*MANAGE, "kq", "worker", "--burst")
    results = [state.split()[1] for _, state in states()]
    assert results == ["None", "True", "0"]
    assert {state.split()[-1] for _, state in states()} == {"0"}


def test_a_connection_is_kept_for_as_long_as_the_settings_say(
    in_project: InProject, programs: Programs, states: Callable[[], Any]
) -> None:
    programs.environment["MAX_AGE"] = "600"
    in_project("for _ in range(3): queue().using(key='one').enqueue(jobs.ship, 'tea')")
    programs.run(*MANAGE, "kq", "worker", "--burst")
    assert [state.split()[1] for _, state in states()] == ["0", "1", "1"]


def test_the_hosts_connections_are_not_the_childrens(in_project: InProject) -> None:
    """The worker runs in a process that has the database open."""
    told = in_project(
        "from embedkq.django import worker\n"
        "Order.objects.count()\n"
        "assert len(jobs.open_databases()) == 1\n"
        "queue().enqueue(jobs.open_databases)\n"
        "queue().enqueue(jobs.count_connections)\n"
        "worker().start(burst=True)\n"
        "print(list(Order.objects.values_list('state', flat=True)))\n"
    )
    assert {state.split(" None")[0] for state in eval(told)} == {"success []", "success 0"}


def test_an_asynchronous_job_uses_the_database(
    in_project: InProject, programs: Programs, states: Callable[[], Any]
) -> None:
    in_project(
        "Order.objects.create(name='tea')\n"
        "one = queue().using(key='one')\n"
        "one.enqueue(jobs.ship_async, 'tea')\n"
        "one.enqueue(jobs.count_open_slowly)\n"
    )
    programs.run(*MANAGE, "kq", "worker", "--burst")
    assert [state for _, state in states()] == [
        "shipped",
        "success 1 None 0",
        "success 0 None 0",
    ]


# The settings.


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "EMBEDKQ_TOPICC = 't'",
            "the settings module has EMBEDKQ_TOPICC, and embedkq knows no such",
        ),
        ("EMBEDKQ_TOPICC = 't'", "did you mean EMBEDKQ_TOPIC?"),
        ("EMBEDKQ_APP = 'shop'", "the settings module has EMBEDKQ_APP"),
        ("EMBEDKQ_CALLBAK = 'x:y'", "did you mean EMBEDKQ_CALLBACK?"),
        ("EMBEDKQ_PROCESSES = 0", "(embedkq.E001) processes=0: must be at least 1"),
        ("EMBEDKQ_CALLBACK = 'djangoshop.jobs:on_ende'", "did you mean 'on_end'?"),
        ("EMBEDKQ_KAFKA = {'no': 1}", "kafka-python knows no such option"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(
    line: str, said: str, programs: Programs, tmp_path: Path
) -> None:
    (tmp_path / "wrong.py").write_text(f"from djangoshop.settings import *\n{line}\n")
    programs.environment["DJANGO_SETTINGS_MODULE"] = "wrong"
    with pytest.raises(AssertionError, match=re.escape(said)):
        programs.run(*MANAGE, "check")


def test_a_worker_without_a_settings_module_says_what_is_missing(programs: Programs) -> None:
    del programs.environment["DJANGO_SETTINGS_MODULE"]
    code = (
        "from django.conf import settings; settings.configure(EMBEDKQ_TOPIC='t')\n"
        "from embedkq.django import queue, worker\n"
        "print(queue().topic)\n"
        "try: worker()\n"
        "except Exception as error: print(error)\n"
    )
    assert programs.run(sys.executable, "-c", code).startswith(
        "t\na worker needs DJANGO_SETTINGS_MODULE"
    )


def test_eager_jobs_run_in_the_request_with_the_callback_and_its_transaction(
    in_project: InProject,
) -> None:
    told = in_project(
        "from django.test import override_settings\n"
        "from django.db import transaction, connection\n"
        "with override_settings(EMBEDKQ_EAGER=True), transaction.atomic():\n"
        "    Order.objects.create(name='tea')\n"
        "    queue().enqueue(jobs.ship, 'tea')\n"
        "    assert connection.in_atomic_block\n"
        "    print(list(Order.objects.values_list('name', 'state')))\n"
        "assert not queue().eager\n"
    )
    assert eval(told) == [("tea", "shipped"), ("told", "success 1 1 None 1")]


# `manage.py kq`.


def test_the_commands_have_the_settings_values(
    in_project: InProject, programs: Programs, topic: str, hosts: str, tmp_path: Path
) -> None:
    # The environment of another program: the settings do not read it, so no command does.
    programs.environment |= {"EMBEDKQ_TOPIC": "other", "EMBEDKQ_HOSTS": "127.0.0.1:1"}
    programs.run(*MANAGE, "kq", "enqueue", "djangoshop.jobs:count_connections")
    shown = json.loads(programs.run(*MANAGE, "kq", "info", "--json"))
    assert shown["topics"] == [topic]
    assert "Records of" not in programs.run(*MANAGE, "kq", "purge", "--dry-run", "--json")
    programs.run(*MANAGE, "kq", "worker", "--burst", "--settings=djangoshop.settings")
    assert lines(tmp_path / "told")[0].startswith("success 0 ")
    called = in_project(
        "from django.core.management import call_command as call\ncall('kq', 'info', '--json')"
    )
    assert json.loads(called)["topics"] == [topic]


def test_what_the_command_line_gives_wins(
    in_project: InProject, programs: Programs, make_topic: Any, tmp_path: Path
) -> None:
    other = make_topic(1)
    programs.run(*MANAGE, "kq", "enqueue", "djangoshop.jobs:count_connections", f"--topic={other}")
    (tmp_path / "own.py").write_text("def callback(*told): print('told', told[2], flush=True)\n")
    options = (f"--topic={other}", "--burst", "--callback=own.py", "--verbose")
    worker = programs.start(*MANAGE, "kq", "worker", *options)
    assert worker.wait(60) == 0 and "told 0" in programs.log
    assert f"Worker(topic={other})" in programs.log


def test_secrets_of_the_settings_sign_and_are_not_shown(programs: Programs, tmp_path: Path) -> None:
    (tmp_path / "signed.py").write_text(
        "import os\nfrom djangoshop.settings import *\n"
        "EMBEDKQ_SECRET = os.environ['EMBEDKQ_SECRET']\n"  # children read it again
        "EMBEDKQ_KAFKA = {'client_id': 'hidden-client', 'linger_ms': 1}\n"
    )
    programs.environment |= {
        "DJANGO_SETTINGS_MODULE": "signed",
        "EMBEDKQ_SECRET": "sixteen bytes, at least",
    }
    programs.run(*MANAGE, "kq", "enqueue", "djangoshop.jobs:count_connections")
    programs.run(*MANAGE, "kq", "worker", "--burst")
    assert lines(tmp_path / "told")[0].startswith("success 0 ")
    for command in ("worker", "enqueue", "info"):
        shown = programs.run(*MANAGE, "kq", command, "--help")
        assert "sixteen" not in shown and "hidden" not in shown


def test_help_and_wrong_options_are_those_of_kq(programs: Programs, topic: str) -> None:
    shown = programs.run(*MANAGE, "kq", "--help")
    assert re.search(r"^Usage: \S+ kq \[OPTIONS\] COMMAND", shown)
    assert all(name in shown for name in ("worker", "enqueue", "info", "dlq", "rewind", "purge"))
    helped = programs.run(*MANAGE, "help", "kq")
    assert helped.partition(" kq ")[2] == shown.partition(" kq ")[2]
    worker = programs.run(*MANAGE, "kq", "worker", "--help")
    assert topic in "".join(worker.split()) and "EMBEDKQ_TOPIC" not in worker
    assert "EMBEDKQ_BURST" in worker
    with pytest.raises(AssertionError, match=r"status 2: (.|\n)*Did you mean '?--topic"):
        programs.run(*MANAGE, "kq", "worker", "--topicc=t")
    with pytest.raises(AssertionError, match="max_jobs=0: must be at least 1"):
        programs.run(*MANAGE, "kq", "worker", "--max-jobs=0")


def test_without_the_extra_it_says_what_to_install(programs: Programs) -> None:
    code = "import sys; sys.modules['click'] = None\nfrom django.core import management as m\n"
    code += "m.execute_from_command_line(['manage.py', 'kq', 'info'])"
    with pytest.raises(AssertionError, match=r"needs the package click: pip install 'embedkq\[dj"):
        programs.run(sys.executable, "-c", code)


def test_the_fixtures_for_pytest_work_with_a_project(programs: Programs) -> None:
    (programs.folder / "test_shop.py").write_text(
        "import django\nimport pytest\ndjango.setup()\n"
        "from django.test import override_settings\n"
        "from djangoshop import jobs\nfrom djangoshop.models import Order\n"
        "from embedkq import django as kq\n"
        "@pytest.fixture\n"
        "def kq_worker_options():\n"
        "    return kq.worker_options()\n"
        "def test_it(kq_settings, kq_worker):\n"
        "    with override_settings(**kq_settings):\n"
        "        job = kq.queue().enqueue(jobs.ship, 'tea')\n"
        "    assert kq_worker.wait_for(job).result == '0 1'\n"
        "    assert Order.objects.get(name='told').state == 'success 0 1 None 0'\n"
        "def test_that(kq_jobs):\n"
        "    kq.queue().enqueue(jobs.ship, 'tea')\n"
        "    assert [job.args for job in kq_jobs] == [('tea',)]\n"
    )
    done = programs.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert "2 passed" in done


# A worker inside the server.

CONF = """
import django.conf
from embedkq import django as kq
def post_worker_init(worker):
    if {starts}: kq.start()
def worker_exit(server, worker):
    kq.stop()
"""


def owners(process: Any) -> list[str]:
    """Names of the threads of a process."""
    tasks = Path(f"/proc/{process.pid}/task")
    return [(task / "comm").read_text().strip() for task in tasks.iterdir()]


@pytest.mark.parametrize("by_request", [True, False])
def test_under_gunicorn_the_worker_runs_in_the_server(
    by_request: bool, programs: Programs, states: Callable[[], Any], tmp_path: Path
) -> None:
    programs.environment["WORKER"] = "1" if by_request else "0"
    (tmp_path / "conf.py").write_text(CONF.format(starts=not by_request))
    (tmp_path / "app.py").write_text(
        "from django.core.wsgi import get_wsgi_application\napp = get_wsgi_application()\n"
    )
    server, address = programs.start_gunicorn("app:app", 1, "gthread", "-c", "conf.py")
    request(f"{address}/orders/tea")
    wait_until(lambda: lines(tmp_path / "told"), "the callback has been called")
    assert int(lines(tmp_path / "told")[0].split()[-1]) != server.pid
    wait_until(lambda: json.loads(request(f"{address}/health"))["healthy"], "it is healthy")
    assert ("tea", "shipped") in states()
    end(server, signal.SIGTERM)


def start_runserver(programs: Programs, *options: str) -> tuple[Any, str]:
    """Start Django's own server; the process, and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    server = programs.start(*MANAGE, "runserver", where, *options)

    def answers() -> bool:
        assert server.poll() is None, programs.log
        try:
            return bool(request(f"http://{where}/state"))
        except OSError:
            return False

    wait_until(answers, "the server answers")
    return server, f"http://{where}"


def test_runservers_reloader_starts_one_worker(programs: Programs, tmp_path: Path) -> None:
    programs.environment["WORKER"] = "1"
    server, address = start_runserver(programs)
    request(f"{address}/orders/tea")
    wait_until(lambda: lines(tmp_path / "told"), "the callback has been called")
    assert int(lines(tmp_path / "told")[0].split()[-1]) != server.pid
    assert len(owners(server)) <= 2
    assert request(f"{address}/state") == "running"


def test_a_server_without_the_setting_starts_none(programs: Programs) -> None:
    _, address = start_runserver(programs, "--noreload")
    request(f"{address}/orders/tea")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        request(f"{address}/health")
    assert request(f"{address}/state") == "new"
    assert os.environ.get("WORKER") is None
