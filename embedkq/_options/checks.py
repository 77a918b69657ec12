"""Checks of values that users pass: each returns what it accepts, and raises otherwise, with name
and value in the message."""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embedkq._options.names import did_you_mean
from embedkq.errors import type_name

if TYPE_CHECKING:
    from embedkq._formats.signing import Secret, Signer

SERIALIZERS = ("pickle", "json")
DECODERS = ("record", "bytes", "json")
"""What a worker's handler may receive, by name: the record, its value, or its value as JSON."""

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}").fullmatch


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
    """Names of exceptions, as outcomes have them; None for all exceptions.

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


def check_headers(headers: Mapping[str, str] | None) -> tuple[tuple[str, bytes], ...]:
    """A job's headers, as a record has them.

    Raises:
        TypeError, ValueError: they cannot be headers.
    """
    if not headers and (headers is None or isinstance(headers, Mapping)):
        return ()
    from embedkq._formats import user_headers  # here, since few queues have any

    return user_headers.encode(headers)


def check_offset_policy(policy: str) -> str:
    """ "earliest" or "latest".

    Raises:
        ValueError: it is neither.
    """
    if policy not in ("earliest", "latest"):
        raise ValueError(f"offset_policy={policy!r}: must be 'earliest' or 'latest'")
    return policy


def check_serializer(serializer: str) -> str:
    """ "pickle" or "json".

    Raises:
        ValueError: it is neither; the message names the nearest one.
    """
    if serializer not in SERIALIZERS:
        hint = did_you_mean(str(serializer), SERIALIZERS)
        raise ValueError(f"serializer={serializer!r}: must be 'pickle' or 'json'{hint}")
    return serializer


def check_callback(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A callable that takes five positional arguments.

    Raises:
        TypeError: it is none.
    """
    if not callable(callback):
        raise TypeError(f"callback must be callable, not {callback!r}")
    try:
        signature = inspect.signature(callback)
    except (ValueError, TypeError):  # some builtins have no signature
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


def check_handler(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A callable that takes one positional argument.

    Raises:
        TypeError: it is none.
    """
    return _check_takes_one(handler, "handler", "handler(value)")


def check_decode(decode: Any) -> Any:
    """A name of `DECODERS`, or a callable that takes one positional argument. `json.loads` is
    "json".

    Raises:
        TypeError, ValueError: it is neither; the message names the nearest name.
    """
    if decode is json.loads:
        return "json"
    if isinstance(decode, str):
        if decode not in DECODERS:
            names = ", ".join(map(repr, DECODERS))
            raise ValueError(
                f"decode={decode!r}: must be one of {names}, or a function of the value's bytes"
                + did_you_mean(decode, DECODERS)
            )
        return decode
    if inspect.iscoroutinefunction(decode):
        raise TypeError(f"decode={decode!r} is `async def`: make it a plain `def`")
    return _check_takes_one(decode, "decode", "decode(value)")


def _check_takes_one(function: Any, name: str, call: str) -> Callable[..., Any]:
    if not callable(function):
        raise TypeError(f"{name} must be callable, as {call}, not {function!r}")
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # some builtins have no signature
        return function  # type: ignore[no-any-return]
    try:
        signature.bind(None)
    except TypeError as error:
        raise TypeError(
            f"{name} must take one positional argument, {call};"
            f" {getattr(function, '__qualname__', function)!r} takes {signature}: {error}"
        ) from None
    return function  # type: ignore[no-any-return]


def check_handoff(handoff: Callable[..., Any]) -> Callable[..., Any]:
    """A callable that has the owner run a function.

    Raises:
        TypeError: it is none.
    """
    if not callable(handoff):
        raise TypeError(
            f"handoff must be a callable that has the owner run a function, not {handoff!r}"
        )
    return handoff


def check_initializer(initializer: Callable[..., Any]) -> Callable[..., Any]:
    """A callable that is no coroutine function.

    Raises:
        TypeError: it is none.
    """
    if not callable(initializer):
        raise TypeError(f"initializer must be callable, not {initializer!r}")
    if inspect.iscoroutinefunction(initializer):
        raise TypeError(
            f"initializer={initializer!r} is `async def`, and would not be awaited: make it a"
            " plain `def`"
        )
    return initializer


def check_initargs(initargs: Iterable[Any]) -> tuple[Any, ...]:
    """Arguments, as a tuple.

    Raises:
        TypeError: it is no iterable.
    """
    if not isinstance(initargs, Iterable):
        raise TypeError(f"initargs must be a tuple of arguments, not {initargs!r}")
    return tuple(initargs)


def check_secret(secret: Any) -> Any:
    """Something that a `Signer` may read as one secret or several. The message never holds it.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(secret, (os.PathLike, Iterable)):  # texts are iterable, too
        raise TypeError(
            "secret must be a string, bytes, a pathlib.Path or a list of these, not a"
            f" {type(secret).__name__}"
        )
    return secret


def make_signer(secret: Secret | Sequence[Secret] | None) -> Signer | None:
    """Signs and checks records with this secret or these; None without any.

    Raises:
        TypeError, ValueError: as `Signer`.
    """
    if secret is None:
        return None
    from embedkq._formats.signing import Signer  # here, since few queues and workers have a secret

    return Signer(secret)


def check_flag(flag: bool, name: str) -> bool:
    """True or False.

    Raises:
        TypeError: it is neither.
    """
    if not isinstance(flag, bool):
        raise TypeError(f"{name} must be True or False, not {flag!r}")
    return flag


def check_text(text: str, name: str) -> str:
    """A string.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string, not {text!r}")
    return text
