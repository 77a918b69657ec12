"""What README and the guide say holds: snippets run on a real broker, commands parse, tables agree
with the code, links lead somewhere."""

from __future__ import annotations

import builtins
import configparser
import inspect
import json
import re
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import benchmarks.guide
import click
import pytest
from docutils import nodes
from guidepages import (
    COMMANDS,
    FOLDER,
    OF_KQ,
    PAGES,
    README,
    SNIPPETS,
    anchors,
    blocks,
    literals,
    nodes_of,
    parsed,
    table,
)
from gunicorn.config import Config
from programs import KQ, Programs, end, request
from support import ROOT, Sender, end_offsets, lag, wait_until

import embedkq
from embedkq import Job, Worker, errors
from embedkq._child import job_call, process
from embedkq._child.current_job import CurrentJob
from embedkq._clients import consumer_options
from embedkq._configuration import known_names
from embedkq._formats import offset_map
from embedkq._ipc import channel
from embedkq.cli import kq
from embedkq.worker import progress_watch
from embedkq.worker.between_threads import backlog, stop_deadline
from embedkq.worker.control_thread import circuit_breaker, crash_guard, pending_callbacks, retries
from embedkq.worker.dead_letter_thread import dead_letter_writer
from embedkq.worker.lifecycle import State
from embedkq.worker.pool import child_starts, prefetch

RUN_TO_THEIR_END = (
    "hello.py",
    "squares.py",
    "handoff.py",
    "descriptor.py",
    "asyncio_app.py",
    "secured.py",
    "logs.py",
    "signed.py",
    "own_broker.py",
    "json_queue.py",
    "typed.py",
    "current.py",
    "without_pytest.py",
    "protobuf_orders.py",
    "after_commit.py",
)
RUN_OTHERWISE = (
    "my_module.py",
    "enqueue.py",
    "callback.py",
    "worker.py",
    "queue_api.py",
    "simple_app.py",
    "busy_app.py",
    "gunicorn.conf.py",
    "shop.py",
    "signup.py",
    "photos.py",
    "test_enqueued.py",
    "test_eager.py",
    "test_worker.py",
    "test_options.py",
    "test_photos.py",
    "orders.py",
    "book_orders.py",
    "celery_shop.py",
    "celery_enqueue.py",
    "rq_shop.py",
    "rq_enqueue.py",
    "kq_shop.py",
    "kq_enqueue.py",
    "kq_callback.py",
    "celery_mail.py",
    "rq_mail.py",
    "kq_mail.py",
    "kq_eager.py",
    "members_settings.py",
    "members.py",
    "members_tasks.py",
)
QUOTED = (
    "callbacks have waited for",
    "unloadable. Job",
    "malformed. Skipping ...",
    "no Kafka broker at",
    "kq needs the package",
    "no development broker",
    "Closing consumer ...",
    "Callback failed:",
    "Enqueued:",
    "timed out after",
)
TEXT = " ".join(" ".join(page.astext().split()) for page in PAGES.values())


def setuptools_config() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    return config


def defaults_of(function: Any) -> dict[str, Any]:
    parameters = list(inspect.signature(function).parameters.values())
    return {
        parameter.name: parameter.default for parameter in parameters if parameter.name != "self"
    }


def verbs() -> dict[str, click.Command]:
    """All commands by their words behind `kq`, such as "dlq list"."""
    found: dict[str, click.Command] = {}
    for name, command in kq.commands.items():
        nested = command.commands if isinstance(command, click.Group) else {}
        found |= {f"{name} {verb}": each for verb, each in nested.items()} or {name: command}
    return found


def verb_of(words: list[str]) -> str:
    """The command that these words begin with; they are taken away."""
    name = words.pop(0)
    return name if name in verbs() else f"{name} {words.pop(0)}"


def options_of(command: click.Command) -> dict[str, click.Option]:
    return {
        parameter.opts[0]: parameter
        for parameter in command.params
        if isinstance(parameter, click.Option)
    }


# The form.


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_valid_restructured_text(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = parsed(path, report_level=2)
    assert capsys.readouterr().err == ""
    assert [node.astext() for node in page.findall(nodes.system_message) if node["level"] > 1] == []
    assert max(map(len, path.read_text().splitlines())) <= 140


def test_readme_is_short() -> None:
    assert README.stat().st_size <= 10 * 1024


def test_every_snippet_is_run() -> None:
    assert sorted(SNIPPETS) == sorted(RUN_TO_THEIR_END + RUN_OTHERWISE) and len(SNIPPETS) == len(
        blocks("python")
    )


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_link_leads_to_a_page_and_section(path: Path) -> None:
    for link in PAGES[path].findall(nodes.reference):
        target, _, section = link.get("refuri", "").partition("#")
        if target.startswith("https://"):
            continue
        assert not link.get("refid"), (
            f"{link.astext()}: link to the page, so that kq guide and HTML show the same"
        )
        found = (path.parent / target).resolve()
        assert found in PAGES, f"{link.astext()} leads to {target}"
        assert not section or section in anchors(PAGES[found]), (
            f"{link.astext()} leads to {target}#{section}"
        )


def test_the_start_page_and_readme_lead_to_every_page() -> None:
    pages = {path for path in PAGES if path.parent == FOLDER and path.stem != "index"}
    for start in (README, FOLDER / "index.rst"):
        linked = {
            (start.parent / link["refuri"]).resolve()
            for link in PAGES[start].findall(nodes.reference)
        }
        assert linked == pages


def test_every_file_and_test_that_is_named_exists() -> None:
    named = [
        name
        for name in literals()
        if re.fullmatch(r"[\w.-]+(/[\w.-]+)+|[a-z_]+\.(py|mod)", name) and name not in SNIPPETS
    ]
    named += re.findall(r"\btests/\S+", " ".join(COMMANDS))
    made = {"build/docs", "build/mutants", "health/jobs", "conftest.py", "manage.py"}
    for name in sorted(set(named) - made):
        places = [
            ROOT / name,
            ROOT / "embedkq" / name,
            ROOT / "embedkq" / "broker" / "program" / name,
        ]
        assert any(place.exists() for place in places), name


# The snippets.


def promised(name: str) -> str:
    """What a snippet prints, as the comments behind its `print(...)` say."""
    return "".join(
        f"{shown}\n"
        for shown in re.findall(r"^ *print\(.*\)  # (.*)$", SNIPPETS[name], re.MULTILINE)
    )


@pytest.mark.parametrize("name", RUN_TO_THEIR_END)
def test_a_program_prints_what_it_says(name: str, programs: Programs) -> None:
    expected = {"asyncio_app.py": "success (1, 2, None)\n"}.get(name, promised(name))
    assert expected or "print" not in SNIPPETS[name]
    assert programs.run(sys.executable, name) == expected


def test_what_the_queue_can_do_is_enqueued(
    programs: Programs, hosts: str, topics: dict[str, str]
) -> None:
    assert programs.run(sys.executable, "queue_api.py") == ""
    assert sum(end_offsets(hosts, topics["default"]).values()) == 5 + 100 + 1 + 1


def test_the_first_job_goes_as_told(programs: Programs, topics: dict[str, str]) -> None:
    told = next(block for block in blocks("console") if "enqueue.py" in block).splitlines()
    assert (
        told[0] == "$ python enqueue.py"
        and told[2] == "$ kq worker --verbose --callback=callback.py"
    )
    job_id = programs.run(sys.executable, "enqueue.py").split()[1]
    worker = programs.start(KQ, *told[2].split()[2:])
    wait_until(lambda: "my_func gave" in programs.log, "the callback is called")
    end(worker, signal.SIGTERM)
    seen = programs.log.replace(topics["default"], "default").replace(
        job_id[:8], told[1].split()[1][:8]
    )
    seen = re.sub(r"partition=\d", "partition=2", seen)
    assert seen.splitlines()[: len(told) - 3] == told[3:]


def test_a_worker_inside_a_program_does_the_same(programs: Programs) -> None:
    worker = programs.start(sys.executable, "worker.py")
    programs.run(sys.executable, "enqueue.py")
    wait_until(lambda: "my_func gave (1, 2, 3)" in programs.log, "the callback is called")
    worker.send_signal(signal.SIGINT)
    worker.wait()


def test_records_of_other_programs_are_handled_as_told(
    programs: Programs, hosts: str, topics: dict[str, str]
) -> None:
    worker = programs.start(sys.executable, "book_orders.py")
    with Sender(hosts, topics["orders"]) as sender:
        sender.send_record(b'{"item": "tea", "name": "Ann"}', [], key=b"ann")
        sender.flush()
    end_of_line = "({'item': 'tea', 'name': 'Ann'},) tea for Ann\n"
    wait_until(lambda: f"success {end_of_line}" in programs.log, "the callback is called")
    worker.send_signal(signal.SIGINT)
    worker.wait()


def test_the_simple_flask_app_runs_under_gunicorn(programs: Programs) -> None:
    server, address = programs.start_gunicorn("simple_app:app", 1, "sync")
    job_id = request(f"{address}/jobs/7", "POST")
    wait_until(
        lambda: json.loads(request(f"{address}/results")) == {job_id: 49},
        "a request has fired the callback",
    )
    end(server, signal.SIGTERM)


def test_the_simple_flask_app_runs_in_debug_mode_on_one_thread(programs: Programs) -> None:
    command = (sys.executable, "-m", "flask", "--app", "simple_app", "run", "--debug", "-p", "0")
    server, address = programs.start_web(*command, "--without-threads")
    job_id = request(f"{address}/jobs/7", "POST")
    wait_until(
        lambda: json.loads(request(f"{address}/results")) == {job_id: 49},
        "a request has fired the callback",
    )
    source = programs.folder / "simple_app.py"
    source.write_text(source.read_text() + "\n# changed\n")
    wait_until(lambda: programs.log.count("Debugger is active") == 2, "the server has reloaded")
    wait_until(lambda: answers(f"{address}/results"), "the server answers again")
    job_id = request(f"{address}/jobs/8", "POST")
    wait_until(
        lambda: json.loads(request(f"{address}/results")) == {job_id: 64},
        "the new process runs jobs too",
    )
    assert "Exception ignored" not in programs.log
    end(server, signal.SIGTERM)


def answers(address: str) -> bool:
    try:
        return bool(request(address))
    except OSError:
        return False


def test_the_simple_flask_app_says_what_to_change_where_each_request_has_a_thread(
    programs: Programs,
) -> None:
    command = (sys.executable, "-m", "flask", "--app", "simple_app", "run", "-p", "0")
    server, address = programs.start_web(*command)
    request(f"{address}/jobs/7", "POST")
    with pytest.raises(OSError, match="500"):
        request(f"{address}/results")
    (said,) = [line for line in programs.log.splitlines() if line.startswith("embedkq.errors.")]
    assert "have it use one thread (flask run --without-threads)" in said
    end(server, signal.SIGTERM, status=-signal.SIGTERM)


def test_the_busy_flask_app_runs_under_gunicorn(programs: Programs) -> None:
    (programs.folder / "gunicorn.conf.py").write_text(SNIPPETS["gunicorn.conf.py"])
    server, address = programs.start_gunicorn("busy_app:app", 1, "gthread")
    job_id = request(f"{address}/jobs/7", "POST")
    wait_until(
        lambda: f"{job_id} success 49\n" in programs.log,
        "the callback is called while no request comes in",
    )
    end(server, signal.SIGTERM)


def test_the_app_with_the_extension_runs_under_gunicorn(programs: Programs) -> None:
    server, address = programs.start_gunicorn("shop:create_app()", 1, "sync")
    request(f"{address}/jobs/hello", "POST")
    wait_until(
        lambda: "shop success hello from shop\n" in programs.log,
        "the callback is called in the app's context",
    )
    assert json.loads(request(f"{address}/health/jobs"))["ended"]["success"] == 1
    end(server, signal.SIGTERM)


@pytest.mark.parametrize("app", ["simple_app:app", "busy_app:app", "shop:create_app()"])
def test_gunicorn_is_called_as_told(app: str) -> None:
    command = next(
        command
        for command in COMMANDS
        if command.startswith("gunicorn") and command.strip("'").endswith(app)
    )
    parsed = Config().parser().parse_args(shlex.split(command)[1:])
    assert parsed.args == [app] and parsed.workers == 2  # the shell takes the quotes away


def test_the_django_project_runs_as_told(
    programs: Programs, topics: dict[str, str], hosts: str
) -> None:
    programs.environment["DJANGO_SETTINGS_MODULE"] = "members_settings"
    manage = (sys.executable, "-m", "django")
    programs.run(*manage, "migrate", "--verbosity=0")
    programs.run(*manage, "check", "--fail-level=ERROR")
    app = "django.core.wsgi:get_wsgi_application()"
    server, address = programs.start_gunicorn(app, 1, "sync")
    request(f"{address}/join/ada")
    task = (
        "import django; django.setup(); import members_tasks as m; m.count_letters.enqueue('ada')"
    )
    programs.run(sys.executable, "-c", task)
    worker = programs.start(*manage, "kq", "worker", "--burst")
    assert worker.wait(60) == 0
    assert "('ada',) success 1\n" in programs.log
    assert "success ada has 3 letters, attempt 1\n" in programs.log
    assert lag(hosts, topics["members"], topics["members"]) == 0
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0


def test_the_tests_of_an_app_pass(programs: Programs) -> None:
    names = [name for name in SNIPPETS if name.startswith("test_")]
    done = programs.run(sys.executable, "-m", "pytest", "-q", "--no-header", *names)
    assert re.search(r"^\d+ passed", done.splitlines()[-1]), done


# The commands.


@pytest.mark.parametrize("command", sorted(set(OF_KQ)))
def test_a_command_of_kq_parses(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
        assert name in {
            option.envvar for option in options_of(verbs()[verb_of(words[1:])]).values()
        }
    assert words.pop(0) == "kq"
    (tmp_path / "secret").touch()
    monkeypatch.chdir(tmp_path)
    verb = verbs()[verb_of(words)]
    with verb.make_context(verb.name, words) as context:
        assert not context.args


def test_all_commands_are_shown_and_listed() -> None:
    assert {verb_of(command.split("kq ")[1].split()) for command in OF_KQ} == set(verbs())
    rows = {name.removeprefix("kq "): options for name, options, _ in table("Commands")}
    assert rows.keys() == verbs().keys()
    for name in set(rows) - {"worker"}:
        assert set(rows[name].split()) == set(options_of(verbs()[name])), name


def test_the_targets_of_make_exist_and_are_listed() -> None:
    helped = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)) - {
        "help"
    }
    named = {found[1] for name in literals() if (found := re.match(r"make ([a-z-]+)", name))}
    assert {"demo", "test", "docs"} <= named <= helped
    listed = {
        name for row in table("Targets of make") for name in re.findall(r"make ([a-z-]+)", row[0])
    }
    assert listed == helped


def test_the_extras_are_those_of_the_package() -> None:
    extras = {row[0] for row in table("Extras")}
    assert extras == set(setuptools_config()["options.extras_require"])
    for command in COMMANDS:
        if command.startswith("pip install"):
            assert (
                set(re.findall(r"[a-z]+", (re.findall(r"\[(.*)\]", command) or [""])[0])) <= extras
            )


def test_every_option_has_the_variable_that_its_name_gives() -> None:
    for verb in verbs().values():
        for name, option in options_of(verb).items():
            expected = "EMBEDKQ_" + name.removeprefix("--").upper().replace("-", "_")
            assert option.envvar == (
                "EMBEDKQ_DEMO_HOSTS" if (verb.name, name) == ("demo", "--hosts") else expected
            )


# The tables.


def test_the_methods_of_worker_are_those_listed() -> None:
    calls = {row[0].partition("(")[0]: row[0] for row in table("Methods of Worker")}
    public = {
        name
        for name, value in inspect.getmembers(Worker, inspect.isfunction)
        if not name.startswith("_")
    }
    assert calls.keys() == public - {"fileno", "close_after_fork"}
    for name, call in calls.items():
        signature = inspect.signature(getattr(Worker, name))
        assert (
            call
            == f"{name}({', '.join(f'{key}={value!r}' for key, value in defaults_of(getattr(Worker, name)).items())})"
        ), signature


def test_the_callbacks_contract_and_the_job_are_those_of_the_code() -> None:
    assert [row[0] for row in table("Fields of Job")] == list(Job._fields)
    assert [row[0] for row in table("Properties of Job")] == [
        name for name, value in vars(Job).items() if isinstance(value, property)
    ]
    assert [row[0] for row in table("What current_job() returns")] == list(CurrentJob._fields)
    assert [row[0] for row in table("Arguments of the callback")] == [
        '"success"',
        '"failure"',
        '"timeout"',
    ]


def test_every_exception_and_state_that_is_named_exists() -> None:
    of_others = {
        "KafkaProducer",
        "KafkaConsumer",
        "RebalanceInProgressError",
        "AsyncConsumerRebalanceListener",
        "Message",
        "AsyncResult",
        "FailedJobRegistry",
        "JobRun",
        "EmbeddedBroker",
        "RunningWorker",
        "ControlLoop",
        "TopicPartition",
        "AsyncSession",
        "Session",
        "TestCase",
    }
    for name in {
        name for name in literals() if re.fullmatch(r"[A-Z][a-z]+[A-Za-z]*", name)
    } - of_others:
        assert any(hasattr(place, name) for place in (errors, embedkq, builtins)), name
    states = next(
        node
        for node in nodes_of(nodes.paragraph)
        if node.astext().startswith("worker.state is one of")
    )
    assert {str(state) for state in State} <= {
        node.astext() for node in states.findall(nodes.literal)
    }
    for name, _ in table("Exceptions from embedkq"):
        assert issubclass(getattr(errors, name), errors.JobError) or name == "DecodeError"


def test_every_option_and_variable_that_is_named_exists() -> None:
    options = {name for verb in verbs().values() for name in options_of(verb)}
    of_others = {
        "--concurrency",
        "--enable-threads",
        "--preload",
        "--without-threads",
        "--app",
        "--check",
        "--debug",
    }
    for name in literals():
        known = (
            (ROOT / "tests/benchmarks/__main__.py").read_text()
            if name.startswith("make bench")
            else options | of_others
        )
        assert all(option in known for option in re.findall(r"(?<![\w-])--[a-z-]+", name)), name
    variables = {name for name in literals() if re.fullmatch(r"EMBEDKQ_[A-Z_]+", name)}
    of_tests = {"EMBEDKQ_TEST_BROKER", "EMBEDKQ_TEST_HOSTS"}
    of_commands = {
        option.envvar for verb in verbs().values() for option in options_of(verb).values()
    }
    assert variables - of_tests - {"EMBEDKQ_"} <= of_commands | set(known_names()) | {
        "EMBEDKQ_SECRET"
    }


def test_the_bounds_are_those_of_the_code() -> None:
    def bound(*limits: int) -> str:
        return ", or ".join(
            f"{limit:,}" if limit <= 10_000 else f"{limit >> 20} MiB" for limit in limits
        )

    def of_all(most: int, most_bytes: int, most_in_all: int) -> str:
        return f"{bound(most, most_bytes)}; {most_in_all >> 20} MiB for all partitions"

    assert [row[1] for row in table("Bounds")] == [
        bound(backlog.MOST_RECORDS),
        bound(backlog.MOST_BYTES),
        bound(pending_callbacks.MOST_WAITING, pending_callbacks.MOST_WAITING_BYTES),
        of_all(backlog.READ_AHEAD, backlog.READ_AHEAD_BYTES, backlog.READ_AHEAD_BYTES_IN_ALL),
        of_all(retries.MOST_HELD, retries.MOST_HELD_BYTES, retries.MOST_HELD_BYTES_IN_ALL),
        bound(dead_letter_writer.MOST_WAITING, dead_letter_writer.MOST_WAITING_BYTES),
        bound(prefetch.MOST_TASKS, prefetch.MOST_BYTES),
        bound(job_call.LARGEST_RESULT),
    ]


@pytest.mark.parametrize(
    ("sentence", "figures"),
    [
        ("When ten jobs in a row cannot be loaded", circuit_breaker.MOST_IN_A_ROW == 10),
        ("starts only one job every 10 seconds", circuit_breaker.PROBE_SECONDS == 10),
        ("with up to 10,000 forged records", circuit_breaker.MOST_REFUSED == 10_000),
        ("up to 300 seconds or backoff itself", retries.LONGEST_PAUSE_SECONDS == 300),
        ("When 500 jobs of a partition are waiting for a retry", retries.MOST_HELD == 500),
        ("lasts for at least 30 seconds and two jobs", crash_guard.CAREFUL_SECONDS == 30),
        ("is unhealthy after 20 seconds", progress_watch.NO_PROGRESS_SECONDS == 20),
        ("After 10 seconds the worker logs a WARNING", pending_callbacks.DEAF_SECONDS == 10),
        (
            "no more jobs when 1,000 callbacks are waiting, or 64 MiB",
            pending_callbacks.MOST_WAITING == 1_000,
        ),
        (
            "The session timeout of a worker is 10 seconds",
            consumer_options.SESSION_MILLISECONDS == 10_000,
        ),
        ("those of OpenTelemetry, for at most 2 seconds", process.EXIT_SECONDS == 2),
        ("60 seconds, initializer included", child_starts.START_SECONDS == 60),
        ("other steps get 0.6 s together", stop_deadline.LEAVE_SECONDS == 0.6),
        (
            "A message above 32 KiB is written to an anonymous file",
            channel.INLINE_BYTES == 32 * 1024,
        ),
        ("with metadata of up to 4,096 characters", offset_map.LIMIT == 4096),
    ],
)
def test_a_limit_in_the_text_is_that_of_the_code(sentence: str, figures: bool) -> None:
    assert sentence in TEXT and figures


def test_the_changelog_begins_with_this_version() -> None:
    headings = re.findall(r"^(.+)\n=+$", (FOLDER / "changelog.rst").read_text(), re.MULTILINE)
    assert headings[1] == embedkq.__version__  # the first one is the page's


def test_the_figures_are_those_that_were_measured() -> None:
    page = benchmarks.guide.PAGE.read_text()
    assert benchmarks.guide.updated(page) == page, "run `python -m benchmarks.guide` in tests"
    speed = {row[0]: row[1] for row in table("Speed")}
    jobs = speed["no-op jobs, with limit and callback, 2 processes"].split()[0]
    assert "About 31,000 no-op jobs" in TEXT and jobs.startswith("31,")
    cost = {row[0]: float(row[1].split()[0].replace(",", "")) for row in table("Cost")}
    assert (
        f"adds {cost['memory of an idle worker above the bare application, host alone']:.0f} MiB"
        in TEXT
    )
    assert (
        cost["processor of an idle worker with 2 processes"] < 1
        and "less than 1 % of a core" in TEXT
    )
    assert (
        f"{float(speed['enqueue to start, idle worker, p50'].split()[0]):.1f} ms (median) from enqueue to start"
        in TEXT
    )


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_is_quoted_is_what_is_said(quoted: str) -> None:
    said = " ".join(path.read_text() for path in (ROOT / "embedkq").rglob("*.py"))
    assert quoted in TEXT and quoted in said


# What it says of places that no test runs in.


def test_a_queue_needs_nothing_that_windows_lacks(programs: Programs) -> None:
    (programs.folder / "windows.py").write_text(
        "import logging, os, random, socket, subprocess, sys, kafka\n"
        "del os.register_at_fork\n"
        "sys.modules.update(dict.fromkeys(('fcntl', 'termios', 'resource', 'multiprocessing.popen_forkserver')))\n"
        "os.name = 'nt'\n"
        "from embedkq import Queue\n"
        "from my_module import my_func\n"
        "with Queue(hosts=os.environ['EMBEDKQ_HOSTS'], topic=os.environ['EMBEDKQ_TOPIC']) as queue:\n"
        "    print(queue.enqueue(my_func, 1, 2).args)\n"
        "try:\n"
        "    from embedkq import Worker\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    assert programs.run(sys.executable, "windows.py").splitlines() == [
        "(1, 2)",
        "a Worker needs Linux or macOS (on Windows: WSL); a Queue works here",
    ]
