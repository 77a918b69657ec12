"""What README says holds: its snippets run on a real broker, its commands parse, its tables agree with the code."""
from __future__ import annotations

import ast
import builtins
import inspect
import json
import re
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import docutils.core
import pytest
from docutils import nodes
from gunicorn.config import Config
from programs import KQ, Programs, end, request
from support import ROOT, end_offsets, wait_until

import embedkq
from embedkq import Job, Queue, Worker, errors
from embedkq.cli import kq
from embedkq.worker.lifecycle import State

TEXT = (ROOT / "README.rst").read_text()
DOCUMENT = docutils.core.publish_doctree(TEXT, settings_overrides={"report_level": 5, "halt_level": 5, "syntax_highlight": "short"})
RUN_TO_THEIR_END = ("squares.py", "handoff.py", "descriptor.py", "asyncio_app.py", "secured.py", "logs.py", "signed.py", "own_broker.py")
RUN_OTHERWISE = (
    "my_module.py", "enqueue.py", "callback.py", "worker.py", "queue_api.py", "simple_app.py", "busy_app.py", "gunicorn.conf.py", "shop.py",
)
QUOTED = (
    "callbacks have waited for", "unloadable. Job", "malformed. Skipping ...", "no Kafka broker at", "kq needs the package",
    "no development broker", "Closing consumer ...", "Callback failed:", "Enqueued:", "timed out after",
)


def blocks(language: str) -> list[str]:
    return [node.astext() for node in DOCUMENT.findall(nodes.literal_block) if language in node["classes"]]


SNIPPETS = {block.partition("\n")[0].removeprefix("# "): block for block in blocks("python")}
COMMANDS = [
    line.removeprefix("$ ").partition("  #")[0].strip()
    for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")
]


def table(title: str) -> list[list[str]]:
    """The cells of a table's body, as text, by row."""
    found = [node for node in DOCUMENT.findall(nodes.table) if node.next_node(nodes.title).astext() == title]
    assert len(found) == 1, title
    rows = next(iter(found[0].findall(nodes.tbody))).findall(nodes.row)
    return [[cell.astext() for cell in row.children] for row in rows]


def defaults_of(function: Any) -> dict[str, Any]:
    parameters = list(inspect.signature(function).parameters.values())
    return {parameter.name: parameter.default for parameter in parameters if parameter.name != "self"}


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
    return {parameter.opts[0]: parameter for parameter in command.params if isinstance(parameter, click.Option)}


# Its form.


def test_it_is_valid_restructured_text(capsys: pytest.CaptureFixture[str]) -> None:
    docutils.core.publish_doctree(TEXT, settings_overrides={"report_level": 1, "halt_level": 5, "syntax_highlight": "short"})
    assert capsys.readouterr().err == ""
    assert [node.astext() for node in DOCUMENT.findall(nodes.system_message)] == []
    assert max(map(len, TEXT.splitlines())) <= 140


def test_every_snippet_is_run() -> None:
    assert sorted(SNIPPETS) == sorted(RUN_TO_THEIR_END + RUN_OTHERWISE) and len(SNIPPETS) == len(blocks("python"))


# Its snippets.


@pytest.fixture
def topics() -> dict[str, str]:
    """Topics that stand for those of README, by name there."""
    return {}


@pytest.fixture
def programs(hosts: str, topics: dict[str, str], make_topic: Any, tmp_path: Path) -> Iterator[Programs]:
    """Runs README's programs in a folder that holds all snippets but Gunicorn's settings, with a broker and topics of the test's own."""

    def fresh(found: re.Match[str]) -> str:
        if found.group(2) not in topics:
            topics[found.group(2)] = make_topic(4)
        return f'{found.group(1)}="{topics[found.group(2)]}"'

    for name, snippet in SNIPPETS.items():
        if name != "gunicorn.conf.py":
            text = re.sub(r'(topic|TOPIC)="([a-z]+)"', fresh, snippet.replace("localhost:9092", hosts))
            (tmp_path / name).write_text(text)
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).touch()
    with Programs(tmp_path, {"EMBEDKQ_HOSTS": hosts, "EMBEDKQ_TOPIC": topics["default"]}) as programs:
        yield programs


def promised(name: str) -> str:
    """What a snippet prints, as the comments behind its `print(...)` say."""
    return "".join(f"{shown}\n" for shown in re.findall(r"^ *print\(.*\)  # (.*)$", SNIPPETS[name], re.MULTILINE))


@pytest.mark.parametrize("name", RUN_TO_THEIR_END)
def test_a_program_prints_what_it_says(name: str, programs: Programs) -> None:
    expected = {"asyncio_app.py": "success (1, 2, None)\n"}.get(name, promised(name))
    assert expected or "print" not in SNIPPETS[name]
    assert programs.run(sys.executable, name) == expected


def test_what_the_queue_can_do_is_enqueued(programs: Programs, hosts: str, topics: dict[str, str]) -> None:
    assert programs.run(sys.executable, "queue_api.py") == ""
    assert sum(end_offsets(hosts, topics["default"]).values()) == 4 + 100 + 1 + 1


def test_the_first_job_goes_as_told(programs: Programs, topics: dict[str, str]) -> None:
    told = next(block for block in blocks("console") if "enqueue.py" in block).splitlines()
    assert told[0] == "$ python enqueue.py" and told[2] == "$ kq worker --verbose --callback=callback.py"
    job_id = programs.run(sys.executable, "enqueue.py").split()[1]
    worker = programs.start(KQ, *told[2].split()[2:])
    wait_until(lambda: "my_func gave" in programs.log, "the callback is called")
    end(worker, signal.SIGTERM)
    seen = programs.log.replace(topics["default"], "default").replace(job_id[:8], told[1].split()[1][:8])
    seen = re.sub(r"partition=\d", "partition=2", seen)
    assert seen.splitlines()[: len(told) - 3] == told[3:]


def test_a_worker_inside_a_program_does_the_same(programs: Programs) -> None:
    worker = programs.start(sys.executable, "worker.py")
    programs.run(sys.executable, "enqueue.py")
    wait_until(lambda: "my_func gave (1, 2, 3)" in programs.log, "the callback is called")
    worker.send_signal(signal.SIGINT)
    worker.wait()


def test_the_simple_flask_app_runs_under_gunicorn(programs: Programs) -> None:
    server, address = programs.start_gunicorn("simple_app:app", 1, "sync")
    job_id = request(f"{address}/jobs/7", "POST")
    wait_until(lambda: json.loads(request(f"{address}/results")) == {job_id: 49}, "a request has fired the callback")
    end(server, signal.SIGTERM)


def test_the_busy_flask_app_runs_under_gunicorn(programs: Programs) -> None:
    (programs.folder / "gunicorn.conf.py").write_text(SNIPPETS["gunicorn.conf.py"])
    server, address = programs.start_gunicorn("busy_app:app", 1, "gthread")
    job_id = request(f"{address}/jobs/7", "POST")
    wait_until(lambda: f"{job_id} success 49\n" in programs.log, "the callback is called while no request comes in")
    end(server, signal.SIGTERM)


def test_the_app_with_the_extension_runs_under_gunicorn(programs: Programs) -> None:
    server, address = programs.start_gunicorn("shop:create_app()", 1, "sync")
    request(f"{address}/jobs/hello", "POST")
    wait_until(lambda: "shop success hello from shop\n" in programs.log, "the callback is called in the app's context")
    assert json.loads(request(f"{address}/health/jobs"))["ended"]["success"] == 1
    end(server, signal.SIGTERM)


@pytest.mark.parametrize("app", ["simple_app:app", "busy_app:app", "shop:create_app()"])
def test_gunicorn_is_called_as_told(app: str) -> None:
    command = next(command for command in COMMANDS if command.startswith("gunicorn") and command.strip("'").endswith(app))
    parsed = Config().parser().parse_args(shlex.split(command)[1:])
    assert parsed.args == [app] and parsed.workers == 2  # the shell takes the quotes away


# Its commands.


@pytest.mark.parametrize("command", [command for command in COMMANDS if "kq " in command and not command.startswith("flask")])
def test_a_command_of_kq_parses(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        monkeypatch.setenv(name, value)
        assert name in {option.envvar for option in options_of(verbs()[verb_of(words[1:])]).values()}
    assert words.pop(0) == "kq"
    (tmp_path / "secret").touch()
    monkeypatch.chdir(tmp_path)
    verb = verbs()[verb_of(words)]
    with verb.make_context(verb.name, words) as context:
        assert not context.args


def test_all_commands_are_shown_and_listed() -> None:
    shown = [command for command in COMMANDS if "kq " in command and not command.startswith("flask")]
    assert {verb_of(command.split("kq ")[1].split()) for command in shown} == set(verbs())
    rows = {name.removeprefix("kq "): options for name, options, _ in table("Commands")}
    assert rows.keys() == verbs().keys()
    for name in set(rows) - {"worker"}:
        assert set(rows[name].split()) == set(options_of(verbs()[name])), name


def test_the_two_commands_are_in_the_makefile() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"demo", "test"} <= set(re.findall(r"``make ([a-z-]+)", TEXT)) <= set(targets)


def test_every_option_has_the_variable_that_its_name_gives() -> None:
    for verb in verbs().values():
        for name, option in options_of(verb).items():
            expected = "EMBEDKQ_" + name.removeprefix("--").upper().replace("-", "_")
            assert option.envvar == ("EMBEDKQ_DEMO_HOSTS" if (verb.name, name) == ("demo", "--hosts") else expected)


# Its tables.


def test_the_options_of_queue_are_those_of_its_signature() -> None:
    assert {name: ast.literal_eval(default) for name, default, _ in table("Options of Queue")} == defaults_of(Queue)


def test_the_options_of_worker_are_those_of_its_signature() -> None:
    assert {name: ast.literal_eval(default) for name, _, default, _ in table("Options of Worker") if name} == defaults_of(Worker)


def test_the_options_of_kq_worker_are_those_of_its_help(programs: Programs) -> None:
    rows = {option: (name, default) for name, option, default, _ in table("Options of Worker") if option}
    shown = programs.run(KQ, "worker", "--help")
    assert set(rows) == set(re.findall(r"^ +(?:-h, )?(--[a-z-]+)", shown, re.MULTILINE)) - {"--help"}
    with kq.commands["worker"].make_context("worker", []) as context:
        for option, parameter in options_of(kq.commands["worker"]).items():
            name, default = rows[option]
            if name and name != "stop_timeout":  # the library's defaults are the command line's
                value = context.params[parameter.name]
                assert (value or None if parameter.multiple else value) == ast.literal_eval(default), option


def test_the_methods_of_worker_are_those_listed() -> None:
    calls = {row[0].partition("(")[0]: row[0] for row in table("Methods of Worker")}
    public = {name for name, value in inspect.getmembers(Worker, inspect.isfunction) if not name.startswith("_")}
    assert calls.keys() == public - {"fileno", "disinherit"}
    for name, call in calls.items():
        signature = inspect.signature(getattr(Worker, name))
        assert call == f"{name}({', '.join(f'{key}={value!r}' for key, value in defaults_of(getattr(Worker, name)).items())})", signature


def test_the_callbacks_contract_and_the_job_are_those_of_the_code() -> None:
    assert [row[0] for row in table("Fields of Job")] == list(Job._fields)
    assert [row[0] for row in table("What the callback is told")] == ['"success"', '"failure"', '"timeout"']


def test_every_exception_and_state_that_is_named_exists() -> None:
    named = {node.astext() for node in DOCUMENT.findall(nodes.literal)}
    of_others = {"KafkaProducer", "KafkaConsumer"}
    for name in {name for name in named if re.fullmatch(r"[A-Z][a-z]+[A-Za-z]*", name)} - of_others:
        assert any(hasattr(place, name) for place in (errors, embedkq, builtins)), name
    states = next(node for node in DOCUMENT.findall(nodes.paragraph) if node.astext().startswith("worker.state is one of"))
    assert {str(state) for state in State} <= {node.astext() for node in states.findall(nodes.literal)}
    for name, _ in table("Exceptions that stand for something else"):
        assert issubclass(getattr(errors, name), errors.JobError) or name == "DecodeError"


@pytest.mark.parametrize("quoted", QUOTED)
def test_what_is_quoted_is_what_is_said(quoted: str) -> None:
    said = " ".join(path.read_text() for path in (ROOT / "embedkq").rglob("*.py"))
    assert quoted in " ".join(TEXT.split()) and quoted in said


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
        "(1, 2)", "a Worker needs Linux or macOS (on Windows: WSL); a Queue works here",
    ]
