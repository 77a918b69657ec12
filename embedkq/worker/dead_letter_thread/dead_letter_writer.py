"""Writes dead letters to the dead-letter topic, on a separate thread.

The control thread never waits for it: it passes letters on and receives a message when they are
written. Until then their records are not done. A partition with unwritten letters starts no more
jobs, so the number of waiting letters is bounded.
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
from embedkq._partition import Partition
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
"""A partition with this many waiting letters starts no more jobs. The same applies to this many
bytes in all partitions."""
_HELD_UP_SECONDS = 1.0
_MOST_AT_ONCE = 500
_LETTER_BYTES = 512 * 1024
"""Maximum size of a letter's headers."""
_SHORTEST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.2, 5.0
_END_SECONDS = 1.0
_OF_CONSUMERS_ONLY = (
    "max_in_flight_requests_per_connection",
    "request_timeout_ms",
    "retry_backoff_ms",
)
"""Options of both producers and consumers whose values for a consumer may not suit a producer."""


class _Letter:
    """A letter to write, in ever smaller forms if the topic does not accept it."""

    def __init__(self, run: JobRun, letter: DeadLetter) -> None:
        self.run = run
        record = run.record
        self._forms = dead_letter.shrinking_forms(
            Record(record.key, record.value, list(record.headers)), letter
        )
        self.form = next(self._forms)

    def shrink(self, limit: int | None) -> bool:
        """Use the next form, or the first one within `limit` bytes. Returns False if there is
        none."""
        for form in self._forms:
            if limit is None or form.size <= limit:
                self.form = form
                return True
        return False

    def message(self, topic: str) -> Message:
        """The message for the producer, which accepts neither headers without a value nor records
        without both key and value."""
        key, value, headers = self.form
        empty = value is None and key is None
        return Message(
            topic,
            b"" if empty else value,
            key,
            [(name, content or b"") for name, content in headers],
            None,
        )


class DeadLetterWriter:
    """Methods are for the control thread, except where noted. The writing thread starts with the
    first letter.

    Args:
        hosts: Kafka brokers, separated by commas.
        group: the worker's consumer group.
        topic: the dead-letter topic.
        job_size: bytes of the largest expected record.
        options: options of kafka-python's KafkaConsumer. Those that a producer has too are used.
        inbox: receives `DeadLettersWritten` messages.
    """

    def __init__(
        self,
        hosts: str,
        group: str,
        topic: str,
        job_size: int,
        options: Mapping[str, Any],
        inbox: Mailbox[Told],
    ) -> None:
        self.topic = topic
        self.away_since: float | None = None
        """`time.monotonic()` since when the topic has accepted nothing; None if it accepts letters.
        Any thread."""
        self._group = group
        self._inbox = inbox
        wanted = KNOWN_OPTIONS.difference(OWNED_OPTIONS, _OF_CONSUMERS_ONLY)
        of_both = {name: value for name, value in options.items() if name in wanted}
        self._producer = Producer(hosts, job_size + _LETTER_BYTES, of_both)
        self._letters: Mailbox[_Letter] = Mailbox()
        self._load = PartitionQuota(MOST_WAITING, MOST_WAITING_BYTES, MOST_WAITING_BYTES)
        self._waiting: dict[Partition, int] = {}
        self._since: dict[Partition, float] = {}
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def write(self, run: JobRun) -> None:
        """Write the run's record and the reason of its death. A `DeadLettersWritten` message
        reports when it is written."""
        death = run.death
        if death is None:
            raise ValueError(
                f"the record at offset {run.offset} of partition {run.partition.number} is not"
                " dead: only dead records are written"
            )
        letter = DeadLetter(
            run.partition.topic,
            run.partition.number,
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
        self._letters.put(_Letter(run, letter))

    def written(self, runs: list[JobRun]) -> None:
        """Handle a `DeadLettersWritten` message."""
        now = time.monotonic()
        for run in runs:
            self._load.remove(run.partition, run.size)
            self._waiting[run.partition] -= 1
            self._since[run.partition] = now
            if not self._waiting[run.partition]:
                del self._waiting[run.partition], self._since[run.partition]
                self._load.forget(run.partition)

    def held_up(self, now: float) -> set[Partition]:
        """Partitions that should start no more jobs, because they have many waiting letters, or
        letters that were not written within a second."""
        away = self.away_since is not None
        late = {
            partition
            for partition, since in self._since.items()
            if away or now > since + _HELD_UP_SECONDS
        }
        return late | self._load.full

    def close(self, stop: StopDeadline) -> None:
        """Stop the thread within about a second, or by the deadline. Records of unwritten letters
        run again."""
        self._closing.set()
        self._letters.wake()
        if self._thread is not None:
            self._thread.join(stop.left(_END_SECONDS) / 2)
            self._producer.close(0.0)
            self._thread.join(stop.left(_END_SECONDS) / 2)
        self._letters.close()

    def close_after_fork(self) -> None:
        """In a forked copy of the process, close the copies of the descriptors."""
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
        except Closed:  # the control thread has ended
            pass
        finally:
            self._producer.close(_END_SECONDS)

    def _send(self, letters: list[_Letter]) -> list[_Letter]:
        """Send letters and report the written ones. Returns the others."""
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
                trouble = error  # otherwise the topic or the client refuses this form
        self._log_trouble(trouble, began)
        return [letters[index] for index in sorted(failures)]

    def _log_trouble(self, trouble: Exception | None, began: float) -> None:
        if trouble is None and self.away_since is not None:
            self.away_since = None
            logger.info("Topic %s accepts dead letters again.", self.topic)
        elif trouble is not None and self.away_since is None:
            self.away_since = began
            self._inbox.wake()
            logger.warning(
                "Dead letters cannot be written to topic %s (%s). Retrying. The affected"
                " partitions are paused and their offsets stay uncommitted.",
                self.topic,
                trouble,
            )
