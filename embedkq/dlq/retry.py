"""Retry: puts dead letters back on the topics that they are from.

What was signed is signed anew, and only once its signature has been found good: nothing forged ever
gets a good one here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from embedkq import _options
from embedkq._clients.producer import Message, Producer
from embedkq._clients.reader import TopicReader
from embedkq._formats import headers
from embedkq._formats.dead_letter import DeadLetter, Record
from embedkq._formats.signing import Signer
from embedkq.dlq.letters import Letter
from embedkq.errors import (
    BrokerUnavailable,
    EmbedkqError,
    JobTooLarge,
    LetterRefused,
    SignatureRefused,
)

_LARGEST = 2**30
"""Bytes; what a topic takes is for its broker to say."""


class Retry:
    """Puts letters of one dead-letter topic back. One thread at a time.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: the dead-letter topic.
        signer: knows the secrets; None for none.
        consumer_options, producer_options: further options of kafka-python's clients.
        every_group: put them back for all consumer groups of their topic, not only for the one
            whose job failed.
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._origins.close()
        self._producer.close()

    def __call__(self, letters: Sequence[Letter]) -> list[EmbedkqError | None]:
        """Put letters back and wait until all replicas have them; for each why it was not, or None.

        Raises:
            BrokerUnavailable, EmbedkqError: a topic cannot be looked at. Then none of these was put
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
            # What was on its way beside one that is too large fails with it, and may go now.
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
                else LetterRefused(f"it cannot be sent: {failure}")
            )
            for number, failure in failures.items()
        }

    def _message_of(self, letter: Letter) -> Message:
        dead = letter.dead
        if dead is None:
            raise LetterRefused(f"{letter.problem}. It can only be dropped")
        try:
            _options.check_topic(dead.topic)
        except ValueError:
            raise LetterRefused(
                f"it says that it is from topic {dead.topic!r}, which is no topic's name"
            ) from None
        if dead.topic == self._topic:
            raise LetterRefused(
                f"it says that it is from {self._topic!r} itself, where no worker takes jobs from"
            )
        partitions = self._origins.partitions(dead.topic)
        if not partitions:
            raise LetterRefused(
                f"topic {dead.topic!r}, which it is from, does not exist (any more): create it, or"
                " drop the letter"
            )
        record = self._origins.record(letter, dead) if dead.pointer else letter.original
        # A key decides by itself, also where partitions were added meanwhile.
        partition = dead.partition if record.key is None and dead.partition in partitions else None
        told = headers.for_group(
            restored(record, dead, self._signer), "" if self._every_group else dead.group
        )
        return Message(dead.topic, record.value, record.key, told, partition)


def restored(record: Record, dead: DeadLetter, signer: Signer | None) -> list[tuple[str, bytes]]:
    """The headers with which a record goes back to its topic. Pure.

    Args:
        record: as it was before it died.

    Raises:
        LetterRefused: it needs a secret.
        SignatureRefused: its signature is not good.
    """
    if not headers.is_signed(record.headers):
        if signer is not None and dead.reason == "refused":
            raise LetterRefused(
                "it is not signed, and was refused: whoever sent it has no secret. Drop it, or"
                " enqueue the job anew"
            )
        return headers.put_back(record.headers)
    if signer is None:
        raise LetterRefused(
            "it is signed, and has to be signed anew: give the secret in --secret-file or"
            " EMBEDKQ_SECRET"
        )
    try:
        signer.check(dead.topic, record.key, record.headers, record.value)
    except SignatureRefused as error:
        raise SignatureRefused(
            f"{error}. It is not signed anew: give a secret that it was signed with as a further"
            " --secret-file, or drop it"
        ) from None
    told = headers.put_back(record.headers, int(time.time() * 1000))
    return signer.sign(dead.topic, record.key, told, record.value)


def _with_values(told: Iterable[tuple[str, bytes | None]]) -> list[tuple[str, bytes]]:
    return [(name, value or b"") for name, value in told]


class _Origins:
    """The topics that letters are from."""

    def __init__(self, hosts: str, options: Mapping[str, Any]) -> None:
        self._hosts = hosts
        self._options = options
        self._client: TopicReader | None = None
        self._partitions: dict[str, frozenset[int]] = {}

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def partitions(self, topic: str) -> frozenset[int]:
        """Numbers of a topic's partitions; empty where there is no such topic."""
        if topic not in self._partitions:
            self._partitions[topic] = frozenset(self._connected().logs(topic))
        return self._partitions[topic]

    def record(self, letter: Letter, dead: DeadLetter) -> Record:
        """The record that a letter without payload points to."""
        where = f"{dead.topic} {dead.partition}:{dead.offset}"
        client = self._connected()
        log = client.logs(dead.topic).get(dead.partition)
        is_kept = log is not None and log.first <= dead.offset < log.end
        found = (
            next(client.read(dead.topic, dead.partition, dead.offset, dead.offset + 1), None)
            if is_kept
            else None
        )
        if found is None:
            raise LetterRefused(
                "its payload was too large for the dead-letter topic, and is not kept any more at"
                f" {where}: drop it"
            )
        original = letter.original
        if original.headers and (found.key, _with_values(found.headers)) != (
            original.key,
            _with_values(original.headers),
        ):
            raise LetterRefused(
                f"its payload was too large for the dead-letter topic, and {where} is another"
                " record now: drop it"
            )
        return Record(found.key, found.value, found.headers)

    def _connected(self) -> TopicReader:
        if self._client is None:
            self._client = TopicReader(self._hosts, None, self._options)
        return self._client
