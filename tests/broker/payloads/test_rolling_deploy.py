"""A rolling deploy: hosts of version 38cc483 and of this one work on the same topics, both whole.

The earlier version is unpacked from `version_38cc483/embedkq.tar.xz` (`git archive 38cc483 embedkq`)
and runs on the packages that are installed for this one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import commandline
import pytest
import workerjobs
from support import ROOT, lines, wait_until

from embedkq import Queue

TESTS = ROOT / "tests"
SECRET = "a secret of thirty-two characters"

OLD, NEW = "38cc483", "this version"
BOTH_WAYS = pytest.mark.parametrize(
    ("first", "second"), [(OLD, NEW), (NEW, OLD)], ids=["forwards", "backwards"]
)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each version's package is."""
    folder = tmp_path_factory.mktemp(OLD)
    with tarfile.open(TESTS / "version_38cc483" / "embedkq.tar.xz") as archive:
        archive.extractall(folder)
    return {OLD: folder, NEW: ROOT}


def environment(tree: Path) -> dict[str, str]:
    return commandline.environment({"PYTHONPATH": os.pathsep.join([str(tree), str(TESTS)])})


def run(tree: Path, script: str, *arguments: str) -> Any:
    """Run a script on one version; what it printed last, which is JSON."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env=environment(tree),
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_version_is_whole_and_is_the_one_that_is_meant(trees: dict[str, Path]) -> None:
    for tree in trees.values():
        found = run(tree, "import embedkq, json; print(json.dumps(embedkq.__file__))")
        assert Path(found) == tree / "embedkq" / "__init__.py"


@contextmanager
def worker(
    tree: Path, tmp_path: Path, hosts: str, topic: str, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """A `kq worker` of one version, which ends in order."""
    told = tmp_path / f"callbacks-{topic}"
    callback = tmp_path / f"callback_{topic.replace('-', '_')}.py"
    callback.write_text(
        "import workerjobs\n"
        "def callback(status, job, result, exception, traceback):\n"
        f"    workerjobs.note({str(told)!r}, f'{{job.id}} {{status}} {{result!r}}')\n"
    )
    log = (tmp_path / f"log-{time.monotonic_ns()}").open("w")
    process = subprocess.Popen(
        [
            *commandline.MODULE,
            "worker",
            f"--hosts={hosts}",
            f"--topic={topic}",
            f"--callback={callback}",
            "--processes=2",
            "--verbose",
            *options,
        ],
        env=environment(tree),
        cwd=TESTS,
        stdout=log,
        stderr=log,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            process.kill()
            log.close()


def outcomes(tmp_path: Path, topic: str) -> dict[str, str]:
    """What the callbacks of a topic were given last, by job id."""
    found = [line.partition(" ") for line in lines(tmp_path / f"callbacks-{topic}")]
    return {job: rest for job, _, rest in found}


ENQUEUE = """
    import json, sys
    from embedkq import Queue
    import workerjobs
    hosts, topic, notes, secret = sys.argv[1:]

    class Basket:  # of __main__: it travels by value
        def __init__(self, *goods): self.goods = goods
        def __len__(self): return len(self.goods)

    def count(basket, more=0):
        return len(basket) + more

    ids = {}
    with Queue(hosts=hosts, topic=topic, timeout=30, secret=secret or None) as queue:
        ids["by name"] = queue.enqueue(workerjobs.echo, 1, two=2).id
        ids["by value"] = queue.enqueue(count, Basket("a", "b"), more=1).id
        ids["a lambda"] = queue.enqueue(lambda: "of a lambda").id
        ids["a key"] = queue.using(key=b"key").enqueue(workerjobs.echo, "keyed").id
        ids["its own limit"] = queue.using(timeout=0.5).enqueue(workerjobs.note_and_wait,
                                                                notes, "hang", notes + "-gate").id
        ids["its own retries"] = queue.using(retries=2, backoff=0.1).enqueue(
            workerjobs.fail_times, notes, "again", 2).id
        many = queue.enqueue_many([(divmod, (number, 7)) for number in range(50)])
        ids.update({f"one of many {number}": job.id for number, job in enumerate(many)})
    print(json.dumps(ids))
"""


@BOTH_WAYS
@pytest.mark.parametrize("secret", ["", SECRET], ids=["unsigned", "signed"])
def test_jobs_that_one_version_enqueues_run_on_the_other(
    trees: dict[str, Path],
    first: str,
    second: str,
    secret: str,
    hosts: str,
    make_topic: Callable[..., str],
    tmp_path: Path,
) -> None:
    topic, notes = make_topic(2), str(tmp_path / "notes")
    ids = run(trees[first], ENQUEUE, hosts, topic, notes, secret)
    options = []
    if secret:
        (tmp_path / "secret").write_text(secret)
        options = [f"--secret-file={tmp_path / 'secret'}"]
    with worker(trees[second], tmp_path, hosts, topic, *options):
        wait_until(lambda: len(outcomes(tmp_path, topic)) == len(ids), "all are done")
    got = {name: outcomes(tmp_path, topic)[job] for name, job in ids.items()}
    assert got["by name"] == "success ((1,), {'two': 2})"
    assert got["by value"] == "success 3" and got["a lambda"] == "success 'of a lambda'"
    assert got["a key"] == "success (('keyed',), {})"
    assert got["its own limit"] == "timeout None" and got["its own retries"] == "success 3"
    assert [got[f"one of many {number}"] for number in range(50)] == [
        f"success {divmod(number, 7)!r}" for number in range(50)
    ]


SEND = """
    import json, sys
    from embedkq import Queue
    import workerjobs
    hosts, topic, notes, gate = sys.argv[1:]
    with Queue(hosts=hosts, topic=topic) as queue:
        queue.enqueue(workerjobs.note_and_wait, notes, "slow", gate)
        queue.using(retries=5, backoff=60.0).enqueue(workerjobs.note_and_fail, notes, "failing")
        queue.enqueue_many([(workerjobs.note, (notes, number)) for number in range(40)])
    print(json.dumps("sent"))
"""


@BOTH_WAYS
def test_what_one_version_has_committed_the_other_does_not_run_again(
    trees: dict[str, Path],
    first: str,
    second: str,
    hosts: str,
    make_topic: Callable[..., str],
    tmp_path: Path,
) -> None:
    """A job at the head of the partition is killed with its host: what is done above it is in the
    map, and the attempt of the job that waits for its retry is in the metadata."""
    topic, notes, gate = make_topic(1), tmp_path / "notes", tmp_path / "gate"
    run(trees[first], SEND, hosts, topic, str(notes), str(gate))
    with worker(trees[first], tmp_path, hosts, topic) as host:
        wait_until(lambda: len(lines(notes)) == 42, "all but the slow one are done")
        wait_until(lambda: len(outcomes(tmp_path, topic)) == 40, "their callbacks were called")
        wait_until(lambda: committed_map(hosts, topic), "the map is committed")
        host.kill()
    gate.touch()
    with worker(trees[second], tmp_path, hosts, topic):
        wait_until(lambda: Counter(lines(notes))["slow"] == 2, "the slow one runs again")
        wait_until(lambda: len(outcomes(tmp_path, topic)) >= 41, "and is done")
    again = {text for text, times in Counter(lines(notes)).items() if times > 1}
    assert again <= {"slow", "failing"}, again


def committed_map(hosts: str, topic: str) -> bool:
    """Whether the commit says that all forty are done above the slow and the failing one."""
    from support import committed

    from embedkq._formats import commit_metadata

    found = committed(hosts, topic, topic).get(0)
    if found is None:
        return False
    done, noted = commit_metadata.decode(*found)
    return sum(end - start for start, end in done) == 40 and noted.attempts == {1: 1}


FAIL = """
    import json, sys
    from embedkq import Queue
    import workerjobs
    hosts, topic, notes = sys.argv[1:]
    with Queue(hosts=hosts, topic=topic) as queue:
        ids = [queue.enqueue(workerjobs.fail_times, notes, text, 1).id for text in ("a", "b")]
    print(json.dumps(ids))
"""


@BOTH_WAYS
def test_dead_letters_of_one_version_are_read_and_put_back_by_the_other(
    trees: dict[str, Path],
    first: str,
    second: str,
    hosts: str,
    make_topic: Callable[..., str],
    tmp_path: Path,
) -> None:
    topic, graveyard, notes = make_topic(1), make_topic(1), tmp_path / "notes"
    ids = run(trees[first], FAIL, hosts, topic, str(notes))
    with worker(trees[first], tmp_path, hosts, topic, f"--dead-letter-topic={graveyard}"):
        wait_until(lambda: len(outcomes(tmp_path, topic)) == 2, "both have failed")
    place = (f"--hosts={hosts}", f"--dead-letter-topic={graveyard}")

    def kq(*arguments: str) -> str:
        done = subprocess.run(
            [*commandline.MODULE, *arguments],
            env=environment(trees[second]),
            cwd=TESTS,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    listed = [json.loads(line) for line in kq("dlq", "list", *place, "--json").splitlines()]
    assert {letter["job"] for letter in listed} == set(ids), [
        (letter.get("problem"), letter.get("headers")) for letter in listed
    ]
    kq("dlq", "retry", *place, "--all", "--yes")
    with worker(trees[second], tmp_path, hosts, topic):
        wait_until(lambda: len(lines(notes)) == 4, "both have run again")
        wait_until(
            lambda: all(outcomes(tmp_path, topic)[job] == "success 2" for job in ids),
            "successfully",
        )


def test_hosts_of_both_versions_share_a_group_and_lose_nothing(
    trees: dict[str, Path], hosts: str, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    """As in a rolling deploy: the old host, then both, then the new one; each ends in order."""
    topic, notes = make_topic(4), tmp_path / "notes"

    def send(begin: int) -> None:
        with_queue = "queue.enqueue_many([(workerjobs.note, (notes, n)) for n in range(%d, %d)])"
        run(
            trees[NEW],
            "import json, sys, workerjobs\nfrom embedkq import Queue\n"
            "hosts, topic, notes = sys.argv[1:]\n"
            "with Queue(hosts=hosts, topic=topic) as queue:\n    "
            + with_queue % (begin, begin + 200)
            + "\nprint(json.dumps(1))",
            hosts,
            topic,
            str(notes),
        )

    def done(count: int) -> None:
        wait_until(lambda: len(set(lines(notes))) == count, f"{count} are done")

    with worker(trees[OLD], tmp_path, hosts, topic):
        send(0)
        done(200)
        with worker(trees[NEW], tmp_path, hosts, topic):
            send(200)
            done(400)
            send(400)
        done(600)
    with worker(trees[NEW], tmp_path, hosts, topic):
        send(600)
        done(800)
    times = Counter(lines(notes))
    assert set(times) == {str(number) for number in range(800)}
    assert max(times.values()) == 1, {text: n for text, n in times.items() if n > 1}


def test_the_earlier_version_runs_unsigned_jobs_with_headers_and_reads_those_without(
    trees: dict[str, Path],
    hosts: str,
    make_topic: Callable[..., str],
    tmp_path: Path,
) -> None:
    topic = make_topic(2)
    with Queue(hosts=hosts, topic=topic) as queue:
        plain = queue.enqueue(workerjobs.echo, 1)
        tenant = queue.using(headers={"tenant": "a"}).enqueue(workerjobs.echo, 2)
        an_argument = queue.enqueue(workerjobs.echo, plain)
    with worker(trees[OLD], tmp_path, hosts, topic):
        wait_until(lambda: len(outcomes(tmp_path, topic)) == 3, "all are done")
    found = outcomes(tmp_path, topic)
    assert found[plain.id] == "success ((1,), {})" and found[tenant.id] == "success ((2,), {})"
    assert found[an_argument.id].startswith("success ((Job(id=")
