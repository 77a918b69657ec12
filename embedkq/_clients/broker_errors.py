"""Converts errors of kafka-python into embedkq's, so that the same fault always has the same error
and message. Any thread.

kafka-python raises about a hundred kinds of errors, and wraps some in others. Code that uses a
client passes the error and a description of the request to this module, and raises the result.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from kafka import errors as kafka_errors

from embedkq._clients.probe import CREDENTIALS, look_for_reason, refuse_early
from embedkq.errors import BrokerRefused, BrokerUnavailable, EmbedkqError

T = TypeVar("T")

AWAY = (
    kafka_errors.KafkaTimeoutError,
    kafka_errors.KafkaConnectionError,
    kafka_errors.NodeNotReadyError,
    kafka_errors.RequestTimedOutError,
    kafka_errors.CoordinatorNotAvailableError,
    kafka_errors.CoordinatorLoadInProgressError,
    kafka_errors.NotCoordinatorError,
    kafka_errors.NotLeaderForPartitionError,
)
"""Errors that mean: no answer for now, or not from this broker."""
_NO_RIGHT = "AuthorizationFailedError"
_VERBS = {
    "READ": "read",
    "WRITE": "write to",
    "DESCRIBE": "see",
    "CREATE": "create",
    "DELETE": "delete",
}
_REFUSED = (
    kafka_errors.InvalidTopicError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.FencedInstanceIdError,
    kafka_errors.InvalidSessionTimeoutError,
    kafka_errors.PolicyViolationError,
)
"""Further errors that a retry does not fix."""


class Asked(NamedTuple):
    """A request to a broker.

    Attributes:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        right: the permission that the request needs: READ, WRITE, DESCRIBE, CREATE or DELETE.
        topic, group: the objects of the request; None for all, or none.
    """

    hosts: str
    right: str
    topic: str | None = None
    group: str | None = None


def explained(error: BaseException, asked: Asked) -> BaseException:
    """The error to raise instead of an error of kafka-python, which becomes its cause. Other errors
    are returned unchanged."""
    if not isinstance(error, kafka_errors.KafkaError):
        return error
    result: EmbedkqError | None = refusal(error, asked)
    if result is None and isinstance(error, AWAY):
        result = BrokerUnavailable(asked.hosts, f"no answer in time ({type(error).__name__})")
    if result is None:
        result = EmbedkqError(f"the broker at {asked.hosts} refuses: {error}")
    result.__cause__ = error
    return result


@contextmanager
def explaining(asked: Asked) -> Iterator[None]:
    """Raise what `explained` returns."""
    try:
        yield
    except kafka_errors.KafkaError as error:
        raise explained(error, asked) from error


def refusal(error: BaseException, asked: Asked) -> BrokerRefused | None:
    """The error to raise if the broker refuses and a retry does not help; None for other errors."""
    text = _refusal_of(error, asked)
    if text is None:
        return None
    refused = BrokerRefused(text)
    refused.__cause__ = error
    return refused


def _refusal_of(error: BaseException, asked: Asked) -> str | None:
    if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
        return f"{asked.hosts} refuses the login: {str(error).rpartition(': ')[2]}. {CREDENTIALS}"
    if isinstance(error, kafka_errors.InconsistentGroupProtocolError):
        return (
            f"group {asked.group!r} at {asked.hosts} has members that are not workers of embedkq,"
            " or that use another partition_assignment_strategy: set group=... to a name that no"
            " other program uses"
        )
    if (
        isinstance(error, kafka_errors.AuthorizationError)
        or _NO_RIGHT in f"{type(error).__name__}: {error}"
    ):  # wrapped in another error
        lacking = _what_of(error, asked)
        return (
            # the error's text may be a request
            f"this user may not {_VERBS[asked.right]} {lacking} at {asked.hosts}"
            f" ({type(error).__name__}): grant it {asked.right} on {lacking}"
        )
    if isinstance(error, kafka_errors.UnknownTopicOrPartitionError) and asked.topic is not None:
        return no_topic(asked).args[0]  # type: ignore[no-any-return]
    return f"the broker at {asked.hosts} refuses: {error}" if isinstance(error, _REFUSED) else None


def _what_of(error: BaseException, asked: Asked) -> str:
    topic = "all topics" if asked.topic is None else f"topic {asked.topic!r}"
    group = "all groups" if asked.group is None else f"group {asked.group!r}"
    if isinstance(error, kafka_errors.GroupAuthorizationFailedError):
        return group
    if isinstance(error, kafka_errors.TopicAuthorizationFailedError) or asked.group is None:
        return topic
    return group if asked.topic is None else f"{topic} and {group}"


def hidden(asked: Asked) -> BrokerRefused:
    """The error for a topic that the user may not see. Such a topic looks like a missing one, and
    kafka-python 3.0.12 does not report the difference."""
    if asked.right != "DESCRIBE":
        return BrokerRefused(_refusal_of(kafka_errors.TopicAuthorizationFailedError(), asked))
    return BrokerRefused(
        f"this user may not see topic {asked.topic!r} at {asked.hosts}: grant it DESCRIBE on that"
        " topic"
    )


def no_topic(asked: Asked, cure: str = "") -> BrokerRefused:
    """The error for a topic that does not exist."""
    return BrokerRefused(f"there is no topic {asked.topic!r} at {asked.hosts}{cure and ': '}{cure}")


def connect(make: Callable[[], T], hosts: str, options: Mapping[str, Any], seconds: float) -> T:
    """Create a client of kafka-python, which connects in its constructor.

    Args:
        options: the client's options.
        seconds: the time limit, for the message.

    Raises:
        BrokerUnavailable: no broker answered.
        BrokerRefused: the broker does not accept the certificates or passwords.
        ValueError: a TLS file is invalid, or an option of kafka-python has an invalid value.
    """
    refuse_early(hosts, options)
    try:
        return make()
    except kafka_errors.KafkaConfigurationError as error:
        raise ValueError(f"kafka={{...}}: {error}") from error
    except (kafka_errors.KafkaError, ssl.SSLError) as error:
        reason = look_for_reason(hosts, options)
        refused = (
            reason.as_error(hosts)
            if reason is not None
            else refusal(error, Asked(hosts, "DESCRIBE"))
        )
        raise refused or BrokerUnavailable(
            hosts, f"no answer within {seconds:g} s ({type(error).__name__})"
        ) from error
