"""Every option stands at each of its doors: constructor, command line, environment, Flask's
configuration, guide. And each door refuses what it does not know, with the nearest known name.

The tests walk the declaration. A door that lacks an option fails, and so does one that has an
option that is not declared.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import pickle
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
from click.testing import CliRunner, Result
from guidepages import table

import embedkq
from embedkq import Queue, Worker, _configuration, _importing
from embedkq._options.declared import OPTIONS
from embedkq._options.names import known_options_only
from embedkq._options.option import (
    BOTH,
    COMMAND,
    EXTENSION,
    PREFIX,
    QUEUE,
    START,
    WORKER,
    Absent,
    Option,
)
from embedkq._options.takers import options_of
from embedkq.cli import kq
from embedkq.worker.settings import Settings

flask = pytest.importorskip("flask")

CALLED: dict[str, Any] = {QUEUE: Queue, WORKER: Worker, START: Worker.start}
ON_COMMAND_LINE = options_of(WORKER, START, COMMAND)


def name_of(value: object) -> str:
    return f"{value.name}-{'-'.join(value.takers)}" if isinstance(value, Option) else str(value)


each_option = pytest.mark.parametrize("option", OPTIONS, ids=name_of)


def each_option_of(*takers: str) -> Any:
    return pytest.mark.parametrize("option", options_of(*takers), ids=name_of)


def misspelt(name: str) -> str:
    return f"{name}{name[-1]}"


# The declaration.


@each_option
def test_a_declaration_is_whole(option: Option) -> None:
    assert option.help and not option.help.endswith(".")
    assert set(option.takers) <= {QUEUE, WORKER, START, COMMAND, EXTENSION}
    assert bool(option.none) == ("None" in option.type.split(" | "))
    assert bool(option.unit) == (re.match(r"(int|float)\b", option.type) is not None) or (
        option.name == "processes"
    )
    for door in (option.command_line, option.setting):
        assert not isinstance(door, Absent) or door.because


def test_an_option_is_declared_once_for_a_taker() -> None:
    declared = [(taker, option.name) for option in OPTIONS for taker in option.takers]
    assert len(declared) == len(set(declared))


@each_option
def test_a_default_is_accepted_and_stays_what_it_is(option: Option) -> None:
    assert option.checked(option.default) == option.default
    if option.command_line_default is not None:
        assert option.checked(option.command_line_default) == option.command_line_default


# The constructor, or the method.


@each_option_of(QUEUE, WORKER, START)
def test_the_constructor_has_it(option: Option) -> None:
    for taker in option.takers:
        parameter = inspect.signature(CALLED[taker]).parameters[option.name]
        assert (parameter.default, parameter.annotation) == (option.default, option.type)
        described = re.findall(r"^ {4,}([\w, ]+): ", CALLED[taker].__doc__, re.MULTILINE)
        assert option.name in ", ".join(described).split(", "), "the docstring lacks it"


@pytest.mark.parametrize("taker", CALLED)
def test_the_constructor_has_no_other(taker: str) -> None:
    parameters = set(inspect.signature(CALLED[taker]).parameters) - {"self"}
    assert parameters == {option.name for option in options_of(taker)}


def test_a_workers_settings_are_its_options() -> None:
    assert list(Settings.__annotations__) == list(inspect.signature(Worker).parameters)


@each_option_of(QUEUE, WORKER)
def test_the_constructor_refuses_what_cannot_work_by_name(option: Option) -> None:
    for taker in option.takers:
        with pytest.raises((TypeError, ValueError), match=option.name):
            CALLED[taker](**{option.name: object()})


@each_option_of(QUEUE, WORKER)
def test_the_constructor_takes_none_where_it_means_something(option: Option) -> None:
    if option.none:
        for taker in option.takers:
            assert CALLED[taker](**{option.name: None})


@each_option_of(QUEUE, WORKER)
def test_the_constructor_refuses_an_unknown_name_with_the_nearest_one(option: Option) -> None:
    for taker in option.takers:
        with pytest.raises(TypeError) as caught:
            CALLED[taker](**{misspelt(option.name): 1})
        assert str(caught.value) == (
            f"{taker}.__init__() got an unexpected keyword argument {misspelt(option.name)!r}; did"
            f" you mean {option.name!r}?"
        )


def test_a_name_near_to_none_is_refused_as_python_does() -> None:
    @known_options_only
    class Taker:
        def __init__(self, first: int, *, second: int = 2) -> None:
            self.both = first, second

    assert Taker(1).both == (1, 2) and Taker(first=3, second=4).both == (3, 4)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'xyzzy'$"):
        Taker(1, xyzzy=5)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'first'"):
        Taker()


# The command line and the environment.


class Given(NamedTuple):
    """What a test gives on the command line or in the environment, and what arrives."""

    text: str
    arrives: Any


@pytest.fixture
def samples(tmp_path: Path) -> dict[str, Given]:
    """A value of each option that the command line has, other than its default."""
    files = {name: str(tmp_path / name) for name in ("ca", "cert", "key", "crl", "secret", "kafka")}
    for path in files.values():
        Path(path).touch()
    Path(files["kafka"]).write_text('{"fetch_max_wait_ms": 50}')
    (tmp_path / "called.py").write_text("def callback(*told): pass\n")
    return {
        "hosts": Given("a:1,b:2", "a:1,b:2"),
        "topic": Given("t", "t"),
        "timeout": Given("1.5", 1.5),
        "callback": Given(str(tmp_path / "called.py"), "callback"),
        "handler": Given("os:fspath", os.fspath),
        "decode": Given("json", "json"),
        "job_size": Given("7", 7),
        "cafile": Given(files["ca"], files["ca"]),
        "certfile": Given(files["cert"], files["cert"]),
        "keyfile": Given(files["key"], files["key"]),
        "crlfile": Given(files["crl"], files["crl"]),
        "proc_ttl": Given("3", 3),
        "offset_policy": Given("latest", "latest"),
        "group": Given("g", "g"),
        "processes": Given("4", 4),
        "initializer": Given("os:getpid", os.getpid),
        "decode_timeout": Given("2.5", 2.5),
        "stop_timeout": Given("3.5", 3.5),
        "revoke_timeout": Given("4.5", 4.5),
        "dead_letter_topic": Given("d", "d"),
        "retries": Given("2", 2),
        "backoff": Given("5.5", 5.5),
        "retry_on": Given("OSError", [OSError]),
        "max_crashes": Given("9", 9),
        "secret": Given(files["secret"], [Path(files["secret"])]),
        "max_age": Given("60", 60.0),
        "allow": Given("a.*", ("a.*",)),
        "kafka": Given(files["kafka"], {"fetch_max_wait_ms": 50}),
        "burst": Given("1", True),
        "max_jobs": Given("5", 5),
        "wait": Given("1", False),
        "verbose": Given("1", True),
    }


class Arrived(NamedTuple):
    """What `kq worker` has made of its command line and environment."""

    result: Result
    options: dict[str, Any]


Start = Callable[..., Arrived]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs `kq worker` up to the start of the worker."""

    def run(*arguments: str, **environment: str) -> Arrived:
        module = importlib.import_module("embedkq.cli.worker")  # whose name is also its command's
        options: dict[str, Any] = {}

        def make(**given: Any) -> None:
            options.update(given)

        monkeypatch.setattr(embedkq, "Worker", make, raising=False)
        monkeypatch.setattr(module, "run_in_foreground", lambda made, given: options.update(given))
        monkeypatch.setattr(
            module, "set_up_logging", lambda verbose: options.update(verbose=verbose)
        )
        monkeypatch.setattr(_importing, "make_current_folder_importable", lambda: None)
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            monkeypatch.delenv(name)
        result = CliRunner().invoke(kq, ["worker", *arguments], env=environment)
        if callable(options.get("callback")):
            options["callback"] = options["callback"].__name__
        return Arrived(result, options)

    return run


def test_the_command_line_has_no_other() -> None:
    shown = {parameter.opts[0] for parameter in kq.commands["worker"].params}
    assert shown == {option.spelling for option in ON_COMMAND_LINE} - {None}


@each_option_of(WORKER, START, COMMAND)
def test_the_command_line_has_it(option: Option, start: Start, samples: dict[str, Given]) -> None:
    if option.spelling is None:
        assert isinstance(option.command_line, Absent) and option.name not in start().options
        return
    text, arrives = samples[option.name]
    flag = [option.spelling] if option.type == "bool" else [f"{option.spelling}={text}"]
    done = start(*flag)
    assert done.result.exit_code == 0, done.result.output
    assert done.options[option.name] == arrives != start().options[option.name]


@each_option_of(WORKER, START, COMMAND)
def test_the_environment_has_it(option: Option, start: Start, samples: dict[str, Given]) -> None:
    assert (option.variable is None) == (option.spelling is None)
    if option.variable is not None:
        text, arrives = samples[option.name]
        done = start(**{option.variable: text})
        assert done.result.exit_code == 0, done.result.output
        assert done.options[option.name] == arrives


@each_option_of(WORKER)
def test_flasks_names_in_the_environment_are_read_and_the_workers_own_wins(
    option: Option, start: Start, samples: dict[str, Given]
) -> None:
    for variable in option.keys_for(WORKER) if option.spelling else ():
        text, arrives = samples[option.name]
        done = start(**{variable: text})
        if option.name == "kafka":
            assert done.result.exit_code == 2 and "kafka" not in done.options
            assert f"{variable}: `kq` reads options of kafka-python" in done.result.output
            assert "EMBEDKQ_KAFKA_FILE" in done.result.output
            continue
        assert done.result.exit_code == 0, done.result.output
        assert done.options[option.name] == ([text] if option.name == "secret" else arrives), (
            variable
        )
    if option.name in ("topic", "processes", "secret"):
        general, own = f"{PREFIX}{option.name.upper()}", f"{PREFIX}WORKER_{option.name.upper()}"
        done = start(**{general: "7", own: "8"})
        assert done.options[option.name] in ("8", 8, ["8"])


@each_option_of(WORKER, START, COMMAND)
def test_the_command_lines_default_is_the_librarys(option: Option, start: Start) -> None:
    if option.spelling is not None:
        own = option.command_line_default
        assert start().options[option.name] == (option.default if own is None else own)


def test_only_the_time_to_stop_has_another_default_on_the_command_line() -> None:
    """Kubernetes kills after 30 seconds what has not ended by then."""
    own = {
        option.name: option.command_line_default
        for option in OPTIONS
        if option.command_line_default is not None
    }
    assert own == {"stop_timeout": 25.0}


@each_option_of(WORKER, START, COMMAND)
def test_zero_means_none_where_nothing_else_could(option: Option, start: Start) -> None:
    if option.zero_means_none:
        assert start(f"{option.spelling}=0").options[option.name] is None
        assert f"; 0 for {option.none}." in worker_help()


@cache
def worker_help() -> str:
    return " ".join(CliRunner().invoke(kq, ["worker", "--help"], terminal_width=200).output.split())


@each_option_of(WORKER, START, COMMAND)
def test_the_help_shows_spelling_variable_unit_and_default(option: Option) -> None:
    if option.spelling is None:
        return
    shown = worker_help()
    assert f"{option.spelling} {option.unit.upper()}".rstrip() in shown
    assert option.help in shown and f"env var: {option.variable}" in shown
    default = option.default if option.command_line_default is None else option.command_line_default
    if option.type != "bool":
        text = f"({option.none})" if default is None else default
        assert f"env var: {option.variable}; default: {text}]" in shown


def every_command(command: click.Command) -> list[click.Command]:
    nested = command.commands.values() if isinstance(command, click.Group) else ()
    return [command, *(below for each in nested for below in every_command(each))]


@each_option_of(WORKER, START, COMMAND)
def test_other_commands_spell_it_alike(option: Option) -> None:
    (ours,) = [p for p in kq.commands["worker"].params if p.opts[0] == option.spelling] or [None]
    for command in every_command(kq):
        for parameter in command.params:
            if ours is not None and parameter.opts[0] == option.spelling and command.name != "demo":
                assert (parameter.envvar, parameter.multiple) == (ours.envvar, ours.multiple)
                assert type(parameter.type) is type(ours.type)


@each_option_of(WORKER, START, COMMAND)
def test_the_command_line_refuses_an_unknown_name_with_the_nearest_one(
    option: Option, start: Start
) -> None:
    if option.spelling is not None:
        done = start(f"{misspelt(option.spelling)}=1")
        assert done.result.exit_code == 2 and not done.options
        assert option.spelling in done.result.output.partition("Did you mean ")[2]


@each_option_of(WORKER, START, COMMAND)
def test_the_environment_refuses_an_unknown_name_with_the_nearest_one(
    option: Option, start: Start
) -> None:
    for variable in filter(None, (option.variable, *option.value_variables)):
        done = start(**{misspelt(variable): "1"})
        assert done.result.exit_code == 2 and not done.options
        assert done.result.output == (
            f"Error: the environment has {misspelt(variable)}, and embedkq knows no such setting:"
            f" did you mean {variable}?\n"
        )


# Flask.


@pytest.fixture
def app_with(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Initialises an app with a configuration; what queue, worker and extension are given."""
    from embedkq import flask as module

    def make(config: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {QUEUE: {}, WORKER: {}}
        monkeypatch.setattr(module, "Queue", lambda **given: made[QUEUE].update(given))
        monkeypatch.setattr(module, "Worker", lambda **given: made[WORKER].update(given))
        app = flask.Flask("shop")
        app.config.update(config)
        module.EmbedKQ(app)
        state = app.extensions["embedkq"]
        app_name = made[WORKER].get("initargs", (None, None))[0]
        return {
            **made,
            EXTENSION: {
                "worker": state.runs_worker,
                "health_url": state.health_url,
                "app": app_name,
            },
        }

    return make


AppWith = Callable[[dict[str, Any]], dict[str, Any]]
IN_FLASK: dict[str, Any] = {
    "kafka": {"request_timeout_ms": 7_000},
    "initializer": os.getpid,
    "worker": False,
    "eager": False,
    "app": "shop:create_app",
    "health_url": "/health",
}


@each_option
def test_flask_has_it(option: Option, app_with: AppWith) -> None:
    value = IN_FLASK.get(option.name, object())
    for taker in option.takers:
        keys = option.keys_for(taker)
        assert bool(keys) != isinstance(option.setting, Absent)
        for key in keys:
            given = app_with({key: value})
            if option.name == "initializer":
                assert given[WORKER]["initargs"] == (None, value)
            else:
                assert given[taker][option.name] == value, key


@each_option_of(QUEUE, WORKER)
def test_in_flask_a_key_for_one_taker_is_for_that_one_only(
    option: Option, app_with: AppWith
) -> None:
    for taker in option.takers:
        for key in option.keys_for(taker)[-1:]:
            value = IN_FLASK.get(option.name, object())
            (other,) = set(BOTH) - {taker}
            assert key == f"{PREFIX}{taker}_{option.name}".upper()
            assert value not in app_with({key: value})[other].values()


def test_flask_knows_no_other() -> None:
    assert {
        key for option in OPTIONS for taker in option.takers for key in option.keys_for(taker)
    } == _configuration.known_names()


def test_flask_passes_over_the_settings_of_others(app_with: AppWith) -> None:
    config = {"SECRET_KEY": "x", "embedkq_topic": "x", "KQ_TOPIC": "x"}
    assert app_with(config)[QUEUE] == {}


def test_flask_has_its_settings_from_the_environment_where_the_app_asks_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLASK_EMBEDKQ_TOPIC", "t")
    app = flask.Flask("shop")
    app.config.from_prefixed_env()
    assert _configuration.queue_options(app.config) == {"topic": "t"}


@each_option
def test_flask_refuses_an_unknown_name_with_the_nearest_one(
    option: Option, app_with: AppWith
) -> None:
    for key in {key for taker in option.takers for key in option.keys_for(taker)}:
        with pytest.raises(ValueError) as caught:
            app_with({misspelt(key): 1})
        assert str(caught.value) == (
            f"app.config has {misspelt(key)}, and embedkq knows no such setting: did you mean"
            f" {key}?"
        )


@each_option_of(EXTENSION)
def test_flask_refuses_what_cannot_work_by_name(option: Option, app_with: AppWith) -> None:
    if option.check is not None:
        with pytest.raises(TypeError, match=f"{option.name} must be"):
            app_with({option.keys_for(EXTENSION)[0]: 7})


@pytest.fixture
def flask_kq(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Runs `flask kq worker` of an app up to the start of its worker."""
    from embedkq.flask import EmbedKQ

    def run(*arguments: str, **environment: str) -> Arrived:
        from embedkq.cli import hosted

        options: dict[str, Any] = {}
        app = flask.Flask("shop")
        EmbedKQ(app)
        monkeypatch.setattr(Worker, "start", lambda self, **given: options.update(given))
        monkeypatch.setattr(
            hosted, "set_up_logging", lambda verbose: options.update(verbose=verbose)
        )
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            monkeypatch.delenv(name)
        result = app.test_cli_runner().invoke(args=["kq", "worker", *arguments], env=environment)
        return Arrived(result, options)

    return run


@each_option_of(START, COMMAND)
def test_flasks_command_has_it(option: Option, flask_kq: Start, samples: dict[str, Given]) -> None:
    text, arrives = samples[option.name]
    flag = [option.spelling] if option.type == "bool" else [f"{option.spelling}={text}"]
    assert flask_kq(*flag).options[option.name] == arrives
    assert flask_kq(**{option.variable: text}).options[option.name] == arrives
    assert flask_kq().options[option.name] == option.default
    done = flask_kq(**{misspelt(option.variable): "1"})
    assert done.result.exit_code == 2 and not done.options
    assert f"did you mean {option.variable}?" in done.result.output


def test_flasks_command_refuses_what_cannot_work(flask_kq: Start) -> None:
    done = flask_kq("--max-jobs=0")
    assert done.result.exit_code == 2 and "max_jobs=0: must be at least 1" in done.result.output


# The guide.


@each_option_of(QUEUE)
def test_the_guides_table_of_the_queue_has_it(option: Option) -> None:
    (row,) = [row for row in table("Options of Queue") if row[0] == option.name]
    assert ast.literal_eval(row[1]) == option.default and row[2]


@each_option_of(WORKER, START, COMMAND)
def test_the_guides_table_of_the_worker_has_it(option: Option) -> None:
    name = option.name if WORKER in option.takers else ""
    (row,) = [
        row
        for row in table("Options of Worker")
        if (row[0], row[1]) == (name, option.spelling or "")
    ]
    assert (ast.literal_eval(row[2]) if name else row[2]) == (option.default if name else "")
    assert row[3] and (option.command_line_default is None or "25" in row[3])
    if option.zero_means_none:
        assert re.search(r"\b0( or None)?:", row[3])


@each_option
def test_the_guides_table_of_settings_has_it(option: Option) -> None:
    rows = dict(table("Settings of the extension"))
    for taker in option.takers:
        for key in option.keys_for(taker)[:1]:
            whose = " and ".join(option.takers)
            assert rows[key] == f"{option.name} of {whose}" or taker == EXTENSION
            assert rows[key]


def test_the_guides_tables_have_no_others() -> None:
    assert len(table("Options of Queue")) == len(options_of(QUEUE))
    assert len(table("Options of Worker")) == len(ON_COMMAND_LINE)
    general = {
        option.keys_for(taker)[0]
        for option in OPTIONS
        for taker in option.takers
        if option.keys_for(taker)
    }
    assert {row[0] for row in table("Settings of the extension")} == general


# Secrets.

SECRETS = [option for option in OPTIONS if option.is_secret]
HUSH: dict[str, Any] = {
    "secret": "hush-hush-hush-hush",
    "kafka": {"sasl_plain_password": "hush-hush-hush-hush", "security_protocol": "SASL_SSL"},
}


@pytest.mark.parametrize("option", SECRETS, ids=name_of)
def test_a_secret_is_neither_shown_nor_pickled_nor_an_argument(option: Option) -> None:
    value = HUSH[option.name]
    given = {**value, "sasl_mechanism": "PLAIN"} if option.name == "kafka" else value
    queue, worker = Queue(**{option.name: given}), Worker(**{option.name: given})
    shown = f"{queue!r} {worker!r} {worker._settings!r}"
    assert "hush" not in shown and b"hush" not in pickle.dumps(queue)
    assert option.spelling is not None and option.spelling.endswith("-file")


@pytest.mark.parametrize("option", SECRETS, ids=name_of)
def test_no_message_holds_a_secret(option: Option) -> None:
    """Here a password without a mechanism, and a secret that is too short."""
    value = {"secret": "hush"}.get(option.name, HUSH[option.name])
    for taker in option.takers:
        with pytest.raises(ValueError) as caught:
            CALLED[taker](**{option.name: value})
        assert "hush" not in str(caught.value)
