"""DeadLetters: writes what cannot be run to a topic of its own, on a thread of its own.

The worker's thread never waits for it: it hands letters over, and learns by a message that they are
written. Until then their records are not done. A partition whose letters do not get written gives
out no more records, so what waits is bounded.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from embedkq._clients.producer import KNOWN_OPTIONS, OWNED_OPTIONS, Message, Producer
from embedkq._formats import dead_letter
from embedkq._formats.dead_letter import DeadLetter, Record
from embedkq._safe_logging import SafeLogger
from embedkq.errors import BrokerRefused, BrokerUnavailable, Closed
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import DeadLettersWritten, JobRun
from embedkq.worker.between_threads.messages import Message as Told
from embedkq.worker.between_threads.partition_quota import PartitionQuota
from embedkq.worker.between_threads.stop_deadline import StopDeadline

logger = SafeLogger("embedkq.worker")

MOST_WAITING = 200
MOST_WAITING_BYTES = 8 * 1024 * 1024
"""From so many letters of one partition that wait on, or so many bytes of all, no more of their
records are begun."""
_HELD_UP_SECONDS = 1.0
_MOST_AT_ONCE = 500
_LETTER_BYTES = 512 * 1024
"""What a letter may have beside the record: its headers."""
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 5.0
_END_SECONDS = 1.0
_OF_CONSUMERS_ONLY = (
    "max_in_flight_requests_per_connection",
    "request_timeout_ms",
    "retry_backoff_ms",
)
"""Options that producers have too, where what suits a consumer may not work."""


class _Letter:
    """One letter on its way: in ever smaller forms, if the topic does not take it."""

    def __init__(self, run: JobRun, told: DeadLetter) -> None:
        self.run = run
        record = run.record
        self._forms = dead_letter.forms_of(
            Record(record.key, record.value, list(record.headers)), told
        )
        self.form = next(self._forms)

    def shrink(self, limit: int | None) -> bool:
        """Take the next form, or the first that `limit` bytes hold; False if there is none."""
        for form in self._forms:
            if limit is None or form.size <= limit:
                self.form = form
                return True
        return False

    def message(self, topic: str) -> Message:
        """For the producer, which takes neither headers without value nor records without key and
        value."""
        key, value, headers = self.form
        empty = value is None and key is None
        return Message(
            topic,
            b"" if empty else value,
            key,
            [(name, told or b"") for name, told in headers],
            None,
        )


class DeadLetterWriter:
    """Worker's thread, but for what says otherwise. The thread that writes starts with the first
    letter.

    Args:
        hosts: Kafka brokers, comma separated.
        origin: topic that the records are from.
        group: consumer group of the worker.
        topic: where the letters go.
        job_size: bytes of the largest record expected.
        options: of kafka-python's KafkaConsumer; those that a producer has too are used.
        inbox: learns what was written.
    """

    def __init__(
        self,
        hosts: str,
        origin: str,
        group: str,
        topic: str,
        job_size: int,
        options: Mapping[str, Any],
        inbox: Mailbox[Told],
    ) -> None:
        self.topic = topic
        self.away_since: float | None = None
        """`time.monotonic()` since which the topic takes nothing; None if it does. Any thread."""
        self._origin = origin
        self._group = group
        self._inbox = inbox
        wanted = KNOWN_OPTIONS.difference(OWNED_OPTIONS, _OF_CONSUMERS_ONLY)
        of_both = {name: value for name, value in options.items() if name in wanted}
        self._producer = Producer(hosts, job_size + _LETTER_BYTES, of_both)
        self._letters: Mailbox[_Letter] = Mailbox()
        self._load = PartitionQuota(MOST_WAITING, MOST_WAITING_BYTES, MOST_WAITING_BYTES)
        self._waiting: dict[int, int] = {}
        self._since: dict[int, float] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self, run: JobRun) -> None:
        """Have the run's record written, with its death; `DeadLettersWritten` tells once it is."""
        death = run.death
        if death is None:
            raise ValueError(
                f"the record at offset {run.offset} of partition {run.partition} is not dead: only"
                " dead ones are written"
            )
        told = DeadLetter(
            self._origin,
            run.partition,
            run.offset,
            death.reason,
            death.exception,
            death.traceback,
            death.attempts,
            socket.gethostname(),
            int(time.time() * 1000),
            group=self._group,
        )
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._write, name=f"embedkq-deadletters-{self.topic}", daemon=True
            )
            self._thread.start()
        self._load.add(run.partition, run.size)
        self._waiting[run.partition] = self._waiting.get(run.partition, 0) + 1
        self._since.setdefault(run.partition, time.monotonic())
        self._letters.put(_Letter(run, told))

    def written(self, runs: list[JobRun]) -> None:
        """Take note of a `DeadLettersWritten`."""
        now = time.monotonic()
        for run in runs:
            self._load.remove(run.partition, run.size)
            self._waiting[run.partition] -= 1
            self._since[run.partition] = now
            if not self._waiting[run.partition]:
                del self._waiting[run.partition], self._since[run.partition]
                self._load.forget(run.partition)

    def held_up(self, now: float) -> set[int]:
        """Partitions of which no more records should begin: their letters are many, or not written
        at once."""
        away = self.away_since is not None
        late = {
            partition
            for partition, since in self._since.items()
            if away or now > since + _HELD_UP_SECONDS
        }
        return late | self._load.full

    def close(self, stop: StopDeadline) -> None:
        """End the thread, within about a second or by the deadline; what is not written by then
        comes again with its record."""
        self._closing.set()
        self._letters.wake()
        if self._thread is not None:
            self._thread.join(stop.left(_END_SECONDS) / 2)
            self._producer.close(0.0)
            self._thread.join(stop.left(_END_SECONDS) / 2)
        self._letters.close()

    def close_after_fork(self) -> None:
        """In a forked copy of the process: close its copies of the descriptors."""
        self._letters.close_after_fork()

    # The thread.

    def _write(self) -> None:
        pause = _SHORTEST_PAUSE_SECONDS
        letters: list[_Letter] = []
        try:
            while not self._closing.is_set():
                if not letters:
                    self._letters.wait(None)
                letters += self._letters.take(_MOST_AT_ONCE - len(letters))
                letters = self._send(letters)
                if self.away_since is None:
                    pause = _SHORTEST_PAUSE_SECONDS
                else:
                    self._closing.wait(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        except Closed:  # nobody wants to know any more
            pass
        finally:
            self._producer.close(_END_SECONDS)

    def _send(self, letters: list[_Letter]) -> list[_Letter]:
        """Send letters and tell of those that arrived; the others."""
        began = time.monotonic()
        failures = self._producer.send_all([letter.message(self.topic) for letter in letters])
        arrived = [letter.run for index, letter in enumerate(letters) if index not in failures]
        if arrived:
            self._inbox.put(DeadLettersWritten(arrived))
        trouble = None
        for index, error in failures.items():
            if isinstance(error, (BrokerUnavailable, BrokerRefused)) or not letters[index].shrink(
                getattr(error, "limit", None)
            ):
                trouble = error  # else the topic, or the client, does not take this form
        self._tell_of(trouble, began)
        return [letters[index] for index in sorted(failures)]

    def _tell_of(self, trouble: Exception | None, began: float) -> None:
        if trouble is None and self.away_since is not None:
            self.away_since = None
            logger.info("Topic %s takes dead letters again.", self.topic)
        elif trouble is not None and self.away_since is None:
            self.away_since = began
            self._inbox.wake()
            logger.warning(
                "Dead letters cannot be written to topic %s (%s). It is tried again until it works;"
                " their records are not done until then, and their partitions wait.",
                self.topic,
                trouble,
            )
