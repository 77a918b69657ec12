"""Retries dead letters: puts them back on their topics of origin.

A signed letter is signed again, but only if its signature is valid. So a forged letter never
receives a valid signature here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from embedkq import _options
from embedkq._clients.producer import Message, Producer
from embedkq._clients.reader import TopicReader
from embedkq._formats import headers
from embedkq._formats.dead_letter import DeadLetter, Record
from embedkq._formats.signing import Signer
from embedkq._partition import Partition
from embedkq.dlq.letters import Letter
from embedkq.errors import (
    BrokerUnavailable,
    EmbedkqError,
    JobTooLarge,
    LetterRefused,
    SignatureRefused,
)

_LARGEST = 2**30
"""Bytes. The broker enforces the topic's own limit."""


class Retry:
    """Puts letters of one dead-letter topic back on their topics. One thread at a time.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: the dead-letter topic.
        signer: has the secrets; None without secrets.
        consumer_options, producer_options: further options of kafka-python's clients.
        every_group: put letters back for all consumer groups of their topic, not only for the group
            where the job failed.
    """

    done = "retried"

    def __init__(
        self,
        hosts: str,
        topic: str,
        signer: Signer | None,
        consumer_options: Mapping[str, Any],
        producer_options: Mapping[str, Any],
        *,
        every_group: bool = False,
    ) -> None:
        self._topic = topic
        self._every_group = every_group
        self._signer = signer
        self._origins = _Origins(hosts, consumer_options)
        self._producer = Producer(hosts, _LARGEST, {"linger_ms": 5, **producer_options})

    def __enter__(self) -> Retry:
        return self

    def __exit__(self, *exception: object) -> None:
        self._origins.close()
        self._producer.close()

    def __call__(self, letters: Sequence[Letter]) -> list[EmbedkqError | None]:
        """Put letters back and wait until all replicas have them. Returns for each one why it
        failed, or None.

        Raises:
            BrokerUnavailable, EmbedkqError: a topic cannot be inspected. Then no letter was put
                back.
        """
        outcomes: list[EmbedkqError | None] = [None] * len(letters)
        messages: dict[int, Message] = {}
        for index, letter in enumerate(letters):
            try:
                messages[index] = self._message_of(letter)
            except (LetterRefused, SignatureRefused) as error:
                outcomes[index] = error
        failures = self._send(messages)
        if any(isinstance(failure, JobTooLarge) for failure in failures.values()):
            # Letters in flight beside one that is too large fail with it. Send them again.
            again = {
                index: messages[index]
                for index, failure in failures.items()
                if isinstance(failure, BrokerUnavailable)
            }
            failures = {
                index: failure for index, failure in failures.items() if index not in again
            } | self._send(again)
        for index, failure in failures.items():
            outcomes[index] = failure
        return outcomes

    def _send(self, messages: Mapping[int, Message]) -> dict[int, EmbedkqError]:
        indexes = list(messages)
        failures = self._producer.send_all(list(messages.values()))
        return {
            indexes[number]: (
                failure
                if isinstance(failure, EmbedkqError)
                else LetterRefused(f"sending it failed: {failure}")
            )
            for number, failure in failures.items()
        }

    def _message_of(self, letter: Letter) -> Message:
        dead = letter.dead
        if dead is None:
            raise LetterRefused(f"{letter.problem}. You can only drop it")
        try:
            _options.check_topic(dead.topic)
        except ValueError:
            raise LetterRefused(
                f"its topic of origin, {dead.topic!r}, is not a valid topic name"
            ) from None
        if dead.topic == self._topic:
            raise LetterRefused(
                f"its topic of origin is the dead-letter topic {self._topic!r} itself, from which"
                " no worker takes jobs"
            )
        partitions = self._origins.partitions(dead.topic)
        if not partitions:
            raise LetterRefused(
                f"its topic of origin, {dead.topic!r}, does not exist (any more): create the"
                " topic, or drop the letter"
            )
        record = self._origins.record(letter, dead) if dead.pointer else letter.original
        # With a key, the key selects the partition, even if partitions were added meanwhile.
        partition = dead.partition if record.key is None and dead.origin in partitions else None
        own = headers.for_group(
            restored(record, dead, self._signer), "" if self._every_group else dead.group
        )
        return Message(dead.topic, record.value, record.key, own, partition)


def restored(record: Record, dead: DeadLetter, signer: Signer | None) -> list[tuple[str, bytes]]:
    """The headers for a record that goes back to its topic. Pure.

    Args:
        record: the record without the headers of a dead letter.

    Raises:
        LetterRefused: the record needs a secret.
        SignatureRefused: its signature is not valid.
    """
    if not headers.is_signed(record.headers):
        if signer is not None and dead.reason == "refused":
            raise LetterRefused(
                "it was refused because it is not signed: its sender has no secret. Drop it, or"
                " enqueue the job again"
            )
        return headers.put_back(record.headers)
    if signer is None:
        raise LetterRefused(
            "it is signed and must be signed again: set --secret-file or EMBEDKQ_SECRET"
        )
    try:
        signer.check(dead.topic, record.key, record.headers, record.value)
    except SignatureRefused as error:
        raise SignatureRefused(
            f"{error}. It cannot be signed again: add the secret that it was signed with as"
            " another --secret-file, or drop it"
        ) from None
    unsigned = headers.put_back(record.headers, int(time.time() * 1000))
    return signer.sign(dead.topic, record.key, unsigned, record.value)


def _with_values(own: Iterable[tuple[str, bytes | None]]) -> list[tuple[str, bytes]]:
    return [(name, value or b"") for name, value in own]


class _Origins:
    """The letters' topics of origin."""

    def __init__(self, hosts: str, options: Mapping[str, Any]) -> None:
        self._hosts = hosts
        self._options = options
        self._client: TopicReader | None = None
        self._partitions: dict[str, frozenset[Partition]] = {}

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def partitions(self, topic: str) -> frozenset[Partition]:
        """A topic's partitions; empty if the topic does not exist."""
        if topic not in self._partitions:
            self._partitions[topic] = frozenset(self._connected().logs(topic))
        return self._partitions[topic]

    def record(self, letter: Letter, dead: DeadLetter) -> Record:
        """The original record of a letter without payload."""
        where = f"{dead.topic} {dead.partition}:{dead.offset}"
        client = self._connected()
        log = client.logs(dead.topic).get(dead.origin)
        is_kept = log is not None and log.first <= dead.offset < log.end
        found = (
            next(client.read(dead.origin, dead.offset, dead.offset + 1), None) if is_kept else None
        )
        if found is None:
            raise LetterRefused(
                "its payload was too large for the dead-letter topic, and Kafka no longer keeps it"
                f" at {where}: drop the letter"
            )
        original = letter.original
        if original.headers and (found.key, _with_values(found.headers)) != (
            original.key,
            _with_values(original.headers),
        ):
            raise LetterRefused(
                f"its payload was too large for the dead-letter topic, and {where} now holds"
                " another record: drop the letter"
            )
        return Record(found.key, found.value, found.headers)

    def _connected(self) -> TopicReader:
        if self._client is None:
            self._client = TopicReader(self._hosts, None, self._options)
        return self._client
