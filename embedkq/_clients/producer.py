"""The only user of KafkaProducer, for queues and dead letters. Creates one lazily in each
process."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kafka import errors as kafka_errors

from embedkq._clients import broker_errors
from embedkq._clients.broker_errors import Asked, refusal
from embedkq._clients.fork_safe_selector import ForkSafeSockets
from embedkq._clients.private import Producer as KafkaProducer
from embedkq._clients.probe import LATE_SECONDS, is_guarded, look_for_reason
from embedkq._clients.send_window import InFlight, SendWindow
from embedkq._ipc.fork_cleanup import register_fork_cleanup
from embedkq.errors import BrokerUnavailable, Closed, EmbedkqError, JobTooLarge

OWNED_OPTIONS = (
    "bootstrap_servers",
    "key_serializer",
    "value_serializer",
    "acks",
    "enable_idempotence",
    "max_request_size",
    "transactional_id",
    "selector",
    "bootstrap_timeout_ms",
    "delivery_timeout_ms",
    "max_block_ms",
)
"""Options of kafka-python that embedkq sets itself."""
KNOWN_OPTIONS = frozenset(KafkaProducer.DEFAULT_CONFIG)
SEND_SECONDS = 10.0
"""How long to wait for the next acknowledgement, including the time to connect."""
_OVERHEAD_BYTES = 4096
_CONNECT_MARGIN_SECONDS = 0.5
_BATCH_BYTES = 512
"""An upper bound of a batch's overhead for one record, beside key, value and headers."""
_EXIT_SECONDS = 2.0
_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordListTooLargeError)


class Message(NamedTuple):
    """A record to send.

    Attributes:
        topic, value, key, headers: as in the topic.
        partition: the partition's number; None to choose it by key or at random.
    """

    topic: str
    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
    partition: int | None

    @property
    def size(self) -> int:
        """Bytes of value, key and headers."""
        return (
            len(self.value or b"")
            + len(self.key or b"")
            + sum(len(name) + len(value) for name, value in self.headers)
        )


class Sent(NamedTuple):
    """What became of messages.

    Attributes:
        failures: the errors of those that were not acknowledged, by index.
        places: partition and offset of those that were, by index. An offset is -1 where the broker
            has acknowledged the same message before, and does not repeat its offset.
    """

    failures: dict[int, Exception]
    places: dict[int, tuple[int, int]]


class Producer:
    """Sends messages and waits until all replicas have them. Any thread. After a fork it connects
    again."""

    def __init__(self, hosts: str, job_size: int, options: Mapping[str, Any]) -> None:
        self._hosts = hosts
        linger = options.get("linger_ms", 0)
        self._options = {
            "linger_ms": 0,
            "batch_size": 128 * 1024,
            "metrics_enabled": False,
            "reconnect_backoff_max_ms": 1_000,
            "request_timeout_ms": max(
                1_000, int(SEND_SECONDS * 1000) - 1_000 - (linger if isinstance(linger, int) else 0)
            ),
            **options,
            "bootstrap_servers": hosts.split(","),
            "delivery_timeout_ms": int(SEND_SECONDS * 1000),
            "max_block_ms": int((SEND_SECONDS - _CONNECT_MARGIN_SECONDS) * 1000),
            "acks": "all",
            "enable_idempotence": True,
            "max_request_size": job_size + _OVERHEAD_BYTES,
        }
        linger = self._options["linger_ms"]
        self._window = SendWindow(linger / 1000 if isinstance(linger, (int, float)) else 0.0)
        self._lock = threading.Lock()
        self._kafka: Any = None
        self._sockets: ForkSafeSockets | None = None
        self._pid = 0
        self._closed = False
        _producers.add(self)
        register_fork_cleanup(self)

    def send(self, message: Message) -> tuple[int, int]:
        """Send one message; returns its partition and offset, as in `Sent`, once all replicas have
        it.

        Raises:
            BrokerUnavailable: there was no acknowledgement within 10 s.
            BrokerRefused, JobTooLarge: the broker refuses the message.
            Closed: after `close`.
        """
        sent = self.send_and_locate((message,))
        if sent.failures:
            raise sent.failures[0]
        return sent.places[0]

    def send_all(self, messages: Sequence[Message]) -> dict[int, Exception]:
        """Send all messages. Returns the errors of unacknowledged ones by index. Raises only
        `Closed`."""
        return self.send_and_locate(messages).failures

    def send_and_locate(self, messages: Sequence[Message]) -> Sent:
        """Send all messages. Raises only `Closed`.

        Limits the bytes in flight to what the broker acknowledges quickly. There is no time limit
        while acknowledgements arrive. After 10 s without one, the remaining messages are not sent.
        """
        failures: dict[int, Exception] = {}
        flight = InFlight(self._window, SEND_SECONDS)
        for index, message in enumerate(messages):
            size = message.size
            while not flight.has_room(size):
                self._settle_oldest(flight, messages, failures)
            if flight.lost is None:
                self._hand_over(flight, index, message, size, failures)
            if flight.lost is not None:
                failures.update(
                    {
                        rest: flight.lost
                        for rest in range(index, len(messages))
                        if rest not in failures
                    }
                )
                break
        while flight:
            self._settle_oldest(flight, messages, failures)
        failures = self._with_limit(self._with_reason(failures), messages)
        return Sent(failures, flight.places)

    def _hand_over(
        self,
        flight: InFlight,
        index: int,
        message: Message,
        size: int,
        failures: dict[int, Exception],
    ) -> None:
        kafka = None
        try:
            kafka = self._connected(flight.deadline)
            future = kafka.send(
                message.topic,
                value=message.value,
                key=message.key,
                headers=list(message.headers),
                partition=message.partition,
            )
        except Closed:
            raise
        except Exception as error:  # noqa: BLE001  (reported for each message)
            failures[index] = self._explained(error, message, handed_over=False)
            if kafka is None or isinstance(failures[index], BrokerUnavailable):
                flight.lost = failures[index]
        else:
            flight.add(index, kafka, future, size)

    def _settle_oldest(
        self, flight: InFlight, messages: Sequence[Message], failures: dict[int, Exception]
    ) -> None:
        index, kafka, error = flight.next_end()
        if error is None:
            return
        failures[index] = self._explained(error, messages[index], handed_over=True)
        if isinstance(failures[index], BrokerUnavailable):
            why = type(error).__name__
            flight.lose(
                self._unavailable(
                    messages[index], f"{why}; the remaining jobs were not sent", maybe_sent=False
                )
            )
        if isinstance(error, kafka_errors.KafkaTimeoutError) or kafka.is_spent():
            self._retire(kafka)

    def check_open(self) -> None:
        """Refuse to send after `close`.

        Raises:
            Closed
        """
        if self._closed:
            raise Closed("this queue is closed: create another one")

    def close(self, seconds: float = SEND_SECONDS) -> None:
        """Send waiting messages for up to `seconds`, and close. Can be called twice. Any thread."""
        with self._lock:
            self._closed = True
            kafka, self._kafka = self._kafka, None
        if kafka is not None and self._pid == os.getpid():
            _end(kafka, seconds)

    def close_after_fork(self) -> None:
        """In a forked copy of the process, drop the parent's client, whose threads do not exist
        here, and its lock."""
        self._lock = threading.Lock()
        kafka, self._kafka = self._kafka, None
        if self._sockets is not None and kafka is not None:
            self._sockets.close_after_fork(kafka.descriptors_beside_selector())

    def _connected(self, deadline: float) -> Any:
        lock = self._lock
        if not lock.acquire(
            timeout=max(0.0, deadline - time.monotonic())
        ):  # another thread is connecting
            raise self._no_connection()
        try:
            self.check_open()
            if self._kafka is None:
                self._kafka = self._connect(deadline)
                self._pid = os.getpid()
            return self._kafka
        finally:
            lock.release()

    def _connect(self, deadline: float) -> Any:
        self._sockets = sockets = ForkSafeSockets()

        def make() -> Any:
            seconds = deadline - time.monotonic() - _CONNECT_MARGIN_SECONDS - LATE_SECONDS
            if seconds <= 0:
                raise self._no_connection()
            return KafkaProducer(
                **self._options, bootstrap_timeout_ms=int(seconds * 1000), selector=lambda: sockets
            )

        return broker_errors.connect(make, self._hosts, self._options, SEND_SECONDS)

    def _retire(self, kafka: Any) -> None:
        """Replace the client for the next message.

        An idempotent producer of kafka-python 3.0.12 stops sending after a batch has expired, even
        if the broker is back, or after the broker has refused a batch for good.
        """
        with self._lock:
            if self._kafka is not kafka:
                return
            self._kafka = None
        # Close it on a separate thread, because other threads may still wait for its
        # acknowledgements.
        threading.Thread(
            target=_end, args=(kafka, SEND_SECONDS), name="embedkq-producer-end", daemon=True
        ).start()

    def _with_reason(self, failures: dict[int, Exception]) -> dict[int, Exception]:
        """Add the reason for missing acknowledgements, if it can be found: credentials may have
        expired since the connection was made."""
        sent = [
            (index, error)
            for index, error in failures.items()
            if isinstance(error, BrokerUnavailable) and error.maybe_sent
        ]
        reason = (
            look_for_reason(self._hosts, self._options)
            if sent and is_guarded(self._options)
            else None
        )
        if reason is None:
            return failures
        for index, error in sent:
            failures[index] = BrokerUnavailable(
                self._hosts, f"{error.reason}: {reason.text}", maybe_sent=True
            )
            failures[index].__cause__ = error.__cause__
        return failures

    def _with_limit(
        self, failures: dict[int, Exception], messages: Sequence[Message]
    ) -> dict[int, Exception]:
        """Add the topic's size limit, if the broker reports it. Its refusal does not contain it."""
        refused = [index for index, failure in failures.items() if isinstance(failure, JobTooLarge)]
        if refused:
            from embedkq._clients import admin  # here, because most senders never need it

            limit = admin.largest_batch(self._hosts, messages[refused[0]].topic, self._options)
            for index in refused:
                cause, message = failures[index].__cause__, messages[index]
                if limit is not None and message.size + _BATCH_BYTES <= limit:
                    # It was in flight beside a message that is too large: the client fails all of
                    # them.
                    failures[index] = self._unavailable(
                        message, "another job was too large", maybe_sent=True
                    )
                else:
                    failures[index] = _too_large(message, limit)
                failures[index].__cause__ = cause
        return failures

    def _no_connection(self) -> BrokerUnavailable:
        return BrokerUnavailable(self._hosts, f"no answer within {SEND_SECONDS:g} s")

    def _unavailable(self, message: Message, why: str, maybe_sent: bool) -> BrokerUnavailable:
        reason = f"no acknowledgement for topic {message.topic!r} within {SEND_SECONDS:g} s ({why})"
        return BrokerUnavailable(self._hosts, reason, maybe_sent=maybe_sent)

    def _explained(self, error: Exception, message: Message, handed_over: bool) -> Exception:
        if isinstance(error, EmbedkqError):
            return error
        refused = refusal(error, Asked(self._hosts, "WRITE", message.topic))
        if isinstance(error, _TOO_LARGE):
            result: Exception = _too_large(message, None)
        elif refused is not None:
            result = refused
        elif isinstance(error, (kafka_errors.KafkaError, OSError)):
            why = (
                "no metadata of this topic: does it exist?"
                if "metadata" in str(error)
                else type(error).__name__
            )
            result = self._unavailable(message, why, handed_over)
        elif isinstance(error, ValueError) and f"partition {message.partition}" in str(error):
            result = ValueError(
                f"partition={message.partition}: topic {message.topic!r} has no such partition;"
                " `kq info` shows its partitions"
            )
        else:
            return error
        result.__cause__ = error
        return result


def _too_large(message: Message, limit: int | None) -> JobTooLarge:
    return JobTooLarge(
        message.size, limit, f"the broker (max.message.bytes of topic {message.topic!r})"
    )


def _end(kafka: Any, seconds: float) -> None:
    """Close a client. Callers that wait for unsent messages have received errors."""
    try:
        kafka.close(timeout=seconds)
    except kafka_errors.KafkaTimeoutError:
        kafka.abandon()


_producers: weakref.WeakSet[Producer] = weakref.WeakSet()


def _close_all() -> None:
    for producer in list(_producers):
        producer.close(_EXIT_SECONDS)


atexit.register(_close_all)
