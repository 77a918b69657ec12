"""Settings named EMBEDKQ_...: which exist, and which options of queue and worker an app's
configuration sets. Pure.

A setting's name is the option's in capitals. EMBEDKQ_QUEUE_... and EMBEDKQ_WORKER_... set an option
of one of the two, and win over the general setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from embedkq._options.declared import OPTIONS
from embedkq._options.names import did_you_mean, nearest
from embedkq._options.option import EXTENSION, PREFIX, QUEUE, WORKER
from embedkq._options.takers import checked, options_of

_OF_OTHERS = re.compile(
    r"EMBEDKQ_(CACHE|TEST_\w+|(\w+_)?SERVICE_(HOST|PORT)(_\w+)?|(\w+_)?PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
).fullmatch
"""Variables that the tests set, and those that Kubernetes sets for a service whose name begins with
"embedkq"."""


def known_names() -> frozenset[str]:
    """All settings of an app's configuration."""
    return frozenset(
        key for option in OPTIONS for taker in option.takers for key in option.keys_for(taker)
    )


def known_variables() -> frozenset[str]:
    """All variables that `kq worker` reads."""
    return frozenset(
        name for option in OPTIONS for name in (option.variable, *option.value_variables) if name
    )


def check_environment(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse unknown variables, as `check_names` does. Settings of a Flask app are known, too.

    Args:
        names: all variables of the environment.
        known: variables that are read but not declared.
    """
    ours = [name for name in names if name.startswith(PREFIX) and not _OF_OTHERS(name)]
    check_names(ours, {*known, *known_variables(), *known_names()}, "the environment")


def check_names(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse names that begin with EMBEDKQ_ and are no settings. A typo in EMBEDKQ_SECRET would
    leave jobs unsigned without a word.

    Args:
        names: the given ones; those without the prefix are ignored.
        known: all settings.
        where: what holds the names, for the message.

    Raises:
        ValueError: there is no such setting; the message names the nearest one.
    """
    short = {name.removeprefix(PREFIX) for name in known}
    for name in sorted(names):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in short:
            close = nearest(name.removeprefix(PREFIX), short)
            hint = f": did you mean {PREFIX}{close}?" if close else ""
            raise ValueError(f"{where} has {name}, and embedkq knows no such setting{hint}")


def queue_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Queue` from a configuration.

    Raises:
        TypeError, ValueError: EMBEDKQ_KAFKA is no dict, or holds what no client of kafka-python
            knows.
    """
    return _options(config, QUEUE)


def worker_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Worker` from a configuration; raises as `queue_options`."""
    return _options(config, WORKER)


def extension_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the extension itself, by name, with defaults.

    Raises:
        TypeError: one cannot work; the message names it.
    """
    defaults = {option.name: option.default for option in options_of(EXTENSION)}
    return checked(EXTENSION, defaults | _options(config, EXTENSION))


def _options(config: Mapping[str, Any], taker: str) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for option in options_of(taker):
        for key in option.keys_for(taker):
            if key == f"{PREFIX}KAFKA" and key in config:
                given[option.name] = _kafka_options(config[key], taker)
            elif key in config:
                given[option.name] = config[key]
    return given


def _kafka_options(kafka: Any, taker: str) -> Any:
    """The options that the taker's client knows, of options for both clients."""
    from embedkq._clients.consumer_options import KNOWN_OPTIONS as OF_CONSUMERS
    from embedkq._clients.producer import KNOWN_OPTIONS as OF_PRODUCERS

    if kafka is None:
        return None
    if not isinstance(kafka, Mapping):
        raise TypeError(
            f"{PREFIX}KAFKA must be a dict of kafka-python options, not a {type(kafka).__name__}"
        )
    everything = OF_PRODUCERS | OF_CONSUMERS
    for option in kafka:
        if option not in everything:
            raise ValueError(
                f"{PREFIX}KAFKA has {option!r}, and kafka-python knows no such option"
                + did_you_mean(str(option), everything)
            )
    known = OF_PRODUCERS if taker == QUEUE else OF_CONSUMERS
    return {option: value for option, value in kafka.items() if option in known}
