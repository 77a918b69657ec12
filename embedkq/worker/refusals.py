"""What a broker refuses for good, said so that a user knows what to change. Any thread."""
from __future__ import annotations

from kafka import errors as kafka_errors

from embedkq.errors import BrokerRefused
from embedkq.probe import CREDENTIALS


def explained(error: BaseException, hosts: str, topic: str, group: str) -> BaseException:
    """`BrokerRefused` with the cure where a broker does not let a worker log in, read or join; other errors as they are."""
    text = _text_of(error, hosts, topic, group)
    if text is None:
        return error
    told = BrokerRefused(text)
    told.__cause__ = error
    return told


def hidden(hosts: str, topic: str) -> BaseException:
    """Of a topic that this user may not see."""
    return explained(kafka_errors.TopicAuthorizationFailedError({topic}), hosts, topic, "")


def _text_of(error: BaseException, hosts: str, topic: str, group: str) -> str | None:
    if isinstance(error, kafka_errors.SaslAuthenticationFailedError):
        return f"{hosts} refuses to log in: {str(error).rpartition(': ')[2]}. {CREDENTIALS}"
    if isinstance(error, kafka_errors.InconsistentGroupProtocolError):
        return (
            f"group {group!r} at {hosts} has members that are no workers of embedkq, or that were started with another "
            "partition_assignment_strategy: give group=... a name that no other program uses"
        )
    if not isinstance(error, kafka_errors.AuthorizationError):
        return None
    if isinstance(error, kafka_errors.GroupAuthorizationFailedError):
        lacking = f"group {group!r}"
    elif isinstance(error, kafka_errors.TopicAuthorizationFailedError):
        lacking = f"topic {topic!r}"
    else:
        lacking = f"topic {topic!r} and group {group!r}"
    return f"this user may not read {lacking} at {hosts} ({type(error).__name__}): grant it READ on {lacking}"
