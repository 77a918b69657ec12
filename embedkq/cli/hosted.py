"""`kq` inside a project that has settings: the same commands, with the project's values where the
command line gives none, and not with those of the environment."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import click
from click.core import ParameterSource

from embedkq._options.option import BOTH, QUEUE, WORKER, Option
from embedkq._options.takers import options_of
from embedkq.cli import kq
from embedkq.cli.common import checking_options
from embedkq.cli.connection import FromSettings
from embedkq.cli.worker import arguments_given, run_in_foreground, set_up_logging

_WITHOUT_PROJECT = ("broker", "demo", "guide")
_SHOWN = (str, int, float)


def commands_with(
    of_queue: Mapping[str, Any],
    of_worker: Mapping[str, Any],
    make_worker: Callable[[dict[str, Any]], Any],
) -> click.Group:
    """The group `kq` of a project.

    Args:
        of_queue, of_worker: the options that the settings give.
        make_worker: makes the project's worker, with what the command line gives in place of what
            the settings give.
    """
    clients = (of_queue.get("kafka"), of_worker.get("kafka"))  # some commands have both
    of_worker = {**of_worker, "kafka": {name: of[name] for of in clients if of for name in of}}
    group: click.Group = _copied(kq, {}, ())
    for name, command in kq.commands.items():
        if name not in _WITHOUT_PROJECT:
            taker = QUEUE if name == "enqueue" else WORKER
            given = of_queue if taker == QUEUE else of_worker
            group.commands[name] = _copied(command, given, options_of(taker))
    group.commands["worker"].callback = _worker_of(make_worker)
    return group


def _worker_of(make_worker: Callable[[dict[str, Any]], Any]) -> Callable[..., None]:
    def worker(verbose: bool, **values: Any) -> None:
        set_up_logging(verbose)
        given, start = arguments_given(values)
        chosen = {name: given[name] for name in given if _is_chosen(name)}
        with checking_options():
            made = make_worker(chosen)
        run_in_foreground(made, start)

    return worker


def _is_chosen(name: str) -> bool:
    (option,) = [each for each in options_of(WORKER) if each.name == name]
    source = click.get_current_context().get_parameter_source(option.value_name)
    return source is not ParameterSource.DEFAULT


def _copied(command: Any, given: Mapping[str, Any], options: tuple[Option, ...]) -> Any:
    own = copy.copy(command)
    by_spelling = {option.spelling or f"--{option.name}": option for option in options}
    own.params = [
        _parameter(each, by_spelling[each.opts[0]], given) if each.opts[0] in by_spelling else each
        for each in command.params
    ]
    if isinstance(command, click.Group):
        own.commands = {
            name: _copied(each, given, options) for name, each in command.commands.items()
        }
    return own


def _parameter(parameter: Any, option: Option, given: Mapping[str, Any]) -> Any:
    own = copy.copy(parameter)
    own.envvar, own.variables = None, ()
    if option.is_secret and option.takers == BOTH:
        value = FromSettings(given.get(option.name))
        own.default = (value,) if own.multiple else value
        own.type, own.show_default = _FileOr(parameter.type), False
    elif isinstance(given.get(option.name), _SHOWN):
        own.default = given[option.name]
        own.show_default = True
    return own


class _FileOr(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A file, or what the settings have."""

    name = "file"

    def __init__(self, file: click.ParamType) -> None:  # type: ignore[type-arg]
        self._file = file

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, FromSettings):
            return value
        return self._file.convert(value, param, ctx)
