"""What the tests of the worker share: a sender, a callback that remembers, a look at Kafka, and
waiting for progress."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    NotCoordinatorError,
    TopicAlreadyExistsError,
)

from embedkq import Job, codec
from embedkq._formats import commit_metadata, headers
from embedkq._formats.commit_metadata import CommitMetadata
from embedkq._formats.offset_map import OffsetRanges

HANG_SECONDS = 60.0
"""A guard against hanging for ever; no test expects anything to take that long."""
SOON_SECONDS = 10.0
"""Within which happens what waits for nothing but a loaded machine. How quick it is on an idle one
is for `make bench` to tell."""
ROOT = Path(__file__).parent.parent


class Call(NamedTuple):
    """One call of a callback."""

    status: str
    job: Job
    result: Any
    exception: Any
    traceback: Any


class Recorder:
    """A callback that remembers its calls and the threads on which it was called."""

    def __init__(self, then: Callable[[Call], Any] | None = None) -> None:
        self.calls: list[Call] = []
        self.threads: set[threading.Thread] = set()
        self._then = then

    def __call__(self, status: str, job: Job, result: Any, exception: Any, traceback: Any) -> None:
        call = Call(status, job, result, exception, traceback)
        self.calls.append(call)
        self.threads.add(threading.current_thread())
        if self._then is not None:
            self._then(call)

    def __len__(self) -> int:
        return len(self.calls)

    @property
    def ids(self) -> Counter[str]:
        """How often each job was told of."""
        return Counter(call.job.id for call in self.calls)

    @property
    def results(self) -> list[Any]:
        return [call.result for call in self.calls]


class Sender:
    """Sends jobs to one topic as `Queue` does, and whatever else a record may hold."""

    def __init__(self, hosts: str, topic: str, **options: Any) -> None:
        self.topic = topic
        self.producer = KafkaProducer(bootstrap_servers=hosts, linger_ms=2, **options)

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.producer.close()

    def send(
        self,
        func: Callable[..., Any],
        *args: Any,
        timeout: float | None = None,
        key: bytes | None = None,
        partition: int | None = None,
        **kwargs: Any,
    ) -> str:
        """Send a job; its id. It is there once `flush` has returned."""
        job_id = str(uuid.uuid4())
        record_headers = headers.headers_of(job_id, int(time.time() * 1000), timeout)
        self.send_record(
            codec.encode_call(func, args, kwargs), record_headers, key=key, partition=partition
        )
        return job_id

    def send_record(
        self,
        value: bytes | None,
        headers: Iterable[tuple[str, bytes]],
        *,
        key: bytes | None = None,
        partition: int | None = None,
    ) -> Any:
        return self.producer.send(
            self.topic, value=value, headers=list(headers), key=key, partition=partition
        )

    def flush(self) -> None:
        self.producer.flush()


def with_field(
    record_headers: Iterable[tuple[str, bytes | None]], name: str, value: bytes | None
) -> list[tuple[str, bytes | None]]:
    """The headers with another value of a field of embedkq's, behind its other fields where it is a
    new one; None: without it."""
    changed = []
    for header, told in record_headers:
        if header == headers.HEADER:
            fields = [
                field
                for field in (told or b"").split(b";")
                if not field.startswith(name.encode() + b"=")
            ]
            place = next(
                (place for place, field in enumerate(fields) if field.startswith(b"signature=")),
                len(fields),
            )
            if value is not None:
                former = [field.partition(b"=")[0].decode() for field in (told or b"").split(b";")]
                fields.insert(
                    former.index(name) if name in former else place, name.encode() + b"=" + value
                )
            told = b";".join(fields)
        changed.append((header, told))
    return changed


def send_many(
    hosts: str,
    topic: str,
    func: Callable[..., Any],
    arguments: Iterable[tuple[Any, ...]],
    **how: Any,
) -> list[str]:
    """Send one job for each tuple of arguments; their ids, once all are there."""
    with Sender(hosts, topic) as sender:
        ids = [sender.send(func, *args, **how) for args in arguments]
        sender.flush()
    return ids


def wait_until(reached: Callable[[], Any], what: str, seconds: float = HANG_SECONDS) -> Any:
    """Look until something is so; fails with `what` if it does not come about at all."""
    deadline = time.monotonic() + seconds
    while not (value := reached()):
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        time.sleep(0.01)
    return value


def fire_until(
    worker: Any, reached: Callable[[], Any], what: str, seconds: float = HANG_SECONDS
) -> None:
    """As a worker's owner: fire callbacks until something is so."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, f"after {seconds:g} s still not: {what}"
        worker.run_callbacks(0.05)


def lines(path: Path | str) -> list[str]:
    """What jobs have noted so far."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []


OUR_LOGGERS = ("embedkq", "embedkq.worker", "embedkq.job", "embedkq.broker", "kafka")
"""Those that the commands of `kq` set up, once in a process's life."""


@contextlib.contextmanager
def kept_loggers(*names: str) -> Iterator[None]:
    """At the end these loggers are as they were, whatever ran in this process meanwhile."""
    before = [
        (known, list(known.handlers), known.level, known.propagate, known.disabled)
        for known in map(logging.getLogger, names)
    ]
    try:
        yield
    finally:
        for known, handlers, level, propagate, disabled in before:
            known.handlers[:], known.propagate, known.disabled = handlers, propagate, disabled
            known.setLevel(level)


def logged(caplog: Any) -> str:
    """What embedkq has logged, with levels and tracebacks; a Kafka client that an earlier test has
    left logs into the same place."""
    form = logging.Formatter("%(levelname)s %(message)s")
    return "".join(
        form.format(record) + "\n" for record in caplog.records if record.name.startswith("embedkq")
    )


def with_admin(hosts: str, ask: Callable[[KafkaAdminClient], Any]) -> Any:
    """What an admin client is told; asked again as long as a broker that has only just started
    finds no coordinator."""
    admin = KafkaAdminClient(bootstrap_servers=hosts)

    def answer() -> list[Any]:
        try:
            return [ask(admin)]
        except (
            CoordinatorNotAvailableError,
            CoordinatorLoadInProgressError,
            NotCoordinatorError,
        ):
            return []

    try:
        return wait_until(answer, "the group has a coordinator")[0]
    finally:
        admin.close()


def create_topic(hosts: str, topic: str, partitions: int) -> None:
    """Also where a client's question has made it meanwhile."""

    def try_to(admin: Any) -> bool:
        try:
            admin.create_topics({topic: {"num_partitions": partitions}})
        except TopicAlreadyExistsError:
            pass
        return bool(admin.describe_topics([topic])[0]["partitions"])

    wait_until(lambda: with_admin(hosts, try_to), "the topic is there")


def recreate_topic(hosts: str, topic: str, partitions: int) -> None:
    """Delete a topic and create another one of the same name."""
    with_admin(hosts, lambda admin: admin.delete_topics([topic]))
    create_topic(hosts, topic, partitions)


def group_offsets(hosts: str, group: str) -> Mapping[TopicPartition, Any]:
    """All that a group has committed, for `put_back`."""
    found: Mapping[TopicPartition, Any] = with_admin(
        hosts, lambda admin: admin.list_group_offsets({group: None})
    )[group]
    return found


def put_back(hosts: str, group: str, offsets: Mapping[TopicPartition, Any]) -> None:
    """Commit what a group had committed before its topic was created anew: brokers differ in
    whether commits outlive their topic."""
    with_admin(hosts, lambda admin: admin.alter_group_offsets(group, offsets))


def committed(hosts: str, group: str, topic: str) -> dict[int, tuple[int, str]]:
    """Committed offset and metadata by partition."""
    offsets = with_admin(hosts, lambda admin: admin.list_group_offsets(group))
    found: Mapping[TopicPartition, Any] = offsets.get(group, offsets)
    return {
        tp.partition: (known.offset, known.metadata)
        for tp, known in found.items()
        if tp.topic == topic and known.offset >= 0
    }


def noted(
    hosts: str, group: str, topic: str
) -> dict[int, tuple[int, OffsetRanges, CommitMetadata]]:
    """Committed offset, what is done above it, and what is noted of the rest, by partition."""
    return {
        number: (offset, *commit_metadata.decode(offset, text))
        for number, (offset, text) in committed(hosts, group, topic).items()
    }


def end_offsets(hosts: str, topic: str) -> dict[int, int]:
    """The offset behind the last record, by partition."""
    consumer = KafkaConsumer(bootstrap_servers=hosts)
    try:
        partitions = [
            TopicPartition(topic, partition)
            for partition in consumer.partitions_for_topic(topic) or ()
        ]
        return {tp.partition: end for tp, end in consumer.end_offsets(partitions).items()}
    finally:
        consumer.close()


def lag(hosts: str, group: str, topic: str) -> int:
    """How many offsets of the topic are not committed."""
    known = committed(hosts, group, topic)
    return sum(
        end - known.get(partition, (0, ""))[0]
        for partition, end in end_offsets(hosts, topic).items()
    )


def descendants() -> set[int]:
    """Process ids of all living processes that descend from this one."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state not in ("Z", "X"):
                parents[int(entry.name)] = int(parent)
    found, more = set(), {os.getpid()}
    while more:
        more = {pid for pid, parent in parents.items() if parent in more}
        found |= more
    return found


@contextlib.contextmanager
def no_descriptors(but: int = 0) -> Iterator[Callable[[], None]]:
    """Meanwhile this process may open no more than so many files; gives what takes those that have
    become free."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(
        resource.RLIMIT_NOFILE,
        (max(held[0], *map(int, os.listdir("/proc/self/fd"))) + 40, limits[1]),
    )

    def take_all() -> None:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(min(but, len(held))):
            os.close(held.pop())

    try:
        take_all()
        yield take_all
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in held:
            os.close(descriptor)


def embedkq_threads() -> list[str]:
    """Those of workers; the one that holds the session's development broker stays."""
    names = [thread.name for thread in threading.enumerate()]
    return sorted(name for name in names if name.startswith("embedkq") and name != "embedkq-broker")


def run_script(
    path: Path, *arguments: str, seconds: float = HANG_SECONDS, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a Python script that can import embedkq and the tests' jobs."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    return subprocess.run(
        [sys.executable, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        cwd=cwd,
        env=environment,
        check=False,
    )
