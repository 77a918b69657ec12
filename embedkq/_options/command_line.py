"""An option on the command line: what click makes it from, and what its value there means. Imports
no click, so that Flask's commands need nothing of `embedkq.cli` to be listed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from embedkq._options.checks import check_count
from embedkq._options.option import Option
from embedkq._options.takers import options_of

_TYPES = {"int": int, "float": float, "str": str}


def parameter_of(option: Option, file_type: Any = str) -> dict[str, Any]:
    """Arguments of `click.option` beside the spelling.

    Args:
        file_type: click's type for the path of a file.
    """
    common = {"envvar": option.variable, "show_envvar": True, "help": _help_of(option)}
    if _is_flag(option):
        return {**common, "is_flag": True}
    default = option.default if option.command_line_default is None else option.command_line_default
    is_file = option.value_name.endswith("file")
    return {
        **common,
        "type": file_type if is_file else _TYPES.get(option.type.partition(" ")[0], str),
        "metavar": option.metavar or option.unit.upper() or None,
        "multiple": option.repeated,
        "default": default,
        "show_default": option.none if default is None else True,
    }


def arguments_of(taker: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """What the values of a command line mean for a taker, by the names of its parameters.

    Values stay as they were given where only the command can tell what they name: files, modules,
    exceptions.

    Raises:
        ValueError: a number for which 0 means None is below 0.
    """
    return {
        option.name: _argument(option, values[option.value_name])
        for option in options_of(taker)
        if option.spelling is not None
    }


def _argument(option: Option, value: Any) -> Any:
    if _is_flag(option):
        return not option.default if value else option.default
    if option.zero_means_none and isinstance(value, int):
        check_count(option.name, value, 0)
    return value or None if option.repeated or option.zero_means_none else value


def _is_flag(option: Option) -> bool:
    return option.type == "bool"


def _help_of(option: Option) -> str:
    more = f"; 0 for {option.none}" if option.zero_means_none else ""
    return f"{option.help}{more}." + " May be given several times." * option.repeated
