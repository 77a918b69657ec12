"""The delivery promise under faults, on Apache Kafka: what is done and committed never runs again,
nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from kafka import KafkaAdminClient
from kafka.admin import MemberToRemove
from support import (
    ROOT,
    Recorder,
    Sender,
    committed,
    fire_until,
    lag,
    lines,
    send_many,
    wait_until,
    with_admin,
)

from embedkq import Queue, Worker
from embedkq._clients.admin import describe
from embedkq._formats.commit_metadata import decode
from embedkq.errors import BrokerUnavailable, WorkerFailed

SESSION = {"session_timeout_ms": 6_000, "heartbeat_interval_ms": 500}


@pytest.fixture
def make_worker(hosts: str, topic: str, group: str) -> Callable[..., Worker]:
    def make(callback: Any = None, **options: Any) -> Worker:
        kafka = {**SESSION, **options.pop("kafka", {})}
        options = {"hosts": hosts, "topic": topic, "group": group, "callback": callback, **options}
        return Worker(kafka=kafka, **options)

    return make


@pytest.fixture
def owners() -> Iterator[Callable[[Worker], threading.Thread]]:
    """Runs workers, each on an owning thread of its own, and stops them at the end."""
    running: list[tuple[Worker, threading.Thread]] = []

    def own(worker: Worker) -> threading.Thread:
        thread = threading.Thread(target=worker.start)
        thread.start()
        running.append((worker, thread))
        return thread

    yield own
    for worker, _ in running:
        worker.request_stop()
    for _, thread in running:
        thread.join(30)
        assert not thread.is_alive()


def members_of(hosts: str, topic: str, group: str) -> dict[str, tuple[tuple[str, int], ...]]:
    try:
        groups = describe(hosts, topic, group).groups
    except BrokerUnavailable:  # a fresh broker has no coordinator for its first seconds
        return {}
    return {member.id: member.partitions for found in groups for member in found.members}


# Hosts of their own, to be killed and frozen.

HOST = """
import sys, threading
from embedkq import Worker
hosts, topic, group, told = sys.argv[1:]
import workerjobs
def callback(status, job, result, exception, traceback):
    workerjobs.note(told, f"{job.id} {status}")
Worker(hosts=hosts, topic=topic, group=group, callback=callback, processes=2,
       kafka={"session_timeout_ms": 6000, "heartbeat_interval_ms": 500}).start()
"""


@pytest.fixture
def start_host(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts processes that host a worker; their callbacks note ids and statuses in `told`."""
    script = tmp_path / "host.py"
    script.write_text(HOST)
    started: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}

    def start() -> subprocess.Popen[bytes]:
        arguments = [sys.executable, str(script), hosts, topic, group, str(tmp_path / "told")]
        started.append(subprocess.Popen(arguments, env=environment))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        process.wait(30)


def told_of(tmp_path: Path) -> Counter[str]:
    return Counter(line.split()[0] for line in lines(tmp_path / "told"))


# What is committed.


def test_done_above_a_slow_job_never_runs_again_after_the_host_was_killed(
    start_host: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    notes, gate = str(tmp_path / "notes"), str(tmp_path / "gate")
    with Queue(hosts=hosts, topic=topic) as queue:
        to_one = queue.using(partition=0)
        to_one.enqueue(workerjobs.note_and_wait, notes, "slow", gate)
        for number in range(200):
            to_one.enqueue(workerjobs.note, notes, number)
    first = start_host()
    wait_until(lambda: len(lines(notes)) == 201, "all but the slow one are done")

    def all_in_metadata() -> bool:
        offset, metadata = committed(hosts, group, topic).get(0, (0, ""))
        return offset == 0 and decode(0, metadata)[0] == ((1, 201),)

    wait_until(all_in_metadata, "what is done above the slow job is committed")
    first.kill()
    Path(gate).touch()
    start_host()
    wait_until(lambda: lag(hosts, group, topic) == 0, "the slow job is done")
    assert Counter(lines(notes)) == {**{str(number): 1 for number in range(200)}, "slow": 2}
    assert set(told_of(tmp_path).values()) == {1} and len(told_of(tmp_path)) == 201


@pytest.mark.parametrize("metadata", ["not ours", "1!" + "x" * 50, "\x00" * 9])
def test_damaged_metadata_is_ignored_with_a_warning(
    make_worker: Any, hosts: str, topic: str, group: str, metadata: str, caplog: Any
) -> None:
    from kafka import TopicPartition
    from kafka.structs import OffsetAndMetadata

    ids = send_many(hosts, topic, workerjobs.echo, [()] * 10, partition=0)
    with_admin(
        hosts,
        lambda admin: admin.alter_group_offsets(
            group, {TopicPartition(topic, 0): OffsetAndMetadata(4, metadata, -1)}
        ),
    )
    recorder = Recorder()
    with make_worker(recorder) as worker:
        assert worker.drain(60)
    assert recorder.ids == dict.fromkeys(ids[4:], 1)
    assert "is not usable" in caplog.text


@pytest.mark.needs("properties")
def test_where_a_broker_takes_less_metadata_the_plain_watermark_is_committed(
    make_broker: Any, topic: str, group: str, tmp_path: Path, caplog: Any
) -> None:
    broker = make_broker({"offset.metadata.max.bytes": "40"})
    with_admin(broker.hosts, lambda admin: admin.create_topics({topic: {"num_partitions": 1}}))
    gate, recorder, choice = tmp_path / "gate", Recorder(), random.Random(1)
    kept = [choice.random() < 0.5 for _ in range(300)]
    with Queue(hosts=broker.hosts, topic=topic) as queue:
        queue.enqueue(workerjobs.echo)
        slow = queue.using(key="behind the slow one")
        slow.enqueue(workerjobs.note_and_wait, str(tmp_path / "notes"), "slow", str(gate))
        for keep in kept:
            (slow if keep else queue).enqueue(workerjobs.echo)
    with Worker(
        hosts=broker.hosts, topic=topic, group=group, callback=recorder, processes=2, kafka=SESSION
    ) as worker:
        fire_until(
            worker, lambda: len(recorder) == 1 + kept.count(False), "all that may run is done"
        )
        wait_until(lambda: "refuses commit metadata" in caplog.text, "the warning")
        wait_until(
            lambda: committed(broker.hosts, group, topic).get(0) == (1, ""), "the plain watermark"
        )
        gate.touch()
        assert worker.drain(60)
    assert lag(broker.hosts, group, topic) == 0 and len(recorder) == 302


# Rebalances.


def test_partitions_move_between_hosts_without_a_job_run_twice(
    make_worker: Any, owners: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    notes = str(tmp_path / "notes")
    recorders = [Recorder() for _ in range(3)]
    workers = [make_worker(recorder, processes=2) for recorder in recorders]
    owners(workers[0])
    ids: list[str] = []
    stop_sending = threading.Event()

    def send() -> None:
        with Sender(hosts, topic) as sender:
            while not stop_sending.is_set():
                ids.append(sender.send(workerjobs.note_slowly, notes, len(ids)))
                stop_sending.wait(0.005)
            sender.flush()

    sending = threading.Thread(target=send)
    sending.start()
    try:
        owners(workers[1])
        wait_until(lambda: len(recorders[1]) > 20, "the second has taken partitions over")
        owners(workers[2])
        wait_until(lambda: len(recorders[2]) > 20, "the third has taken partitions over")
        workers[0].request_stop()
        assert workers[0].wait(30)
        at_that_time = len(recorders[1])
        wait_until(lambda: len(recorders[1]) > at_that_time + 50, "the others go on")
    finally:
        stop_sending.set()
        sending.join()
    wait_until(lambda: lag(hosts, group, topic) == 0, "all is done")
    fired = sum((recorder.ids for recorder in recorders), Counter())
    assert fired == dict.fromkeys(ids, 1)
    assert Counter(lines(notes)) == {str(number): 1 for number in range(len(ids))}


def test_a_revocation_waits_for_what_runs(
    make_worker: Any, owners: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    recorders = [Recorder(), Recorder()]
    workers = [make_worker(recorder, processes=4, revoke_timeout=30) for recorder in recorders]
    with Queue(hosts=hosts, topic=topic) as queue:
        for partition in range(4):
            queue.using(partition=partition).enqueue(
                workerjobs.note_and_wait, str(notes), partition, str(gate)
            )
    owners(workers[0])
    wait_until(lambda: len(lines(notes)) == 4, "all four run on the first")
    owners(workers[1])
    wait_until(
        lambda: len(workers[0]._runtime.consumer.assignment.partitions) < 4,
        "some are being revoked",
    )
    time.sleep(1.5)  # a chance to do the wrong thing: to hand them over now
    gate.touch()
    wait_until(lambda: lag(hosts, group, topic) == 0, "all is done")
    assert (
        sorted(lines(notes)) == ["0", "1", "2", "3"]
        and len(recorders[0]) == 4
        and not recorders[1].calls
    )


def gates_of(queue: Queue, folder: Path, partitions: Iterable[int]) -> str:
    """A job for each partition that runs until its own gate is opened; where they note that they
    have begun."""
    for partition in partitions:
        job = queue.using(partition=partition)
        job.enqueue(
            workerjobs.note_and_wait,
            str(folder / "notes"),
            partition,
            str(folder / f"gate {partition}"),
        )
    return str(folder / "notes")


def test_partitions_that_stay_go_on_while_one_that_goes_waits_for_its_job(
    make_worker: Any, owners: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    recorders = [Recorder() for _ in range(3)]
    workers = [make_worker(recorder, processes=6, revoke_timeout=60) for recorder in recorders]
    with Queue(hosts=hosts, topic=topic) as queue:
        notes = gates_of(queue, tmp_path, range(4))
        owners(workers[0])
        wait_until(lambda: len(lines(notes)) == 4, "all four run on the first")
        owners(workers[1])
        assignment = workers[0]._runtime.consumer.assignment
        wait_until(lambda: assignment.settles, "the first gives some up")
        kept = [partition.number for partition in assignment.partitions]
        assert 0 < len(kept) < 4
        for partition in kept:
            (tmp_path / f"gate {partition}").touch()
            for number in range(20):
                queue.using(partition=partition).enqueue(
                    workerjobs.note, notes, f"{partition} {number}"
                )
        wait_until(
            lambda: len(recorders[0]) == 21 * len(kept),
            "those that stay are fetched and run, and have their callbacks",
        )
        wait_until(
            lambda: all(committed(hosts, group, topic)[p][0] == 21 for p in kept),
            "and are committed",
        )
        assert assignment.settles and not recorders[1].calls
        for partition in range(4):
            (tmp_path / f"gate {partition}").touch()
        wait_until(lambda: lag(hosts, group, topic) == 0, "all is done")
    assert Counter(lines(notes)) == dict.fromkeys(lines(notes), 1) and len(
        lines(notes)
    ) == 4 + 20 * len(kept)


def test_partitions_go_on_while_the_group_waits_for_another_worker(
    make_worker: Any, owners: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    recorders = [Recorder() for _ in range(4)]
    workers = [make_worker(recorder, processes=6, revoke_timeout=60) for recorder in recorders]
    for worker in workers[:2]:
        owners(worker)
    with Queue(hosts=hosts, topic=topic) as queue:
        wait_until(
            lambda: sorted(map(len, members_of(hosts, topic, group).values())) == [2, 2],
            "two partitions each",
        )
        notes = gates_of(queue, tmp_path, range(4))
        wait_until(lambda: len(lines(notes)) == 4, "all four run")
        owners(workers[2])
        wait_until(
            lambda: any(worker._runtime.consumer.assignment.settles for worker in workers[:2]),
            "one of them gives one up",
        )
        waiting = next(
            worker for worker in workers[:2] if not worker._runtime.consumer.assignment.settles
        )
        owners(workers[3])
        wait_until(lambda: _is_joining(hosts, topic, group), "a fourth one joins")
        others = waiting._runtime.consumer.assignment.partitions
        assert len(others) == 2
        for _, partition in others:
            for number in range(20):
                queue.using(partition=partition).enqueue(
                    workerjobs.note, notes, f"{partition} {number}"
                )
        wait_until(lambda: len(lines(notes)) == 4 + 40, "the partitions of the other one go on")
        assert _is_joining(hosts, topic, group)
        for partition in range(4):
            (tmp_path / f"gate {partition}").touch()
        wait_until(lambda: lag(hosts, group, topic) == 0, "all is done")
    assert (
        Counter(lines(notes)) == dict.fromkeys(lines(notes), 1) and sum(map(len, recorders)) == 44
    )


def _is_joining(hosts: str, topic: str, group: str) -> bool:
    return any("Rebalance" in str(found.state) for found in describe(hosts, topic, group).groups)


def test_a_stop_while_partitions_are_given_up_commits_what_was_done_of_them(
    make_worker: Any, owners: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    recorders = [Recorder(), Recorder()]
    first, second = (
        make_worker(recorder, processes=4, revoke_timeout=60) for recorder in recorders
    )
    with Queue(hosts=hosts, topic=topic) as queue:
        notes = gates_of(queue, tmp_path, range(4))
    owners(first)
    wait_until(lambda: len(lines(notes)) == 4, "all four run on the first")
    owners(second)
    wait_until(lambda: first._runtime.consumer.assignment.settles, "some are given up")
    first.request_stop()
    for partition in range(4):
        (tmp_path / f"gate {partition}").touch()
    assert first.wait(30)
    wait_until(
        lambda: len(second._runtime.consumer.assignment.partitions) == 4, "the second has them all"
    )
    wait_until(lambda: lag(hosts, group, topic) == 0, "all is done")
    assert (
        sorted(lines(notes)) == ["0", "1", "2", "3"]
        and len(recorders[0]) == 4
        and not recorders[1].calls
    )


def test_what_runs_longer_than_the_revocation_waits_still_has_its_one_callback(
    make_worker: Any, owners: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    notes, gate = tmp_path / "notes", tmp_path / "gate"
    recorders = [Recorder(), Recorder()]
    workers = [make_worker(recorder, processes=4, revoke_timeout=0.5) for recorder in recorders]
    with Queue(hosts=hosts, topic=topic) as queue:
        for partition in range(4):
            queue.using(partition=partition).enqueue(
                workerjobs.note_and_wait, str(notes), partition, str(gate)
            )
    owners(workers[0])
    wait_until(lambda: len(lines(notes)) == 4, "all four run on the first")
    owners(workers[1])
    wait_until(lambda: len(lines(notes)) > 4, "the second has begun what the first still runs")
    gate.touch()
    wait_until(lambda: lag(hosts, group, topic) == 0, "all is done")
    wait_until(lambda: len(recorders[0]) == 4, "the late ends are told")
    moved = len(lines(notes)) - 4
    assert (
        1 <= moved <= 2 and len(recorders[1]) == moved
    )  # at least once: those that moved ran on both
    assert max(recorders[0].ids.values()) == max(recorders[1].ids.values()) == 1


def test_a_lost_partition_is_not_committed_and_a_frozen_host_wakes_up_well(
    start_host: Any, hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    notes = str(tmp_path / "notes")
    first = start_host()
    wait_until(lambda: members_of(hosts, topic, group), "the first has joined")
    send_many(hosts, topic, workerjobs.note, [(notes, number) for number in range(50)])
    wait_until(lambda: lag(hosts, group, topic) == 0, "it works")
    first.send_signal(signal.SIGSTOP)
    send_many(hosts, topic, workerjobs.note, [(notes, number) for number in range(50, 100)])
    start_host()
    wait_until(lambda: lag(hosts, group, topic) == 0, "the second has taken over")
    first.send_signal(signal.SIGCONT)
    wait_until(lambda: len(members_of(hosts, topic, group)) == 2, "the first is back in the group")
    send_many(hosts, topic, workerjobs.note, [(notes, number) for number in range(100, 200)])
    wait_until(lambda: lag(hosts, group, topic) == 0, "both work")
    assert set(Counter(lines(notes))) == {str(number) for number in range(200)}
    assert first.poll() is None


def test_a_static_member_comes_back_to_its_partitions(
    make_worker: Any, hosts: str, topic: str, group: str
) -> None:
    recorder = Recorder()
    for round_ in range(2):
        ids = send_many(hosts, topic, workerjobs.echo, [()] * 5)
        with make_worker(recorder, kafka={"group_instance_id": "one"}) as worker:
            fire_until(worker, lambda ids=ids: set(ids) <= set(recorder.ids), f"round {round_}")
    assert len(recorder) == 10


def test_partitions_that_are_added_are_taken(
    make_worker: Any, hosts: str, topic: str, group: str
) -> None:
    recorder = Recorder()
    with make_worker(recorder, kafka={"metadata_max_age_ms": 500}) as worker:
        send_many(hosts, topic, workerjobs.echo, [()] * 20)
        fire_until(worker, lambda: len(recorder) == 20, "the first ones are done")
        with_admin(hosts, lambda admin: admin.create_partitions({topic: 8}))
        ids = send_many(hosts, topic, workerjobs.echo, [()] * 20, partition=7)
        fire_until(
            worker, lambda: set(ids) <= set(recorder.ids), "those of the new partition are done"
        )
    assert max(recorder.ids.values()) == 1


@pytest.mark.hang_guard(240)
def test_a_consumer_left_for_dead_is_replaced_and_what_runs_is_not_run_again(
    make_worker: Any,
    hosts: str,
    topic: str,
    group: str,
    tmp_path: Path,
    monkeypatch: Any,
    caplog: Any,
) -> None:
    notes, gate, recorder = tmp_path / "notes", tmp_path / "gate", Recorder()
    with make_worker(recorder, processes=2) as worker:
        with Queue(hosts=hosts, topic=topic) as queue:
            queue.using(partition=0).enqueue(
                workerjobs.note_and_wait, str(notes), "long", str(gate)
            )
        send_many(hosts, topic, workerjobs.note, [(str(notes), number) for number in range(20)])
        fire_until(worker, lambda: len(recorder) == 20, "the short ones are done")
        # kafka-python is in this state at times after poll(0) met a rebalance: it is no member any
        # more, and does not join again.
        client = worker._runtime.consumer._client
        monkeypatch.setattr(client.kafka._coordinator, "need_rejoin", lambda: False)
        with_admin(
            hosts,
            lambda admin: admin.remove_group_members(
                group, [MemberToRemove(member_id=client.member_id)]
            ),
        )
        fire_until(
            worker,
            lambda: worker._runtime.consumer.committer.refused_since is not None,
            "it is left for dead",
        )
        # It goes on polling records of its old assignment: what is done of them cannot be
        # committed, and must not run again.
        ids = send_many(
            hosts,
            topic,
            workerjobs.note,
            [(str(notes), number) for number in range(20, 40)],
            partition=1,
        )
        fire_until(
            worker, lambda: set(ids) <= set(recorder.ids), "the dead consumer's jobs are done"
        )
        began = time.monotonic()
        fire_until(worker, lambda: "Joining with a new consumer" in caplog.text, "the watchdog")
        assert time.monotonic() - began < 6 + 5 + 2
        ids = send_many(hosts, topic, workerjobs.echo, [()] * 20)
        fire_until(worker, lambda: set(ids) <= set(recorder.ids), "the new consumer works")
        gate.touch()
        fire_until(worker, lambda: lag(hosts, group, topic) == 0, "all is done")
    assert (
        max(Counter(lines(notes)).values()) == 1
        and max(recorder.ids.values()) == 1
        and len(recorder) == 61
    )


# Outages.


def restart(broker: Any) -> None:
    broker.kill()
    broker.start()


def freeze(broker: Any) -> None:
    broker.pause()
    time.sleep(12)  # longer than the session
    broker.resume()


@pytest.mark.needs("kill", "pause", "keeps_data")
@pytest.mark.parametrize("fault", [restart, freeze])
def test_an_outage_loses_nothing_and_is_told_once(
    make_broker: Any, topic: str, group: str, fault: Any, caplog: Any
) -> None:
    broker, recorder = make_broker(), Recorder()
    caplog.set_level("INFO", "embedkq")
    with Worker(
        hosts=broker.hosts, topic=topic, group=group, callback=recorder, processes=2, kafka=SESSION
    ) as worker:
        ids = send_many(broker.hosts, topic, workerjobs.echo, [()] * 200)
        fire_until(worker, lambda: len(recorder) >= 100, "half of them are done")
        outage = threading.Thread(target=fault, args=(broker,))
        outage.start()
        while outage.is_alive():
            worker.run_callbacks(0.1)
        ids += send_many(broker.hosts, topic, workerjobs.echo, [()] * 200)
        fire_until(worker, lambda: set(ids) <= set(recorder.ids), "all are done")
        fire_until(worker, lambda: lag(broker.hosts, group, topic) == 0, "all is committed")
    texts = [record.getMessage() for record in caplog.records if record.name == "embedkq.worker"]
    assert sum("does not answer" in text for text in texts) <= 1
    assert sum("answers again" in text for text in texts) == sum(
        "does not answer" in text for text in texts
    )
    assert max(recorder.ids.values()) == 1


@pytest.mark.needs("properties")
def test_a_deleted_topic_fails_the_worker(make_broker: Any, group: str) -> None:
    broker = make_broker({"auto.create.topics.enable": "false"})
    with_admin(broker.hosts, lambda admin: create(admin, "short-lived"))
    worker = Worker(
        hosts=broker.hosts,
        topic="short-lived",
        group=group,
        kafka={**SESSION, "metadata_max_age_ms": 500},
    )
    with pytest.raises(WorkerFailed, match="'short-lived' does not exist"), worker:
        wait_until(lambda: members_of(broker.hosts, "short-lived", group), "it has joined")
        with_admin(broker.hosts, lambda admin: admin.delete_topics(["short-lived"]))
        wait_until(lambda: worker.state == "failed", "it has failed")
        worker.run_callbacks()
    assert isinstance(worker.error, WorkerFailed)
    assert worker.run_callbacks() == 0  # told once


def create(admin: KafkaAdminClient, topic: str) -> None:
    admin.create_topics({topic: {"num_partitions": 2}})


# Ends.


def test_leaving_the_interpreter_without_stop_is_quick_quiet_and_repeats_rather_than_loses(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    script, notes = tmp_path / "leaves.py", tmp_path / "notes"
    script.write_text(
        "import sys, time, workerjobs\nfrom embedkq import Worker\nfrom pathlib import Path\n"
        "hosts, topic, group, notes = sys.argv[1:]\n"
        "worker = Worker(hosts=hosts, topic=topic, group=group, callback=print, processes=2).start_background()\n"
        "while len(workerjobs.read(notes)) < 2: worker.run_callbacks(0.05)\n"
        "print('leaving', time.time(), flush=True)\n"
    )
    with Queue(hosts=hosts, topic=topic) as queue:
        queue.enqueue(workerjobs.hang_noting_begin, str(notes), "one")
        queue.enqueue(workerjobs.hang_noting_begin, str(notes), "two")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    done = subprocess.run(
        [sys.executable, str(script), hosts, topic, group, str(notes)],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        check=True,
    )
    assert time.time() - float(done.stdout.split()[1]) < 2.5 and not done.stderr
    assert lag(hosts, group, topic) == 2
    for line in lines(notes):
        assert workerjobs.life_of(int(line.split()[2])) in ("", "Z", "X")


@pytest.mark.needs("pause")
def test_a_queue_sends_again_after_an_outage_that_was_longer_than_its_patience(
    make_broker: Any,
) -> None:
    """An idempotent producer of kafka-python 3.0.12 never sends again once a batch has expired."""
    broker = make_broker()
    queue = Queue(hosts=broker.hosts, topic="patience")
    queue.enqueue(workerjobs.echo)
    broker.pause()
    began = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        queue.enqueue(workerjobs.echo)
    assert caught.value.maybe_sent and time.monotonic() - began < 11
    broker.resume()
    queue.enqueue(workerjobs.echo)
    queue.close()
    assert time.monotonic() - began < 25
