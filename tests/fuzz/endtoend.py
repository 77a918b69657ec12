"""The share that goes all the way: through Kafka, a real worker and its children, with good jobs
among what was changed."""

from __future__ import annotations

import resource
import time
from pathlib import Path
from random import Random
from typing import Any

import brokers
import workerjobs
from kafka import KafkaAdminClient
from rich.console import Console
from support import Recorder, Sender, lag

from embedkq import Queue, Worker, codec
from embedkq._formats.signing import Signer

from .run import Tally
from .targets import SECRET, Attack, changed_record, kq_payload

PARTITIONS = 4
_GOOD_EACH = 20
_PATIENCE_SECONDS = 900.0
_MOST_MEMORY_BYTES = 2 * 1024**3
_LIMIT_SECONDS = 5.0
_LARGE, _LARGEST_BYTES = 0.01, 900_000
"""Which part of the records has so many bytes more behind its payload."""


def limit_memory() -> None:
    """In a child: some pickles ask for more memory than any machine has."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY_BYTES, _MOST_MEMORY_BYTES))


def run(seed: int, records: int, folder: Path, console: Console) -> dict[str, Tally]:
    """Half of the records to a worker with a secret, half to one without."""
    mark = folder / "mark"
    kind = brokers.choose()
    with brokers.make(kind) as broker, console.status("through a worker"):
        with_secret = stage(broker.hosts, f"fuzz-secret-{seed}", seed, records // 2, SECRET, mark)
        without = stage(broker.hosts, f"fuzz-open-{seed}", seed, records - records // 2, None, mark)
        return {"worker with a secret": with_secret, "worker without": without}


def stage(hosts: str, topic: str, seed: int, records: int, secret: str | None, mark: Path) -> Tally:
    """Send so many records with good jobs between them, run a worker until all is done, and look at
    what came of it.

    With a secret, attacks are among what is sent; without one they would be let in.
    """
    tally, began = Tally(inputs=records), time.perf_counter()
    dead = f"{topic}-dead"
    admin = KafkaAdminClient(bootstrap_servers=hosts)
    admin.create_topics({topic: {"num_partitions": PARTITIONS}, dead: {"num_partitions": 1}})
    admin.close()
    good = send(hosts, topic, Random(f"{seed} {topic}"), records, secret, mark)
    recorder = Recorder()
    worker = Worker(
        hosts=hosts,
        topic=topic,
        callback=recorder,
        secret=secret,
        dead_letter_topic=dead,
        processes=2,
        timeout=_LIMIT_SECONDS,
        initializer=limit_memory,
    )
    with worker:
        if not worker.drain(_PATIENCE_SECONDS):
            tally.failures.append(
                f"{topic}: not done after {_PATIENCE_SECONDS:g} s: {worker.health()}"
            )
        if worker.state != "running":
            tally.failures.append(f"{topic}: the worker is {worker.state}: {worker.error}")
    told = {call.job.id: call.result for call in recorder.calls if call.status == "success"}
    tally.taken = len(recorder) - len(good)
    wrong = [
        job_id
        for job_id, result in good.items()
        if recorder.ids[job_id] != 1 or told.get(job_id) != result
    ]
    if wrong:
        tally.failures.append(
            f"{topic}: {len(wrong)} of {len(good)} good jobs had not their one callback with their result"
        )
    if left := lag(hosts, topic, topic):
        tally.failures.append(f"{topic}: {left} records are not committed")
    if mark.exists():
        mark.unlink()
        tally.failures.append(f"{topic}: code of an attack has run")
    tally.failed, tally.seconds = len(tally.failures), time.perf_counter() - began
    return tally


def send(
    hosts: str, topic: str, chance: Random, records: int, secret: str | None, mark: Path
) -> dict[str, Any]:
    """The good jobs' results by id."""
    signer = None if secret is None else Signer(secret)
    payloads = [
        codec.encode_call(workerjobs.echo, (1, "two"), {"x": b"3"}),
        codec.encode_call(workerjobs.echo, ([None] * 50,), {}),
    ]
    payloads += [kq_payload(), kq_payload(timeout=3, args=["x"])]
    attacks = (
        []
        if signer is None
        else [codec.encode_object((Attack(mark), (), {})), kq_payload(args=(Attack(mark),))]
    )
    good: dict[str, Any] = {}
    with Sender(hosts, topic) as sender, Queue(hosts=hosts, topic=topic, secret=secret) as queue:
        for first in range(0, records, _GOOD_EACH):
            for _ in range(min(_GOOD_EACH, records - first)):
                record, _ = changed_record(chance, topic, signer, payloads, attacks)
                value = b"" if record.value is None and record.key is None else record.value
                if chance.random() < _LARGE:
                    value = (value or b"") + chance.randbytes(chance.randrange(_LARGEST_BYTES))
                sender.send_record(
                    value, [(name, told or b"") for name, told in record.headers], key=record.key
                )
            jobs = [(workerjobs.echo, (first, number), {}) for number in range(2)]
            good |= {
                job.id: (job.args, {})
                for job in queue.using(key=chance.choice((None, "k"))).enqueue_many(jobs)
            }
        sender.flush()
    return good
