"""Checks of what users pass to Queue, Worker and the command line: one place, one wording."""

from __future__ import annotations

import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from embedkq._clients.tls import FILE_OPTIONS as _TLS_OPTIONS
from embedkq._clients.tls import ContextFromFiles, tls_context
from embedkq.errors import type_name

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}").fullmatch
_PLAIN_PROTOCOLS = ("PLAINTEXT", "SASL_PLAINTEXT")
_SASL_PROTOCOLS = ("SASL_PLAINTEXT", "SASL_SSL")
_PROTOCOLS = (*_PLAIN_PROTOCOLS, "SSL", "SASL_SSL")
_CREDENTIALS = ("sasl_plain_username", "sasl_plain_password", "sasl_oauth_token_provider")


def check_hosts(hosts: str | Sequence[str]) -> str:
    """Comma-separated "host:port"; the port is 9092 where none is given.

    Raises:
        TypeError, ValueError: it is no such thing.
    """
    if not isinstance(hosts, (str, list, tuple)):
        raise TypeError(f'hosts must be a string such as "host:9092,host:9093", not {hosts!r}')
    if not all(isinstance(host, str) for host in hosts):
        raise TypeError(f"hosts={hosts!r}: each must be a string")
    if not hosts:
        raise ValueError(f"hosts={hosts!r}: at least one is needed")
    named = [host.strip() for host in (hosts.split(",") if isinstance(hosts, str) else hosts)]
    return ",".join(_check_host(host, hosts) for host in named)


def _check_host(host: str, hosts: Any) -> str:
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name, port = host, "9092"
    if (
        not name
        or any(c.isspace() or c in "/,@" for c in name)
        or not (port.isdecimal() and 0 < int(port) < 65536)
    ):
        raise ValueError(f'hosts={hosts!r}: {host!r} is no "host:port"')
    return f"{name}:{port}"


def check_topic(topic: str, name: str = "topic") -> str:
    """A name that Kafka takes for a topic.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(topic, str):
        raise TypeError(f"{name} must be a string, not {topic!r}")
    if not _TOPIC(topic) or topic in (".", ".."):
        raise ValueError(
            f"{name}={topic!r}: Kafka takes 1 to 249 of the characters a-z A-Z 0-9 . _ -"
        )
    return topic


def check_group(group: str) -> str:
    """Name of a consumer group: any string that is not empty.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(group, str):
        raise TypeError(f"group must be a string, not {group!r}")
    if not group:
        raise ValueError("group='': a consumer group needs a name; None stands for the topic's")
    return group


def check_timeout(timeout: float | None, name: str = "timeout") -> float | None:
    """Seconds above 0, or None for no limit.

    Raises:
        TypeError, ValueError: it is none of these.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {timeout!r}")
    if not 0 < timeout <= sys.float_info.max:
        raise ValueError(
            f"{name}={timeout!r}: a limit is a finite number of seconds above 0, or None for no"
            " limit"
        )
    return timeout


def check_count(name: str, value: int, minimum: int) -> int:
    """A whole number of at least `minimum`.

    Raises:
        TypeError, ValueError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < minimum:
        raise ValueError(f"{name}={value!r}: must be at least {minimum}")
    return value


def check_retries(retries: int | None) -> int | None:
    """How often a job may run again, or None.

    Raises:
        TypeError, ValueError: it is neither.
    """
    return None if retries is None else check_count("retries", retries, 0)


def check_backoff(backoff: float | None) -> float | None:
    """Seconds above 0, or None.

    Raises:
        TypeError, ValueError: it is neither.
    """
    return check_timeout(backoff, "backoff")


def check_retry_on(exceptions: Iterable[Any] | None) -> frozenset[str] | None:
    """Names of exceptions, as outcomes tell them; None for all exceptions.

    Raises:
        TypeError, ValueError: it is no sequence of exception classes and dotted names.
    """
    if exceptions is None:
        return None
    if isinstance(exceptions, (str, type)) or not isinstance(exceptions, Iterable):
        raise TypeError(
            "retry_on must be a list of exception classes or dotted names, [OSError,"
            f' "requests.Timeout"], not {exceptions!r}'
        )
    names = frozenset(_name_of_exception(exception) for exception in exceptions)
    if not names:
        raise ValueError(
            "retry_on=[]: nothing would be run again; None stands for all exceptions, retries=0 for"
            " none"
        )
    return names


def _name_of_exception(exception: Any) -> str:
    if isinstance(exception, type) and issubclass(exception, BaseException):
        return type_name(exception)
    if not isinstance(exception, str) or not all(
        part.isidentifier() or part == "<locals>" for part in exception.split(".")
    ):
        raise TypeError(
            f"retry_on: {exception!r} is neither an exception class nor the dotted name of one"
        )
    return exception.removeprefix("builtins.")


def check_job_size(job_size: int) -> int:
    """Bytes of the largest record.

    Raises:
        TypeError, ValueError: no whole number above 0.
    """
    return check_count("job_size", job_size, 1)


def check_key(key: str | bytes | None) -> bytes | None:
    """A record's key in bytes; strings become UTF-8.

    Raises:
        TypeError: it is neither a string, nor bytes, nor None.
    """
    if key is None or isinstance(key, bytes):
        return key
    if not isinstance(key, str):
        raise TypeError(f"key must be a string, bytes or None, not {key!r}")
    try:
        return key.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"key={key!r}: UTF-8 cannot carry it ({error.reason}); give bytes"
        ) from None


def check_partition(partition: int | None) -> int | None:
    """Number of a partition, or None.

    Raises:
        TypeError, ValueError: it is neither.
    """
    return None if partition is None else check_count("partition", partition, 0)


def check_offset_policy(policy: str) -> str:
    """ "earliest" or "latest".

    Raises:
        ValueError: it is neither.
    """
    if policy not in ("earliest", "latest"):
        raise ValueError(f"offset_policy={policy!r}: must be 'earliest' or 'latest'")
    return policy


def check_callback(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A callable that takes five positional arguments.

    Raises:
        TypeError: it is none.
    """
    if not callable(callback):
        raise TypeError(f"callback must be callable, not {callback!r}")
    try:
        signature = inspect.signature(callback)
    except (ValueError, TypeError):  # some builtins tell nothing
        return callback
    try:
        signature.bind(*range(5))
    except TypeError as error:
        raise TypeError(
            "callback must take five positional arguments, callback(status, job, result,"
            f" exception, traceback); {getattr(callback, '__qualname__', callback)!r} takes"
            f" {signature}: {error}"
        ) from None
    return callback


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
    config = _check_options(kafka, frozenset(owned), frozenset(known), owner)
    given = {name: path for name, path in files._asdict().items() if path is not None}
    given = {name: _path_of(name, path) for name, path in given.items()}
    named = [option for option in _TLS_OPTIONS.values() if config.get(option) is not None]
    if (given or named) and "ssl_context" in config:
        raise ValueError(
            f"{[*given, *named][0]} and kafka={{'ssl_context': ...}}: a context brings its own"
            " files; give one of them"
        )
    _add_files(config, given)
    if given or named or config.get("ssl_context") is not None:
        _choose_tls(config)
        if "ssl_crlfile" in config:
            # kafka-python 3.0.12 hands it to Python by a name that Python refuses
            tls_context(config)
            config["ssl_context"] = ContextFromFiles(dict(config))
    _check_sasl(config)
    return config


def _add_files(config: dict[str, Any], given: Mapping[str, str]) -> None:
    for name, path in given.items():
        if not os.path.isfile(path):
            raise FileNotFoundError(f"{name}={path!r}: no such file")
        if _TLS_OPTIONS[name] in config:
            raise ValueError(
                f"{name} and kafka={{{_TLS_OPTIONS[name]!r}: ...}} are the same: give one of them"
            )
        config[_TLS_OPTIONS[name]] = path
    if "keyfile" in given and "certfile" not in given:
        raise ValueError(
            f"keyfile={given['keyfile']!r} without certfile: give the certificate that belongs to"
            " the key"
        )


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of the known names that somebody who wrote `name` may have meant; None if none is
    close."""
    import difflib

    known = sorted(known)
    begun = [each for each in known if each.startswith(name)]
    return next(iter(begun or difflib.get_close_matches(name, known, 1)), None)


def is_protected(config: Mapping[str, Any]) -> bool:
    """Whether these options of a client have it use TLS, or log in."""
    return any(
        option.startswith(("security_", "ssl_", "sasl_")) and config[option] is not None
        for option in config
    )


def _check_sasl(config: Mapping[str, Any]) -> None:
    """Refuse what would leave a password unused, or send it in the clear without being told to."""
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
            close = nearest(str(option), known)
            hint = f"; did you mean {close!r}?" if close else ""
            raise ValueError(f"kafka={{{option!r}: ...}}: kafka-python knows no such option{hint}")
    protocol = kafka.get("security_protocol")
    if protocol is not None and protocol not in _PROTOCOLS:
        raise ValueError(
            f"kafka={{'security_protocol': {protocol!r}}}: must be one of {', '.join(_PROTOCOLS)}"
        )
    return dict(kafka)
