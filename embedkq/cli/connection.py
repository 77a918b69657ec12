"""What the files that a user names hold: options for clients of kafka-python, and secrets."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from embedkq._options import TLSFiles, client_config
from embedkq._options.option import WORKER
from embedkq._options.takers import options_of


class FromSettings(NamedTuple):
    """What the settings of a project have in place of a file. The environment is not looked at
    then: the settings may have read it, and child processes will again."""

    value: Any


def connection_options(tls: Mapping[str, str | None]) -> dict[str, Any]:
    """Options of kafka-python's clients for these files; raises as `_options.client_config`
    does."""
    from embedkq._clients.consumer_options import KNOWN_OPTIONS as OF_CONSUMERS
    from embedkq._clients.producer import KNOWN_OPTIONS as OF_PRODUCERS

    given = kafka_options(tls["kafka_file"])
    known = OF_PRODUCERS | OF_CONSUMERS
    return _client_config(tls, given, ("bootstrap_servers",), known)


def client_options(tls: Mapping[str, str | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of a kafka-python consumer and of a producer for these files; raises as
    `_options.client_config` does."""
    from embedkq._clients import consumer_options, producer

    connection_options(tls)  # which names what neither of them knows

    def of(owned: Iterable[str], known: Iterable[str]) -> dict[str, Any]:
        return _client_config(tls, kafka_options(tls["kafka_file"], known), owned, known)

    return of(consumer_options.OWNED_OPTIONS, consumer_options.KNOWN_OPTIONS), of(
        producer.OWNED_OPTIONS, producer.KNOWN_OPTIONS
    )


def _client_config(
    tls: Mapping[str, str | None],
    given: Mapping[str, Any],
    owned: Iterable[str],
    known: Iterable[str],
) -> dict[str, Any]:
    files = TLSFiles(tls["cafile"], tls["certfile"], tls["keyfile"], tls["crlfile"])
    return client_config(files, given, owned=owned, known=known, owner="kq")


def secrets_given(files: Sequence[str | FromSettings]) -> Any:
    """The secrets that `--secret-file`, EMBEDKQ_SECRET or EMBEDKQ_WORKER_SECRET name; None without
    any. Removes the variables: the processes of jobs need not have them.

    Raises:
        ValueError: a file and a variable are given.
    """
    if files and isinstance(files[0], FromSettings):
        return files[0].value
    (option,) = [each for each in options_of(WORKER) if each.name == "secret"]
    given = {name: os.environ.pop(name, None) for name in option.value_variables}
    for name, secret in given.items():
        if secret is None:
            continue
        if files:
            raise ValueError(f"--secret-file and {name} are both given: leave one of them out")
        return [secret]
    return [Path(str(file)) for file in files] or None


def kafka_options(
    file: str | FromSettings | None, known: Iterable[str] | None = None
) -> dict[str, Any]:
    """The options in the file that `--kafka-file` names, or those of them that are `known`; none
    without a file.

    Raises:
        ValueError: it is no JSON object; the message has nothing of what the file holds, which may
            be a password. Or the environment holds the options themselves.
    """
    options = dict(file.value or {}) if isinstance(file, FromSettings) else _options_in(file)
    return {name: value for name, value in options.items() if known is None or name in known}


def _options_in(file: str | None) -> dict[str, Any]:
    (option,) = [each for each in options_of(WORKER) if each.name == "kafka"]
    for name in option.value_variables:
        if name in os.environ:
            raise ValueError(
                f"the environment has {name}: `kq` reads options of kafka-python from a JSON file."
                f" Give its path as {option.variable}"
            )
    if file is None:
        return {}
    try:
        options = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--kafka-file={file}: no JSON ({type(error).__name__})") from None
    if not isinstance(options, dict):
        raise ValueError(
            f'--kafka-file={file}: no JSON object such as {{"sasl_mechanism": "SCRAM-SHA-256"}}'
        )
    return options
