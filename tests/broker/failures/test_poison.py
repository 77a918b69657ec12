"""The poison guard: a job that takes its worker's own process down does so a few times, and not for
ever."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loopharness
import pytest
import workerjobs
from kafka.errors import KafkaError, KafkaTimeoutError
from letters import letters_in
from partitions import P0, P1
from support import ROOT, Recorder, committed, lag, lines, logged, wait_until, with_admin

from embedkq import Queue, Worker
from embedkq._formats import commit_metadata, dead_letter, headers
from embedkq._formats.commit_metadata import NOTHING, CommitMetadata
from embedkq._formats.outcome import Outcome
from embedkq._partition import Partition
from embedkq.errors import BrokerUnavailable, HostCrashed
from embedkq.worker.between_threads.mailbox import Mailbox
from embedkq.worker.between_threads.messages import Assigned, CallbacksDone, Finished, JobRun
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.consumer_thread.committer import Committer
from embedkq.worker.consumer_thread.consumer_thread import ConsumerThread
from embedkq.worker.consumer_thread.partition_starts import Start
from embedkq.worker.consumer_thread.validator import RecordValidator
from embedkq.worker.control_thread import crash_guard
from embedkq.worker.control_thread.crash_guard import CrashGuard
from embedkq.worker.control_thread.partition_ledger import PartitionLedger
from embedkq.worker.owner_thread.callback_arguments import callback_arguments

MOST = 3


class Polled:
    """A record, as far as a run needs one."""

    key, value, headers, timestamp, flaw = None, b"no pickle at all", (), 0, None

    def __init__(self, offset: int) -> None:
        self.offset = offset


# The guard by itself.


class Host:
    """One host's guard, ledger and exchange, for one partition that was committed with these
    notes."""

    def __init__(self, noted: CommitMetadata, offset: int = 0) -> None:
        self.shared = SharedState()
        self.ledger = PartitionLedger()
        self.guard = CrashGuard(self.shared, self.ledger, 1, MOST)
        self.ledger.assign(Assigned(P0, 1, offset, commit_metadata.encode(offset, (), noted)))
        self.guard.assigned(P0)

    def admit(self, *numbers: int) -> list[JobRun]:
        for number in numbers:
            self.ledger.tracker.admit(P0, number)
        return [JobRun(P0, 1, Polled(number)) for number in numbers]

    def release(self, runs: list[JobRun]) -> list[JobRun]:
        """Those that begin; `quarantined` is the one that never will."""
        begin, self.quarantined = self.guard.release(runs)
        return begin

    def commit(self) -> CommitMetadata:
        """As the consumer's thread does; what the next host finds."""
        self.shared.confirm(self.ledger.snapshot())
        return self.shared.committed[P0].notes


def test_after_two_starts_in_vain_jobs_run_one_at_a_time_each_after_a_commit() -> None:
    host = Host(CommitMetadata(starts=1))
    [run] = host.admit(0)
    assert host.release([run]) == [] and not host.ledger.suspicious
    host = Host(CommitMetadata(starts=2))
    first, second = runs = host.admit(0, 1)
    assert host.release(runs) == [] and host.guard.held_up == {P0}
    assert host.release([]) == [] and host.shared.serial_mode
    assert host.commit().suspect == 0
    assert host.release([]) == [first] and host.release([]) == []
    host.commit()
    assert host.release([]) == []
    host.guard.left(first)
    assert host.release([]) == [] and host.commit().suspect == 1
    assert host.release([]) == [second]


def test_care_ends_after_some_jobs_and_some_time_and_only_once_that_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crash_guard, "CAREFUL_SECONDS", 0.0)
    host = Host(CommitMetadata(starts=2))
    first, second, *others = runs = host.admit(0, 1, 2, 3)
    for run in (first, second):  # two for each process
        assert host.release(runs) == []
        assert host.commit().starts == 3
        assert host.release([]) == [run]
        host.guard.left(run)
        host.ledger.finish(run)
        runs = []
    assert host.release([]) == []
    assert host.commit() == CommitMetadata()
    host.shared.asked.clear()
    assert host.release([]) == others and not host.guard.held_up
    assert not host.shared.serial_mode and host.shared.asked.is_set(), (
        "the consumer's thread waits for no further question"
    )


def test_progress_is_no_start_in_vain() -> None:
    host = Host(CommitMetadata(starts=1))
    [run] = host.admit(0)
    assert host.release([run]) == [] and host.shared.serial_mode and host.commit().starts == 2
    assert host.release([]) == [run] and not host.shared.serial_mode
    host.ledger.finish(run)
    assert host.commit() == CommitMetadata()


def test_nothing_is_noted_of_a_host_that_has_begun_nothing() -> None:
    for noted in (
        CommitMetadata(),
        CommitMetadata(starts=2),
        CommitMetadata(crashes={3: 1}, hosts=("other",)),
    ):
        host = Host(noted)
        assert host.release([]) == [] and host.commit() == noted and not host.shared.serial_mode


def test_the_first_jobs_wait_for_a_commit_once_and_not_when_the_host_gets_the_partition_again() -> (
    None
):
    host = Host(CommitMetadata())
    first, second, third = host.admit(0, 1, 2)
    assert (
        host.release([first]) == []
        and host.release([second]) == []
        and host.commit() == CommitMetadata(starts=1)
    )
    assert host.release([]) == [first, second] and host.release([third]) == [third]
    host.ledger.assign(Assigned(P0, 2, 0, commit_metadata.encode(0, (), CommitMetadata(starts=1))))
    host.guard.assigned(P0)
    runs = host.admit(0)
    assert host.release(runs) == runs and host.commit() == CommitMetadata(starts=1)


def test_holes_are_no_progress_and_do_not_keep_the_first_job_waiting() -> None:
    host = Host(CommitMetadata())
    [run] = host.admit(5)  # what is before it is compacted away
    assert (
        host.release([run]) == []
        and host.commit() == CommitMetadata(starts=1)
        and host.shared.committed[P0].offset == 5
    )
    assert host.release([]) == [run]


def test_a_host_that_was_asked_to_stop_is_not_to_blame() -> None:
    host = Host(CommitMetadata(starts=2, crashes={4: 1}, hosts=("other",)))
    [run] = host.admit(0)
    host.release([run])
    assert host.commit().suspect == 0 and host.shared.committed[P0].notes.hosts == (
        "other",
        socket.gethostname(),
    )
    told = host.shared.committed[P0].given_up().notes
    assert told == CommitMetadata(crashes={4: 1}, hosts=("other",))
    assert Host(told).ledger.notes_of(P0) == told


def test_what_hosts_went_down_over_is_condemned_and_a_host_lost_to_that_has_it_pass_in_silence() -> (
    None
):
    noted, verdicts = CommitMetadata(starts=2), []
    for _ in range(MOST + 2):
        host = Host(noted)
        [run] = host.admit(0)
        host.release([run])
        noted = host.commit()
        verdicts.append(
            "runs"
            if host.release([])
            else (host.quarantined.error.count, host.quarantined.silently)
        )
    assert verdicts == ["runs"] * MOST + [(MOST, False), (MOST + 1, True)]
    assert host.quarantined.error.hosts == (socket.gethostname(),)


@pytest.mark.parametrize("crashes", range(MOST))
def test_a_suspect_gets_its_last_chance_with_nothing_beside_it(crashes: int) -> None:
    """A job of another partition that takes the host down meanwhile would have it condemned."""
    last = crashes == MOST - 1
    host = Host(CommitMetadata(starts=3, crashes={0: crashes} if crashes else {}))
    host.guard._is_idle = lambda: idle
    host.ledger.assign(Assigned(P1, 1, 0, ""))
    host.guard.assigned(P1)
    host.shared.begun.add(P1)
    host.ledger.tracker.admit(P1, 0)
    [suspect], other, idle = host.admit(0), JobRun(P1, 1, Polled(0)), False
    assert host.release([suspect]) == []
    host.commit()
    assert host.release([other]) == ([] if last else [other, suspect])
    if last:
        assert host.guard.held_up == {P0, P1}
        idle = True
        assert host.release([]) == [suspect] and host.release([]) == []
        host.guard.left(suspect)
        assert host.release([]) == [other]


def test_a_last_chance_holds_up_the_others_for_a_bounded_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = Host(CommitMetadata(starts=3, crashes={0: MOST - 1}))
    host.guard._is_idle = lambda: False
    (suspect,) = host.admit(0)
    assert host.release([suspect]) == []
    host.commit()
    assert host.release([]) == []
    now = time.monotonic() + crash_guard._LAST_CHANCE_SECONDS
    monkeypatch.setattr(crash_guard, "time", SimpleNamespace(monotonic=lambda: now))
    assert host.release([]) == [suspect]


def test_what_was_dropped_is_no_longer_suspected() -> None:
    host = Host(CommitMetadata(starts=2))
    runs = host.admit(0, 1)
    host.release(runs)
    assert sorted(run.offset for run in host.guard.drop({P0})) == [0, 1]
    for run in runs:
        host.guard.left(run)
    assert host.commit().suspect is None and host.guard.suspect is None


def test_a_host_that_comes_back_to_its_own_suspect_blames_nobody() -> None:
    host = Host(CommitMetadata(starts=2))
    runs = host.admit(0)
    host.release(runs)
    noted = host.commit()
    host.release([])
    host.ledger.assign(Assigned(P0, 2, 0, commit_metadata.encode(0, (), noted)))
    host.guard.assigned(P0)
    assert not host.ledger.notes_of(P0).crashes


def test_nothing_of_a_condemned_job_is_unpickled_for_its_callback() -> None:
    from embedkq._child.job_call import failure

    run = JobRun(P0, 1, Polled(0))
    run.job_id, run.unread = "an id", True
    outcome: Outcome = failure(HostCrashed(3))
    status, job, result, exception, traceback = callback_arguments(run, outcome)
    assert (status, job.id, job.func, result) == ("failure", "an id", None, None)
    assert isinstance(exception, HostCrashed) and exception.count == 3 and "3 times" in traceback


@pytest.mark.parametrize("silently", [False, True])
def test_without_a_dead_letter_topic_a_condemned_job_has_its_callback_and_is_done(
    silently: bool, caplog: Any
) -> None:
    told: Mailbox[Finished] = Mailbox()
    crashes = MOST + silently
    noted = CommitMetadata(starts=3, crashes={7: crashes}, hosts=("web-1", "web-2"))
    host = loopharness.Host(0, callbacks=told, max_crashes=MOST)
    host.shared.inbox.put(Assigned(P0, 1, 7, commit_metadata.encode(7, (), noted)))
    host.poll(P0, 1, first=7)
    host.turn()
    [run] = host.loop._jobs
    assert run.state == "waiting_for_commit"
    host.commit()
    host.turn()
    if not silently:
        [(waiting, outcome)] = told.take()
        assert (waiting, outcome.status, run.state) == (run, "failure", "awaiting_callback")
        host.shared.inbox.put(CallbacksDone([run]))
        host.turn()
    assert run.state == "done" and not told.take() and not host.pool.tasks
    assert run.unread and host.shared.snapshot[P0].offset == 8
    host.close()
    text = logged(caplog)
    assert text.startswith("ERROR") and text.count("\n") == 1 and "offset=7" in text
    assert f"{crashes} times (on web-1, web-2)" in text
    assert "SIGTERM" in text and "enqueue it again" in text


class Broker:
    """Takes commits."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, str]] = []

    def commit(self, offsets: Any, timeout_ms: int) -> None:
        self.taken += [(known.offset, known.metadata) for known in offsets.values()]


def test_a_consumer_that_has_passed_on_first_records_waits_a_moment_for_the_commit_that_they_need() -> (
    None
):
    commits, host, broker = Committer(10.0), Host(CommitMetadata()), Broker()

    def ask() -> None:
        host.release(host.admit(0))
        host.shared.publish(host.ledger.snapshot())

    asking = threading.Timer(0.02, ask)
    asking.start()
    commits.commit_as_asked(broker, host.shared, lambda: dict(host.ledger.snapshot()), {P0})
    asking.join()
    assert [commit_metadata.decode(*taken)[1] for taken in broker.taken] == [
        CommitMetadata(starts=1)
    ]
    assert [run.offset for run in host.release([])] == [0] and host.shared.begun == {P0}
    commits.commit_as_asked(broker, host.shared, dict, {P0})
    assert len(broker.taken) == 1


class Client:
    """A client whose broker goes away while one asks it where a partition begins."""

    kafka = None

    def __init__(self) -> None:
        self.sought: list[tuple[Partition, list[Any]]] = []

    def find_topic(self) -> Any:
        raise KafkaTimeoutError

    def position(self, partition: Partition) -> int:
        return 10

    def rewind_to(self, partition: Partition, records: Any) -> None:
        self.sought.append((partition, records))


def test_records_polled_beside_a_beginning_that_fails_are_polled_again() -> None:
    shared = SharedState()
    made = ConsumerThread(
        shared,
        hosts="localhost:1",
        topic="topic",
        group="group",
        offset_policy="earliest",
        job_size=1,
        validator=RecordValidator(),
        revoke_timeout=1.0,
        options={},
    )
    made.assignment.add(frozenset((P0, P1)))
    made.assignment.fresh.discard(P0)  # it has begun, and goes on
    client = Client()
    with pytest.raises(KafkaTimeoutError):
        made._begin(client, {P0: [Polled(7)], P1: [Polled(3)]})
    assert [(partition, records[0].offset) for partition, records in client.sought] == [
        (P0, 7),
        (P1, 3),
    ]
    assert not shared.inbox.take() and made.assignment.fresh == {P1}


def test_nothing_is_waited_for_where_nothing_begins() -> None:
    made = ConsumerThread(
        SharedState(),
        hosts="localhost:1",
        topic="topic",
        group="group",
        offset_policy="earliest",
        job_size=1,
        validator=RecordValidator(),
        revoke_timeout=1.0,
        options={},
    )
    made.assignment.add(frozenset((P0, P1)))
    made.assignment.fresh.clear()
    for partition, offset in ((P0, 7), (P1, 3)):
        made._logs._starts.started(partition, Start(offset, "", offset))
    job = Polled(3)
    job.headers = headers.headers_of("0f8fad5b-d9cb-469f-a165-70867728950e", 17, None)  # type: ignore[assignment]
    for partition, record in ((P0, Polled(7)), (P1, job)):
        made._pass_on(Client(), partition, [record])  # type: ignore[arg-type]
    assert made._beginning == {P1}


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "3"])
def test_a_number_of_crashes_that_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="max_crashes"):
        Worker(max_crashes=wrong)


# Real hosts.

HOST = """
import os, signal, sys
from pathlib import Path
from embedkq import Worker
hosts, topic, group, folder, how, most = sys.argv[1:]
import workerjobs
Path(folder, "pid").write_text(str(os.getpid()))
def callback(status, job, result, exception, traceback):
    workerjobs.note(folder + "/told", f"{job.id} {status} {type(exception).__name__} {job.func is not None}")
    if how == "callback" and status == "failure":
        os.kill(os.getpid(), signal.SIGKILL)
worker = Worker(hosts=hosts, topic=topic, group=group, callback=callback, processes=2, dead_letter_topic=topic + "-dead",
                max_crashes=int(most), kafka={"session_timeout_ms": 1000, "heartbeat_interval_ms": 250})
signal.signal(signal.SIGTERM, lambda *_: worker.request_stop())
worker.start()
"""


@pytest.fixture
def start_host(
    quick_hosts: str, group: str, tmp_path: Path
) -> Iterator[Callable[[str, int], subprocess.Popen[bytes]]]:
    script = tmp_path / "host.py"
    script.write_text(HOST)
    started: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}

    def start(how: str, most: int = MOST) -> subprocess.Popen[bytes]:
        arguments = [
            sys.executable,
            str(script),
            quick_hosts,
            "poison",
            group,
            str(tmp_path),
            how,
            str(most),
        ]
        started.append(subprocess.Popen(arguments, env=environment))
        return started[-1]

    yield start
    for host in started:
        host.kill()
        host.wait(30)


def make_topics(hosts: str) -> None:
    from kafka.admin import NewTopic

    with_admin(
        hosts,
        lambda admin: admin.create_topics(
            [NewTopic("poison", 2, 1), NewTopic("poison-dead", 1, 1)]
        ),
    )


def all_done(hosts: str, group: str) -> bool:
    try:
        return lag(hosts, group, "poison") == 0
    except KafkaError:  # a fresh broker, for its first seconds
        return False


def run_until_done(
    start_host: Any, how: str, most: int, quick_hosts: str, group: str
) -> list[bool]:
    """Start a host, and another one whenever it went down, until all is done; of each that went
    down, whether it had done anything."""
    offsets, host = [0], start_host(how, most)
    while True:
        wait_until(
            lambda: host.poll() is not None or all_done(quick_hosts, group),
            "it went down, or all is done",
        )
        if host.poll() is None:
            return [after > before for before, after in itertools.pairwise(offsets)]
        assert host.returncode == -signal.SIGKILL
        offsets.append(committed(quick_hosts, group, "poison").get(0, (0, ""))[0])
        host = start_host(how, most)


@pytest.mark.needs("quick_sessions")
@pytest.mark.parametrize(("how", "most"), [("job", MOST), ("callback", 1)])
def test_a_job_that_kills_its_host_stops_doing_so_and_all_others_are_done(
    start_host: Any, quick_hosts: str, group: str, tmp_path: Path, how: str, most: int
) -> None:
    make_topics(quick_hosts)
    path, pid = str(tmp_path / "notes"), str(tmp_path / "pid")
    with Queue(hosts=quick_hosts, topic="poison") as queue:
        good = [
            job.id
            for job in queue.using(partition=0).enqueue_many(
                [(workerjobs.note_slowly, (path, n)) for n in range(20)]
            )
        ]
        kill = workerjobs.kill_host if how != "callback" else workerjobs.note_and_fail
        bad = queue.using(partition=0).enqueue(kill, path, "poison" if how == "callback" else pid)
        good += [
            job.id
            for job in queue.using(partition=0).enqueue_many(
                [(workerjobs.note_slowly, (path, n)) for n in range(20, 40)]
            )
        ]
        good += [
            job.id
            for job in queue.using(partition=1).enqueue_many(
                [(workerjobs.note_slowly, (path, n)) for n in range(40, 60)]
            )
        ]
    progress = run_until_done(start_host, how, most, quick_hosts, group)
    deaths, condemning = len(progress), most + (how == "callback")
    assert lines(path).count("poison") == deaths - (how == "callback")
    # A host that had committed something before it went down, as a slow machine lets it, counts as
    # progress.
    in_vain = [not any(two) for two in itertools.pairwise(progress)].index(True) + 2
    assert deaths == in_vain + condemning, progress
    told = [line.split() for line in lines(tmp_path / "told")]
    assert {job_id for job_id, *_ in told} >= {*good, bad.id}
    assert {tuple(rest) for job_id, *rest in told if job_id in good} == {
        ("success", "NoneType", "True")
    }
    last = [rest for job_id, *rest in told if job_id == bad.id][-1]
    assert last == ["failure", "HostCrashed", "False"]
    [(letter, record)] = letters_in(quick_hosts, "poison-dead")
    assert (letter.reason, letter.offset, letter.attempts) == (
        "crashes",
        20,
        most + (how == "callback"),
    )
    assert headers.read_headers(dead_letter.strip(record.headers)).id == bad.id and record.value
    repeats = Counter(job_id for job_id, *_ in told if job_id in good)
    print(
        f"{deaths} hosts went down, {sum(repeats.values()) - len(good)} of {len(good)} callbacks of other jobs were repeats"
    )


def known_of(hosts: str, group: str, topic: str) -> dict[int, tuple[int, CommitMetadata]]:
    """Committed offset, and what is noted of the jobs above it, by partition."""
    return {
        number: (offset, commit_metadata.decode(offset, text)[1])
        for number, (offset, text) in committed(hosts, group, topic).items()
    }


@pytest.mark.needs("quick_sessions")
def test_a_slow_job_whose_hosts_were_killed_from_outside_is_suspected_and_cleared(
    start_host: Any, quick_hosts: str, group: str, tmp_path: Path
) -> None:
    make_topics(quick_hosts)
    path, gate = str(tmp_path / "notes"), str(tmp_path / "gate")
    with Queue(hosts=quick_hosts, topic="poison") as queue:
        queue.using(partition=0).enqueue(workerjobs.note_and_wait, path, "slow", gate)
        queue.using(partition=0).enqueue(workerjobs.note, path, "behind")
    for begun in (1, 2):
        host = start_host("job")
        wait_until(lambda begun=begun: lines(path).count("slow") == begun, "the slow one has begun")
        host.kill()
        host.wait()
    start_host("job")
    wait_until(lambda: known(quick_hosts, group).suspect == 0, "it is told to be the suspect")
    wait_until(lambda: lines(path).count("slow") == 3, "and only then has begun")
    Path(gate).touch()
    wait_until(lambda: all_done(quick_hosts, group), "both are done")
    assert committed(quick_hosts, group, "poison")[0][0] == 2
    assert [line.split()[1] for line in lines(tmp_path / "told")].count("failure") == 0


def known(hosts: str, group: str) -> CommitMetadata:
    offset, metadata = committed(hosts, group, "poison").get(0, (0, ""))
    return commit_metadata.decode(offset, metadata)[1]


def test_a_stop_in_order_is_no_start_in_vain(
    hosts: str, topic: str, group: str, broker: Any, tmp_path: Path
) -> None:
    gate, noted = tmp_path / "gate", tmp_path / "notes"
    with Queue(hosts=hosts, topic=topic) as queue:
        queue.using(partition=0).enqueue(workerjobs.note_and_wait, str(noted), "slow", str(gate))
    for turn in range(3):
        worker = Worker(
            hosts=hosts, topic=topic, group=group, callback=Recorder()
        ).start_background()
        wait_until(lambda turn=turn: len(lines(noted)) == turn + 1, "it runs")
        known = {
            partition: commit_metadata.decode(*place)[1].starts
            for partition, place in committed(hosts, group, topic).items()
        }
        assert known.pop(0) == 1 and not any(known.values())
        worker.request_stop()
        wait_until(
            lambda: known_of(hosts, group, topic)[0] == (0, NOTHING),
            "it is told that it was asked to stop, while the job runs",
        )
        worker.request_stop(now=True)
        worker.wait()
        assert set(known_of(hosts, group, topic).values()) == {(0, NOTHING)}


IDLE = """
import sys
from embedkq import Worker
hosts, topic, group = sys.argv[1:]
Worker(hosts=hosts, topic=topic, group=group, kafka={"session_timeout_ms": 1000, "heartbeat_interval_ms": 250}).start()
"""


@pytest.mark.needs("quick_sessions")
def test_idle_hosts_that_are_killed_slow_nothing_down(
    quick_hosts: str, group: str, tmp_path: Path
) -> None:
    make_topics(quick_hosts)
    (tmp_path / "idle.py").write_text(IDLE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(3):
        host = subprocess.Popen(
            [sys.executable, str(tmp_path / "idle.py"), quick_hosts, "poison", group],
            env=environment,
        )
        try:
            wait_until(lambda: members(quick_hosts, group) == 1, "it has joined")
            wait_until(
                lambda: len(committed(quick_hosts, group, "poison")) == 2, "it has committed"
            )
        finally:
            host.kill()
            host.wait()
        wait_until(lambda: members(quick_hosts, group) == 0, "it is given up")
    assert set(known_of(quick_hosts, group, "poison").values()) == {(0, NOTHING)}


def members(hosts: str, group: str) -> int | None:
    from embedkq._clients import admin

    try:
        return len(admin.member_ids(hosts, group, {}))
    except BrokerUnavailable:  # a fresh broker, for its first seconds
        return None


@pytest.mark.needs("quick_sessions")
def test_a_job_whose_hosts_are_asked_to_stop_and_then_killed_is_never_condemned(
    start_host: Any, quick_hosts: str, group: str, tmp_path: Path
) -> None:
    make_topics(quick_hosts)
    path, gate = str(tmp_path / "notes"), str(tmp_path / "gate")
    with Queue(hosts=quick_hosts, topic="poison") as queue:
        queue.using(partition=0).enqueue(workerjobs.note_and_wait, path, "slow", gate)
    for begun in range(1, MOST + 4):
        host = start_host("stop")
        wait_until(lambda begun=begun: lines(path).count("slow") == begun, "the slow one has begun")
        host.send_signal(signal.SIGTERM)
        wait_until(
            lambda: known(quick_hosts, group) == CommitMetadata(),
            "it is told that it was asked to stop",
        )
        host.kill()
        host.wait()
    start_host("stop")
    Path(gate).touch()
    wait_until(lambda: all_done(quick_hosts, group), "it is done")
    assert {line.split()[1] for line in lines(tmp_path / "told")} == {"success"}
