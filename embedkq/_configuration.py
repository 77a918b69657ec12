"""Settings named EMBEDKQ_...: which there are, and what an app's configuration says for its queue
and its worker. Pure.

The names are those of the parameters of `Queue` and `Worker`, in capitals. A setting that only one
of the two shall have is named EMBEDKQ_QUEUE_... or EMBEDKQ_WORKER_..., which also goes before the
general one.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from embedkq._clients.consumer_options import KNOWN_OPTIONS as OF_CONSUMERS
from embedkq._clients.producer import KNOWN_OPTIONS as OF_PRODUCERS
from embedkq._options import nearest
from embedkq.queue import Queue
from embedkq.worker.worker import Worker

PREFIX = "EMBEDKQ_"
_IN_CODE_ONLY = {"self", "callback", "handoff", "initializer", "initargs"}
_OF_APPS = {"WORKER", "APP", "HEALTH_URL", "INITIALIZER"}
"""Settings of a web framework's extension, which neither `Queue` nor `Worker` has."""


def _parameters_of(kind: type) -> tuple[str, ...]:
    names = inspect.signature(kind).parameters
    return tuple(name for name in names if name not in _IN_CODE_ONLY)


QUEUE_OPTIONS = _parameters_of(Queue)
WORKER_OPTIONS = _parameters_of(Worker)
_ONLY_QUEUE, _ONLY_WORKER = {"timeout"}, {"retries", "backoff"}
"""What means something else to each of the two, and is meant for one where its general name is
used: a queue's `timeout` is the limit of its own jobs, a worker's goes before every job's own; a
worker's `retries` are for the jobs that say nothing of their own."""


def known_names() -> frozenset[str]:
    """All settings that an app's configuration may have."""
    both = {
        *QUEUE_OPTIONS,
        *WORKER_OPTIONS,
        *(f"queue_{name}" for name in QUEUE_OPTIONS),
        *(f"worker_{name}" for name in WORKER_OPTIONS),
    }
    return frozenset(PREFIX + name for name in {*(name.upper() for name in both), *_OF_APPS})


def check_names(names: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse what begins with EMBEDKQ_ and is no setting: a typing error in EMBEDKQ_SECRET would
    leave jobs unsigned in silence.

    Args:
        names: those that are given; others' are passed over.
        known: those that there are.
        where: what holds them, for the message.

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
    return _options(
        config,
        "QUEUE_",
        [name for name in QUEUE_OPTIONS if name not in _ONLY_WORKER],
        QUEUE_OPTIONS,
        OF_PRODUCERS,
    )


def worker_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `Worker` from a configuration; raises as `queue_options`."""
    return _options(
        config,
        "WORKER_",
        [name for name in WORKER_OPTIONS if name not in _ONLY_QUEUE],
        WORKER_OPTIONS,
        OF_CONSUMERS,
    )


def _options(
    config: Mapping[str, Any],
    own: str,
    general: Iterable[str],
    names: Iterable[str],
    known: frozenset[str],
) -> dict[str, Any]:
    options = {
        name: config[PREFIX + name.upper()] for name in general if PREFIX + name.upper() in config
    }
    if "kafka" in options:
        options["kafka"] = _kafka_options(options["kafka"], known)
    return options | {
        name: config[PREFIX + own + name.upper()]
        for name in names
        if PREFIX + own + name.upper() in config
    }


def _kafka_options(kafka: Any, known: frozenset[str]) -> Any:
    """Of options meant for both clients those that one of them knows."""
    if kafka is None:
        return None
    if not isinstance(kafka, Mapping):
        raise TypeError(
            f"{PREFIX}KAFKA must be a dict of kafka-python options, not a {type(kafka).__name__}"
        )
    everything = OF_PRODUCERS | OF_CONSUMERS
    for option in kafka:
        if option not in everything:
            close = nearest(str(option), everything)
            hint = f": did you mean {close!r}?" if close else ""
            raise ValueError(
                f"{PREFIX}KAFKA has {option!r}, and kafka-python knows no such option{hint}"
            )
    return {option: value for option, value in kafka.items() if option in known}
