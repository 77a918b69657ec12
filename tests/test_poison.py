"""The poison guard: a job that takes its worker's own process down does so a few times, and not for ever."""
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

import pytest
import workerjobs
from kafka.errors import KafkaError, KafkaTimeoutError
from support import ROOT, Recorder, committed, lag, lines, logged, wait_until, with_admin

from embedkq import Queue, Worker, deadletters, headers, notes
from embedkq.errors import BrokerUnavailable, HostCrashed
from embedkq.notes import NOTHING, Notes
from embedkq.outcome import Outcome
from embedkq.worker import poison
from embedkq.worker.commits import Commits
from embedkq.worker.consumer import Consumer
from embedkq.worker.endings import Endings
from embedkq.worker.exchange import Exchange
from embedkq.worker.gate import Gate
from embedkq.worker.joblog import JobLog
from embedkq.worker.ledger import Ledger
from embedkq.worker.mailbox import Mailbox
from embedkq.worker.messages import Assigned, Finished, Run
from embedkq.worker.owner import arguments_of
from embedkq.worker.partition_starts import Start
from embedkq.worker.poison import PoisonGuard
from embedkq.worker.retries import Retries

MOST = 3


class Polled:
    """A record, as far as a run needs one."""

    key, value, headers, timestamp, flaw = None, b"no pickle at all", (), 0, None

    def __init__(self, offset: int) -> None:
        self.offset = offset


# The guard by itself.


class Host:
    """One host's guard, ledger and exchange, for one partition that was committed with these notes."""

    def __init__(self, noted: Notes, offset: int = 0) -> None:
        self.exchange = Exchange()
        self.ledger = Ledger("topic")
        self.guard = PoisonGuard(self.exchange, self.ledger, 1, MOST)
        self.ledger.assign(Assigned(0, 1, offset, notes.encode(offset, (), noted)))
        self.guard.assigned(0)

    def admit(self, *numbers: int) -> list[Run]:
        for number in numbers:
            self.ledger.tracker.admit(0, number)
        return [Run(0, 1, Polled(number)) for number in numbers]

    def commit(self) -> Notes:
        """As the consumer's thread does; what the next host finds."""
        self.exchange.confirm(self.ledger.snapshot())
        return self.exchange.committed[0].notes


def test_after_two_starts_in_vain_jobs_run_one_at_a_time_each_after_a_commit() -> None:
    host = Host(Notes(starts=1))
    [run] = host.admit(0)
    assert host.guard.sift([run]) == [] and not host.ledger.suspicious
    host = Host(Notes(starts=2))
    first, second = runs = host.admit(0, 1)
    assert host.guard.sift(runs) == [] and host.guard.held_up == {0}
    assert host.guard.sift([]) == [] and host.exchange.careful
    assert host.commit().suspect == 0
    assert host.guard.sift([]) == [first] and host.guard.sift([]) == []
    host.commit()
    assert host.guard.sift([]) == []
    host.guard.left(first)
    assert host.guard.sift([]) == [] and host.commit().suspect == 1
    assert host.guard.sift([]) == [second]


def test_care_ends_after_some_jobs_and_some_time_and_only_once_that_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poison, "CAREFUL_SECONDS", 0.0)
    host = Host(Notes(starts=2))
    first, second, *others = runs = host.admit(0, 1, 2, 3)
    for run in (first, second):  # two for each process
        assert host.guard.sift(runs) == []
        assert host.commit().starts == 3
        assert host.guard.sift([]) == [run]
        host.guard.left(run)
        host.ledger.finish(run)
        runs = []
    assert host.guard.sift([]) == []
    assert host.commit() == Notes()
    host.exchange.asked.clear()
    assert host.guard.sift([]) == others and not host.guard.held_up
    assert not host.exchange.careful and host.exchange.asked.is_set(), "the consumer's thread waits for no further question"


def test_progress_is_no_start_in_vain() -> None:
    host = Host(Notes(starts=1))
    [run] = host.admit(0)
    assert host.guard.sift([run]) == [] and host.exchange.careful and host.commit().starts == 2
    assert host.guard.sift([]) == [run] and not host.exchange.careful
    host.ledger.finish(run)
    assert host.commit() == Notes()


def test_nothing_is_noted_of_a_host_that_has_begun_nothing() -> None:
    for noted in (Notes(), Notes(starts=2), Notes(crashes={3: 1}, hosts=("other",))):
        host = Host(noted)
        assert host.guard.sift([]) == [] and host.commit() == noted and not host.exchange.careful


def test_the_first_jobs_wait_for_a_commit_once_and_not_when_the_host_gets_the_partition_again() -> None:
    host = Host(Notes())
    first, second, third = host.admit(0, 1, 2)
    assert host.guard.sift([first]) == [] and host.guard.sift([second]) == [] and host.commit() == Notes(starts=1)
    assert host.guard.sift([]) == [first, second] and host.guard.sift([third]) == [third]
    host.ledger.assign(Assigned(0, 2, 0, notes.encode(0, (), Notes(starts=1))))
    host.guard.assigned(0)
    runs = host.admit(0)
    assert host.guard.sift(runs) == runs and host.commit() == Notes(starts=1)


def test_holes_are_no_progress_and_do_not_keep_the_first_job_waiting() -> None:
    host = Host(Notes())
    [run] = host.admit(5)  # what is before it is compacted away
    assert host.guard.sift([run]) == [] and host.commit() == Notes(starts=1) and host.exchange.committed[0].offset == 5
    assert host.guard.sift([]) == [run]


def test_a_host_that_was_asked_to_stop_is_not_to_blame() -> None:
    host = Host(Notes(starts=2, crashes={4: 1}, hosts=("other",)))
    [run] = host.admit(0)
    host.guard.sift([run])
    assert host.commit().suspect == 0 and host.exchange.committed[0].notes.hosts == ("other", socket.gethostname())
    told = host.exchange.committed[0].given_up().notes
    assert told == Notes(crashes={4: 1}, hosts=("other",))
    assert Host(told).ledger.notes_of(0) == told


def test_what_hosts_went_down_over_is_condemned_and_a_host_lost_to_that_has_it_pass_in_silence() -> None:
    noted, verdicts = Notes(starts=2), []
    for _ in range(MOST + 2):
        host = Host(noted)
        [run] = host.admit(0)
        host.guard.sift([run])
        noted = host.commit()
        verdicts.append("runs" if host.guard.sift([]) else (host.guard.condemned[0][1].count, host.guard.condemned[0][2]))
    assert verdicts == ["runs"] * MOST + [(MOST, False), (MOST + 1, True)]
    assert host.guard.condemned[0][1].hosts == (socket.gethostname(),)


@pytest.mark.parametrize("crashes", range(MOST))
def test_a_suspect_gets_its_last_chance_with_nothing_beside_it(crashes: int) -> None:
    """A job of another partition that takes the host down meanwhile would have it condemned."""
    last = crashes == MOST - 1
    host = Host(Notes(starts=3, crashes={0: crashes} if crashes else {}))
    host.guard._is_idle = lambda: idle
    host.ledger.assign(Assigned(1, 1, 0, ""))
    host.guard.assigned(1)
    host.exchange.begun.add(1)
    host.ledger.tracker.admit(1, 0)
    [suspect], other, idle = host.admit(0), Run(1, 1, Polled(0)), False
    assert host.guard.sift([suspect]) == []
    host.commit()
    assert host.guard.sift([other]) == ([] if last else [other, suspect])
    if last:
        assert host.guard.held_up == {0, 1}
        idle = True
        assert host.guard.sift([]) == [suspect] and host.guard.sift([]) == []
        host.guard.left(suspect)
        assert host.guard.sift([]) == [other]


def test_a_last_chance_holds_up_the_others_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(Notes(starts=3, crashes={0: MOST - 1}))
    host.guard._is_idle = lambda: False
    suspect, = host.admit(0)
    assert host.guard.sift([suspect]) == []
    host.commit()
    assert host.guard.sift([]) == []
    now = time.monotonic() + poison._LAST_CHANCE_SECONDS
    monkeypatch.setattr(poison, "time", SimpleNamespace(monotonic=lambda: now))
    assert host.guard.sift([]) == [suspect]


def test_what_was_dropped_is_no_longer_suspected() -> None:
    host = Host(Notes(starts=2))
    runs = host.admit(0, 1)
    host.guard.sift(runs)
    assert sorted(run.offset for run in host.guard.drop({0})) == [0, 1]
    for run in runs:
        host.guard.left(run)
    assert host.commit().suspect is None and host.guard.suspect is None


def test_a_host_that_comes_back_to_its_own_suspect_blames_nobody() -> None:
    host = Host(Notes(starts=2))
    runs = host.admit(0)
    host.guard.sift(runs)
    noted = host.commit()
    host.guard.sift([])
    host.ledger.assign(Assigned(0, 2, 0, notes.encode(0, (), noted)))
    host.guard.assigned(0)
    assert not host.ledger.notes_of(0).crashes


def test_nothing_of_a_condemned_job_is_unpickled_for_its_callback() -> None:
    from embedkq.child.runner import failure

    run = Run(0, 1, Polled(0))
    run.job_id, run.unread = "an id", True
    outcome: Outcome = failure(HostCrashed(3))
    status, job, result, exception, traceback = arguments_of("topic", run, outcome)
    assert (status, job.id, job.func, result) == ("failure", "an id", None, None)
    assert isinstance(exception, HostCrashed) and exception.count == 3 and "3 times" in traceback


@pytest.mark.parametrize("silently", [False, True])
def test_without_a_dead_letter_topic_a_condemned_job_has_its_callback_and_is_done(silently: bool, caplog: Any) -> None:
    told: Mailbox[Finished] = Mailbox()
    endings = Endings(JobLog("topic"), Retries(), told, None)
    run = Run(0, 1, Polled(7))
    endings.condemn(run, HostCrashed(MOST, ("web-1", "web-2")), silently)
    endings.hand_over()
    if not silently:
        assert [(finished.run, finished.outcome.status) for finished in told.take()] == [(run, "failure")] and not endings.done
        endings.fired([run])
    assert endings.done == [run] and not told.take() and endings.told == 1
    text = logged(caplog)
    assert text.startswith("ERROR") and text.count("\n") == 1 and "offset=7" in text
    assert "3 times (on web-1, web-2)" in text and "SIGTERM" in text and "enqueue it again" in text


class Broker:
    """Takes commits."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, str]] = []

    def commit(self, offsets: Any, timeout_ms: int) -> None:
        self.taken += [(known.offset, known.metadata) for known in offsets.values()]


def test_a_consumer_that_has_passed_on_first_records_waits_a_moment_for_the_commit_that_they_need() -> None:
    commits, host, broker = Commits("topic", 10.0), Host(Notes()), Broker()

    def ask() -> None:
        host.guard.sift(host.admit(0))
        host.exchange.publish(host.ledger.snapshot())

    asking = threading.Timer(0.02, ask)
    asking.start()
    commits.commit_as_asked(broker, host.exchange, lambda: dict(host.ledger.snapshot()), {0})
    asking.join()
    assert [notes.decode(*taken)[1] for taken in broker.taken] == [Notes(starts=1)]
    assert [run.offset for run in host.guard.sift([])] == [0] and host.exchange.begun == {0}
    commits.commit_as_asked(broker, host.exchange, dict, {0})
    assert len(broker.taken) == 1


class Client:
    """A client whose broker goes away while one asks it where a partition begins."""

    kafka = None

    def __init__(self) -> None:
        self.sought: list[tuple[int, list[Any]]] = []

    def find_topic(self) -> Any:
        raise KafkaTimeoutError

    def position(self, partition: int) -> int:
        return 10

    def seek_back(self, partition: int, records: Any) -> None:
        self.sought.append((partition, records))


def test_records_polled_beside_a_beginning_that_fails_are_polled_again() -> None:
    exchange = Exchange()
    made = Consumer(
        exchange, hosts="localhost:1", topic="topic", group="group", offset_policy="earliest", job_size=1, gate=Gate("topic"),
        revoke_timeout=1.0, options={},
    )
    made.assignment.add(frozenset((0, 1)))
    made.assignment.fresh.discard(0)  # it has begun, and goes on
    client = Client()
    with pytest.raises(KafkaTimeoutError):
        made._begin(client, {0: [Polled(7)], 1: [Polled(3)]})
    assert [(partition, records[0].offset) for partition, records in client.sought] == [(0, 7), (1, 3)]
    assert not exchange.inbox.take() and made.assignment.fresh == {1}


def test_nothing_is_waited_for_where_nothing_begins() -> None:
    made = Consumer(
        Exchange(), hosts="localhost:1", topic="topic", group="group", offset_policy="earliest", job_size=1, gate=Gate("topic"),
        revoke_timeout=1.0, options={},
    )
    made.assignment.add(frozenset((0, 1)))
    made.assignment.fresh.clear()
    for partition, offset in ((0, 7), (1, 3)):
        made._logs._starts.begun(partition, Start(offset, "", offset))
    job = Polled(3)
    job.headers = headers.headers_of("0f8fad5b-d9cb-469f-a165-70867728950e", 17, None)  # type: ignore[assignment]
    for partition, record in ((0, Polled(7)), (1, job)):
        made._pass_on(Client(), partition, [record])  # type: ignore[arg-type]
    assert made._beginning == {1}


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
def start_host(quick_hosts: str, group: str, tmp_path: Path) -> Iterator[Callable[[str, int], subprocess.Popen[bytes]]]:
    script = tmp_path / "host.py"
    script.write_text(HOST)
    started: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}

    def start(how: str, most: int = MOST) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, str(script), quick_hosts, "poison", group, str(tmp_path), how, str(most)]
        started.append(subprocess.Popen(arguments, env=environment))
        return started[-1]

    yield start
    for host in started:
        host.kill()
        host.wait(30)


def make_topics(hosts: str) -> None:
    from kafka.admin import NewTopic

    with_admin(hosts, lambda admin: admin.create_topics([NewTopic("poison", 2, 1), NewTopic("poison-dead", 1, 1)]))


def all_done(hosts: str, group: str) -> bool:
    try:
        return lag(hosts, group, "poison") == 0
    except KafkaError:  # a fresh broker, for its first seconds
        return False


def run_until_done(start_host: Any, how: str, most: int, quick_hosts: str, group: str) -> list[bool]:
    """Start a host, and another one whenever it went down, until all is done; of each that went down, whether it had done anything."""
    offsets, host = [0], start_host(how, most)
    while True:
        wait_until(lambda: host.poll() is not None or all_done(quick_hosts, group), "it went down, or all is done")
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
        good = [job.id for job in queue.using(partition=0).enqueue_many([(workerjobs.note_slowly, (path, n)) for n in range(20)])]
        kill = workerjobs.kill_host if how != "callback" else workerjobs.note_and_fail
        bad = queue.using(partition=0).enqueue(kill, path, "poison" if how == "callback" else pid)
        good += [job.id for job in queue.using(partition=0).enqueue_many([(workerjobs.note_slowly, (path, n)) for n in range(20, 40)])]
        good += [job.id for job in queue.using(partition=1).enqueue_many([(workerjobs.note_slowly, (path, n)) for n in range(40, 60)])]
    progress = run_until_done(start_host, how, most, quick_hosts, group)
    deaths, condemning = len(progress), most + (how == "callback")
    assert lines(path).count("poison") == deaths - (how == "callback")
    # A host that had committed something before it went down, as a slow machine lets it, counts as progress.
    in_vain = [not any(two) for two in itertools.pairwise(progress)].index(True) + 2
    assert deaths == in_vain + condemning, progress
    told = [line.split() for line in lines(tmp_path / "told")]
    assert {job_id for job_id, *_ in told} >= {*good, bad.id}
    assert {tuple(rest) for job_id, *rest in told if job_id in good} == {("success", "NoneType", "True")}
    last = [rest for job_id, *rest in told if job_id == bad.id][-1]
    assert last == ["failure", "HostCrashed", "False"]
    [(letter, record)] = letters_in(quick_hosts, "poison-dead")
    assert (letter.reason, letter.offset, letter.attempts) == ("crashes", 20, most + (how == "callback"))
    assert headers.read_headers(deadletters.strip(record.headers)).id == bad.id and record.value
    repeats = Counter(job_id for job_id, *_ in told if job_id in good)
    print(f"{deaths} hosts went down, {sum(repeats.values()) - len(good)} of {len(good)} callbacks of other jobs were repeats")


def known_of(hosts: str, group: str, topic: str) -> dict[int, tuple[int, Notes]]:
    """Committed offset, and what is noted of the jobs above it, by partition."""
    return {number: (offset, notes.decode(offset, text)[1]) for number, (offset, text) in committed(hosts, group, topic).items()}


def letters_in(hosts: str, topic: str) -> Any:
    from test_deadletters import letters_in

    return letters_in(hosts, topic)


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


def known(hosts: str, group: str) -> Notes:
    offset, metadata = committed(hosts, group, "poison").get(0, (0, ""))
    return notes.decode(offset, metadata)[1]


def test_a_stop_in_order_is_no_start_in_vain(hosts: str, topic: str, group: str, broker: Any, tmp_path: Path) -> None:
    gate, noted = tmp_path / "gate", tmp_path / "notes"
    with Queue(hosts=hosts, topic=topic) as queue:
        queue.using(partition=0).enqueue(workerjobs.note_and_wait, str(noted), "slow", str(gate))
    for turn in range(3):
        worker = Worker(hosts=hosts, topic=topic, group=group, callback=Recorder()).start_background()
        wait_until(lambda turn=turn: len(lines(noted)) == turn + 1, "it runs")
        known = {partition: notes.decode(*place)[1].starts for partition, place in committed(hosts, group, topic).items()}
        assert known.pop(0) == 1 and not any(known.values())
        worker.request_stop()
        wait_until(lambda: known_of(hosts, group, topic)[0] == (0, NOTHING), "it is told that it was asked to stop, while the job runs")
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
def test_idle_hosts_that_are_killed_slow_nothing_down(quick_hosts: str, group: str, tmp_path: Path) -> None:
    make_topics(quick_hosts)
    (tmp_path / "idle.py").write_text(IDLE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(3):
        host = subprocess.Popen([sys.executable, str(tmp_path / "idle.py"), quick_hosts, "poison", group], env=environment)
        try:
            wait_until(lambda: members(quick_hosts, group) == 1, "it has joined")
            wait_until(lambda: len(committed(quick_hosts, group, "poison")) == 2, "it has committed")
        finally:
            host.kill()
            host.wait()
        wait_until(lambda: members(quick_hosts, group) == 0, "it is given up")
    assert set(known_of(quick_hosts, group, "poison").values()) == {(0, NOTHING)}


def members(hosts: str, group: str) -> int | None:
    from embedkq import info

    try:
        return len(info.member_ids(hosts, group, {}))
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
        wait_until(lambda: known(quick_hosts, group) == Notes(), "it is told that it was asked to stop")
        host.kill()
        host.wait()
    start_host("stop")
    Path(gate).touch()
    wait_until(lambda: all_done(quick_hosts, group), "it is done")
    assert {line.split()[1] for line in lines(tmp_path / "told")} == {"success"}
