"""Options for a client of kafka-python: TLS files, and what `kafka` names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from embedkq._options.names import did_you_mean

_PLAIN_PROTOCOLS = ("PLAINTEXT", "SASL_PLAINTEXT")
_SASL_PROTOCOLS = ("SASL_PLAINTEXT", "SASL_SSL")
_PROTOCOLS = (*_PLAIN_PROTOCOLS, "SSL", "SASL_SSL")
_CREDENTIALS = ("sasl_plain_username", "sasl_plain_password", "sasl_oauth_token_provider")


class TLSFiles(NamedTuple):
    """Paths of PEM files, as `Queue` and `Worker` take them."""

    cafile: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    crlfile: str | None = None


def client_config(
    files: TLSFiles,
    kafka: Mapping[str, Any] | None,
    *,
    owned: Iterable[str],
    known: Iterable[str],
    owner: str,
) -> dict[str, Any]:
    """Options for a client of kafka-python: the TLS files by their names there, and `kafka`.

    A file given means TLS: never silently plaintext.

    Args:
        owned: options that embedkq sets itself.
        known: options that the client knows.
        owner: class for messages, "Queue" or "Worker".

    Raises:
        TypeError, ValueError: an option is unknown, taken, or contradicts the TLS files.
        FileNotFoundError: a TLS file is not there.
    """
    from embedkq._clients import tls  # here, since the help of `kq` needs no TLS

    config = _check_options(kafka, frozenset(owned), frozenset(known), owner)
    given = _paths_of(files)
    named = [option for option in tls.FILE_OPTIONS.values() if config.get(option) is not None]
    if (given or named) and "ssl_context" in config:
        raise ValueError(
            f"{[*given, *named][0]} and kafka={{'ssl_context': ...}}: a context brings its own"
            " files; give one of them"
        )
    _add_files(config, given, tls.FILE_OPTIONS)
    if given or named or config.get("ssl_context") is not None:
        _choose_tls(config)
        if "ssl_crlfile" in config:
            # kafka-python 3.0.12 hands it to Python by a name that Python refuses
            tls.tls_context(config)
            config["ssl_context"] = tls.ContextFromFiles(dict(config))
    _check_sasl(config)
    return config


def _add_files(
    config: dict[str, Any], given: Mapping[str, str], options: Mapping[str, str]
) -> None:
    for name, path in given.items():
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{name}={path!r}: no such file")
        if options[name] in config:
            raise ValueError(
                f"{name} and kafka={{{options[name]!r}: ...}} are the same: give one of them"
            )
        config[options[name]] = path
    if "keyfile" in given and "certfile" not in given:
        raise ValueError(
            f"keyfile={given['keyfile']!r} without certfile: give the certificate that belongs to"
            " the key"
        )


def is_protected(config: Mapping[str, Any]) -> bool:
    """Whether these options of a client have it use TLS, or log in."""
    return any(
        option.startswith(("security_", "ssl_", "sasl_")) and config[option] is not None
        for option in config
    )


def _check_sasl(config: Mapping[str, Any]) -> None:
    """Refuse what would leave a password unused, or send it in the clear without being asked to."""
    protocol, mechanism = config.get("security_protocol"), config.get("sasl_mechanism")
    if mechanism and protocol is None:
        raise ValueError(
            "kafka={'sasl_mechanism': ...} needs a protocol: give cafile for SASL over TLS, or say"
            " 'security_protocol': 'SASL_SSL' (or 'SASL_PLAINTEXT', which sends passwords in the"
            " clear)"
        )
    if mechanism and protocol not in _SASL_PROTOCOLS:
        raise ValueError(
            f"kafka={{'sasl_mechanism': ..., 'security_protocol': {protocol!r}}} would log in"
            " nowhere: say 'SASL_SSL'"
        )
    if not mechanism and (
        protocol in _SASL_PROTOCOLS
        or any(config.get(option) is not None for option in _CREDENTIALS)
    ):
        raise ValueError(
            "kafka={...} has a password or a protocol with one, and no 'sasl_mechanism': give it,"
            " such as 'SCRAM-SHA-256'"
        )


def _paths_of(files: TLSFiles) -> dict[str, str]:
    given = {name: path for name, path in files._asdict().items() if path is not None}
    return {name: _path_of(name, path) for name, path in given.items()}


def _path_of(name: str, path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be the path of a file, not {path!r}")
    return str(os.fspath(path))


def _choose_tls(config: dict[str, Any]) -> None:
    protocol = config.get("security_protocol")
    if protocol in _PLAIN_PROTOCOLS:
        raise ValueError(
            f"TLS files are given, and kafka={{'security_protocol': {protocol!r}}} would not use"
            " them: leave one of them out"
        )
    if protocol is None:
        config["security_protocol"] = "SASL_SSL" if config.get("sasl_mechanism") else "SSL"


def _check_options(
    kafka: Mapping[str, Any] | None, owned: frozenset[str], known: frozenset[str], owner: str
) -> dict[str, Any]:
    if kafka is None:
        return {}
    if not isinstance(kafka, Mapping):
        raise TypeError(f"kafka must be a dict of kafka-python options, not {kafka!r}")
    for option in kafka:
        if option in owned:
            raise ValueError(
                f"kafka={{{option!r}: ...}}: {owner} sets this itself; see its own arguments"
            )
        if option not in known:
            raise ValueError(
                f"kafka={{{option!r}: ...}}: kafka-python knows no such option"
                + did_you_mean(str(option), known)
            )
    protocol = kafka.get("security_protocol")
    if protocol is not None and protocol not in _PROTOCOLS:
        raise ValueError(
            f"kafka={{'security_protocol': {protocol!r}}}: must be one of {', '.join(_PROTOCOLS)}"
        )
    return dict(kafka)
