"""What goes wrong: hosts that die, freeze, join and leave, busy or idle; a broker that dies,
freezes or forgets all; partitions that are added; a topic that is created again; offsets that are
set back; records of strangers."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from brokers import Broker
from kafka import KafkaAdminClient, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.structs import OffsetAndMetadata
from support import committed, with_admin

from chaos.lives import Life, is_all_done, is_of, mark_of, read_life, topic_mark
from chaos.load import Load
from embedkq._formats.commit_metadata import UNKNOWN_TOPIC, TopicMark
from embedkq._formats.record_batch import RawName

ROOT = Path(__file__).parents[2]
MOST_HOSTS, FEWEST_HOSTS = 4, 2
MOST_PARTITIONS = 16
FEWEST_PARTITIONS = 4
_IDLE_SECONDS = 30.0
_EMPTY_SECONDS = 40.0
_HEALTHY_SECONDS = 60.0


class Event(NamedTuple):
    """A fault, from its beginning to when its cause is gone.

    Attributes:
        host: which one it concerned; empty where all are concerned.
        moved_to: of `reset_offsets` the offset from which each partition runs again.
    """

    kind: str
    host: str
    begin: float
    end: float
    moved_to: Mapping[int, int] = MappingProxyType({})


STRANGERS: tuple[dict[str, Any], ...] = (
    {"value": b"no job"},
    {"value": None, "key": b"tombstone"},
    {"value": b"", "headers": [("embedkq", b"1;id=nonsense")]},
    {"value": b"\x80\x05.", "headers": [("embedkq", b"2;later")]},
    {"value": b"x", "headers": [(RawName(b"\xff\xfe"), b"value")]},
    {"value": b"x" * 10_000, "headers": [("embedkq", b"\xff" * 100), ("embedkq", b"")]},
    {"value": b"x", "headers": [("embedkq-dead-topic", b"elsewhere")]},
)
"""What others write to the topic; none of it is a job."""


class Theatre:
    """The hosts and the broker, and what has been done to them."""

    def __init__(
        self,
        broker: Broker,
        topic: str,
        group: str,
        folder: Path,
        seed: int,
        partitions: int,
        load: Load,
    ) -> None:
        self.events: list[Event] = []
        self.failed: list[str] = []
        """Hosts that ended by themselves."""
        self._broker, self._topic, self._group, self._folder = broker, topic, group, folder
        self._random = random.Random(seed)
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        self._leaving: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0
        self._partitions = partitions
        self._load = load
        self.lives: list[Life] = []
        """What each life of the topic held at its end; the last one once `read_last_life` was
        called."""

    def start_host(self) -> None:
        """One more process with a worker."""
        self._started += 1
        name = f"host-{self._started}"
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        }
        arguments = [
            sys.executable,
            "-m",
            "chaos.host",
            self._broker.hosts,
            self._topic,
            self._group,
            str(self._folder),
            name,
        ]
        with (self._folder / f"{name}.out").open("wb") as out:
            self._hosts[name] = subprocess.Popen(arguments, env=environment, stdout=out, stderr=out)

    def one_fault(self) -> str:
        """Bring about a fault, wait until its cause is gone; what it was."""
        kinds: list[tuple[Callable[[], None], int]] = [
            (self.kill_host, 4),
            (self.freeze_host, 2),
            (self.join, 4),
            (self.leave, 4),
            (self.kill_broker, 2),
            (self.freeze_broker, 1),
            (self.add_partition, 2),
            (self.recreate_topic, 2),
            (self.wipe_broker, 1),
            (self.reset_offsets, 1),
            (self.kill_idle_host, 2),
            (self.freeze_idle_host, 1),
            (self.add_strangers, 3),
        ]
        possible = [(fault, weight) for fault, weight in kinds if self._is_possible(fault)]
        fault = self._random.choices(
            [fault for fault, _ in possible], [weight for _, weight in possible]
        )[0]
        fault()
        self._look_after_hosts()
        return fault.__name__

    def _is_possible(self, fault: Callable[[], None]) -> bool:
        return {
            self.join: len(self._hosts) < MOST_HOSTS,
            self.leave: len(self._hosts) > FEWEST_HOSTS,
            self.add_partition: self._partitions < MOST_PARTITIONS,
        }.get(fault, True)

    def kill_host(self, kind: str = "kill_host") -> None:
        name = self._pick()
        began = time.monotonic()
        process = self._hosts.pop(name)
        process.kill()
        process.wait()
        self._note(kind, name, began)
        self.start_host()

    def freeze_host(self, kind: str = "freeze_host") -> None:
        name, began = self._pick(), time.monotonic()
        process = self._hosts[name]
        process.send_signal(signal.SIGSTOP)
        time.sleep(self._random.uniform(1, 10))  # the session lasts 6 s
        process.send_signal(signal.SIGCONT)
        self._note(kind, name, began)

    def join(self) -> None:
        began = time.monotonic()
        self.start_host()
        self._note("join", "", began)

    def leave(self) -> None:
        name, began = self._pick(), time.monotonic()
        process = self._hosts.pop(name)
        process.terminate()
        self._leaving[name] = process
        self._note("leave", name, began)

    def kill_broker(self) -> None:
        began = time.monotonic()
        self._broker.kill()
        time.sleep(self._random.uniform(0, 3))
        self._broker.start()
        self._note("kill_broker", "", began)

    def freeze_broker(self) -> None:
        began = time.monotonic()
        self._broker.pause()
        time.sleep(self._random.uniform(1, 20))
        self._broker.resume()
        self._note("freeze_broker", "", began)

    def add_partition(self) -> None:
        began = time.monotonic()
        admin = KafkaAdminClient(bootstrap_servers=self._broker.hosts)
        try:
            admin.create_partitions({self._topic: self._partitions + 1})
            self._partitions += 1
        finally:
            admin.close()
        self._note("add_partition", "", began)

    def recreate_topic(self) -> None:
        """Delete the topic with all that waits in it, and create it again, with as many partitions
        or fewer."""
        with self._end_of_life("recreate_topic"):
            admin = KafkaAdminClient(bootstrap_servers=self._broker.hosts)
            try:
                old = mark_of(admin, self._topic)
                admin.delete_topics([self._topic])
                time.sleep(self._random.choice([0.0, self._random.uniform(0, 5)]))
                self._create_topic(
                    admin, self._random.randint(FEWEST_PARTITIONS, self._partitions), old
                )
            finally:
                admin.close()

    def wipe_broker(self) -> None:
        """A broker that comes back with neither records nor offsets, as one does that keeps its
        data in memory."""
        with self._end_of_life("wipe_broker"):
            self._broker.wipe()
            time.sleep(self._random.uniform(0, 3))
            self._broker.start()
            admin = KafkaAdminClient(bootstrap_servers=self._broker.hosts)
            try:
                self._create_topic(admin, self._partitions, UNKNOWN_TOPIC)
            finally:
                admin.close()

    @contextmanager
    def _end_of_life(self, kind: str) -> Iterator[None]:
        """End the topic's life: three times of four once all of it is done, so that nothing may be
        missing; else with what waits in it.

        Nothing is sent while the topic is read, so that it is known of each job whether it was in
        it.
        """
        wait = self._random.random() < 0.75
        self._load.pause(True)
        try:
            if wait:
                self._await_all_done()
            life = read_life(self._broker.hosts, self._group, self._topic, self._load.numbers.get)
            if not wait:
                self._load.pause(False)
            began = time.monotonic()
            self.lives.append(life._replace(end=began))
            yield
            self._note(kind, "", began)
        finally:
            self._load.pause(False)

    def read_last_life(self) -> None:
        """Read what the topic holds at the end."""
        self.lives.append(
            read_life(self._broker.hosts, self._group, self._topic, self._load.numbers.get)
        )

    def _create_topic(self, admin: KafkaAdminClient, partitions: int, old: TopicMark) -> None:
        """Return once another topic than `old` is there, whoever created it: a client's question
        may have."""
        while True:
            try:
                admin.create_topics({self._topic: {"num_partitions": partitions}})
            except (
                kafka_errors.TopicAlreadyExistsError,
                kafka_errors.KafkaTimeoutError,
                kafka_errors.RequestTimedOutError,
            ):
                time.sleep(0.2)
            mark = mark_of(admin, self._topic)
            if mark.partitions and mark.id != old.id:
                self._partitions = mark.partitions
                return

    def reset_offsets(self) -> None:
        """Ask all hosts to leave, move the group back, and start new ones."""
        began, names = time.monotonic(), sorted(self._hosts)
        for name in names:
            self._hosts[name].terminate()
        self._leaving.update(self._hosts)
        self._hosts.clear()
        for name in names:
            self._await_end(name, self._leaving[name], _EMPTY_SECONDS)
        moved_to = self._move_back()
        self._note("reset_offsets", "", began, moved_to)
        for _ in names:
            self.start_host()

    def _move_back(self) -> dict[int, int]:
        """Up to 100 records back in each partition, once the group has no member; the new offsets
        by partition."""
        mark, known = (
            topic_mark(self._broker.hosts, self._topic),
            committed(self._broker.hosts, self._group, self._topic),
        )
        # An offset of a topic that was deleted would lose with its metadata what tells that it is
        # none of this one.
        back = {
            number: max(0, offset - self._random.randint(0, 100))
            for number, (offset, text) in known.items()
            if is_of(mark, offset, text)
        }
        wanted = {
            TopicPartition(self._topic, number): OffsetAndMetadata(offset, "", -1)
            for number, offset in back.items()
        }
        move_group(self._broker.hosts, self._group, wanted)
        return back

    def kill_idle_host(self) -> None:
        """A host dies that has nothing to do, and has committed all that it did: nothing may run
        again."""
        with self._idle("kill_idle_host", "kill_host") as kind:
            self.kill_host(kind)

    def freeze_idle_host(self) -> None:
        """A host freezes that has nothing to do."""
        with self._idle("freeze_idle_host", "freeze_host") as kind:
            self.freeze_host(kind)

    @contextmanager
    def _idle(self, idle: str, busy: str) -> Iterator[str]:
        """While nothing is enqueued; `idle` once all is done, `busy` if that takes too long."""
        self._load.pause(True)
        try:
            yield idle if self._await_all_done() else busy
        finally:
            self._load.pause(False)

    def _await_all_done(self) -> bool:
        deadline = time.monotonic() + _IDLE_SECONDS
        while (
            not (done := is_all_done(self._broker.hosts, self._group, self._topic))
            and time.monotonic() < deadline
        ):
            time.sleep(0.3)
        return done

    def add_strangers(self) -> None:
        """Records that are no jobs, and some that kafka-python cannot read."""
        began = time.monotonic()
        producer = KafkaProducer(bootstrap_servers=self._broker.hosts)
        try:
            for _ in range(20):
                partition = self._random.randrange(self._partitions)
                producer.send(self._topic, partition=partition, **self._random.choice(STRANGERS))
            producer.flush(10)
        except kafka_errors.KafkaError:  # the broker is away; another time
            pass
        finally:
            producer.close(1)
        self._note("add_strangers", "", began)

    def await_health(self) -> None:
        """Once all is done each host has to say so: healthy, and without lag. What one says instead
        counts as its failure."""
        asked, deadline = time.monotonic(), time.monotonic() + _HEALTHY_SECONDS
        for name in self._hosts:
            while (
                flaw := flaw_of_health(self._folder / f"{name}.health", asked)
            ) and time.monotonic() < deadline:
                time.sleep(0.5)
            if flaw:
                self.failed.append(f"{name}, when all was done: {flaw}")

    def end(self, patience: float = 60) -> None:
        """Ask all hosts to leave, and wait until they have."""
        for process in self._hosts.values():
            process.terminate()
        self._leaving.update(self._hosts)
        self._hosts.clear()
        deadline = time.monotonic() + patience
        for name, process in self._leaving.items():
            self._await_end(name, process, max(0.0, deadline - time.monotonic()))
            if process.returncode:
                self.failed.append(f"{name} ended with {process.returncode}")

    def _await_end(self, name: str, process: subprocess.Popen[bytes], seconds: float) -> None:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.failed.append(f"{name} did not end within {seconds:.0f} s")
            process.kill()
            process.wait()

    def kill_all(self) -> None:
        """However it ends, nothing is left behind."""
        for process in (*self._hosts.values(), *self._leaving.values()):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait()

    def _look_after_hosts(self) -> None:
        for name, process in list(self._hosts.items()):
            if process.poll() is not None:
                self.failed.append(f"{name} ended with {process.returncode}")
                del self._hosts[name]
                self.start_host()

    def _pick(self) -> str:
        return self._random.choice(sorted(self._hosts))

    def _note(
        self, kind: str, host: str, began: float, moved_to: Mapping[int, int] = MappingProxyType({})
    ) -> None:
        self.events.append(Event(kind, host, began, time.monotonic(), moved_to))


def move_group(hosts: str, group: str, offsets: Mapping[TopicPartition, OffsetAndMetadata]) -> None:
    """Set what a group has committed, once it has no member: a host that was killed is one until
    its session ends."""
    deadline = time.monotonic() + _EMPTY_SECONDS
    while offsets:
        answers = with_admin(hosts, lambda admin: admin.alter_group_offsets(group, offsets))
        if not any(getattr(answer, "errno", 0) for answer in answers.values()):
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"the offsets could not be moved: {answers}")
        time.sleep(0.5)


def flaw_of_health(path: Path, since: float) -> str:
    """What is wrong with a host that has nothing left to do, as its health of this moment or later
    says; nothing if all is well."""
    try:
        when, told = json.loads(path.read_text())
    except FileNotFoundError:
        return "it has not told its health"
    if when < since:
        return f"it has not told its health for {since - when:.0f} s"
    behind = {partition: lag for partition, lag in told["lag"].items() if lag}
    return "; ".join((*told["reasons"], *([f"its lag is {behind}"] if behind else ())))
