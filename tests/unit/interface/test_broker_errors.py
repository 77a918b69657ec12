"""What kafka-python raises becomes one of embedkq's errors in one place; tests/test_security.py
looks at it on a broker, at every door."""

from __future__ import annotations

import pickle

import pytest
from kafka import errors as kafka_errors

from embedkq._clients.broker_errors import (
    AWAY,
    Asked,
    connect,
    explained,
    explaining,
    hidden,
    no_topic,
)
from embedkq.errors import BrokerRefused, BrokerUnavailable, EmbedkqError

READING = Asked("a:1", "READ", "jobs", "shop")


@pytest.mark.parametrize(
    ("error", "asked", "text"),
    [
        (
            kafka_errors.TopicAuthorizationFailedError({"jobs"}),
            READING,
            "this user may not read topic 'jobs' at a:1 (TopicAuthorizationFailedError): grant it READ on topic 'jobs'",
        ),
        (
            kafka_errors.GroupAuthorizationFailedError("shop"),
            READING,
            "this user may not read group 'shop' at a:1 (GroupAuthorizationFailedError): grant it READ on group 'shop'",
        ),
        (
            kafka_errors.TransactionalIdAuthorizationFailedError(),
            Asked("a:1", "READ", group="shop"),
            "this user may not read group 'shop' at a:1 (TransactionalIdAuthorizationFailedError): grant it READ on group 'shop'",
        ),
        (
            kafka_errors.ClusterAuthorizationFailedError(),
            Asked("a:1", "CREATE", "jobs"),
            "this user may not create topic 'jobs' at a:1 (ClusterAuthorizationFailedError): grant it CREATE on topic 'jobs'",
        ),
        (
            kafka_errors.KafkaError("TopicAuthorizationFailedError: jobs"),
            Asked("a:1", "WRITE", "jobs"),  # as a producer wraps it
            "this user may not write to topic 'jobs' at a:1 (KafkaError): grant it WRITE on topic 'jobs'",
        ),
        (
            kafka_errors.GroupAuthorizationFailedError(),
            Asked("a:1", "DESCRIBE"),
            "this user may not see all groups at a:1 (GroupAuthorizationFailedError): grant it DESCRIBE on all groups",
        ),
        (kafka_errors.UnknownTopicOrPartitionError(), READING, "there is no topic 'jobs' at a:1"),
    ],
)
def test_what_trying_again_does_not_cure_is_refused_with_the_cure(
    error: Exception, asked: Asked, text: str
) -> None:
    told = explained(error, asked)
    assert type(told) is BrokerRefused and str(told) == text and told.__cause__ is error
    assert str(pickle.loads(pickle.dumps(told))) == text


@pytest.mark.parametrize(
    "kind",
    [
        kafka_errors.SaslAuthenticationFailedError,
        kafka_errors.InconsistentGroupProtocolError,
        kafka_errors.InvalidTopicError,
        kafka_errors.UnsupportedVersionError,
        kafka_errors.FencedInstanceIdError,
        kafka_errors.InvalidSessionTimeoutError,
    ],
)
def test_nor_are_these_cured_by_trying_again(kind: type[kafka_errors.KafkaError]) -> None:
    told = explained(kind("why"), READING)
    assert type(told) is BrokerRefused and "a:1" in str(told)


@pytest.mark.parametrize("kind", AWAY)
def test_a_broker_or_coordinator_that_is_away_is_unavailable(
    kind: type[kafka_errors.KafkaError],
) -> None:
    with pytest.raises(BrokerUnavailable) as caught, explaining(READING):
        raise kind("gone")
    assert (caught.value.hosts, caught.value.reason, caught.value.maybe_sent) == (
        "a:1",
        f"no answer in time ({kind.__name__})",
        False,
    )


def test_other_errors_are_told_as_they_are() -> None:
    told = explained(kafka_errors.UnknownError("odd"), READING)
    assert (
        type(told) is EmbedkqError
        and str(told).startswith("the broker at a:1 refuses: ")
        and "odd" in str(told)
    )
    for other in (ValueError("mine"), BrokerRefused("mine"), KeyboardInterrupt()):
        assert explained(other, READING) is other


def test_a_topic_that_is_hidden_or_not_there() -> None:
    assert (
        str(hidden(Asked("a:1", "DESCRIBE", "jobs")))
        == "this user may not see topic 'jobs' at a:1: grant it DESCRIBE on that topic"
    )
    assert str(hidden(READING)).endswith("grant it READ on topic 'jobs'")
    assert str(no_topic(READING, "create it")) == "there is no topic 'jobs' at a:1: create it"


def failing(error: Exception) -> object:
    raise error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (kafka_errors.KafkaTimeoutError(), BrokerUnavailable),
        (kafka_errors.UnrecognizedBrokerVersion(), BrokerUnavailable),
        (kafka_errors.SaslAuthenticationFailedError("no"), BrokerRefused),
        (kafka_errors.KafkaConfigurationError("odd"), ValueError),
        (OSError(24, "Too many open files"), OSError),
    ],
)
def test_a_client_that_cannot_be_made(error: Exception, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        connect(lambda: failing(error), "127.0.0.1:1", {}, 3)
    assert type(caught.value) is kind
    assert kind is not BrokerUnavailable or str(caught.value).startswith(
        "no Kafka broker at 127.0.0.1:1: no answer within 3 s"
    )
