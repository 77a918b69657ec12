"""`kq worker --retry-on` and `--max-crashes`: the worker does what they name, and what they cannot
mean is told before it starts."""

from __future__ import annotations

import re
import signal
import sys
from collections import Counter
from pathlib import Path

import pytest
import workerjobs as jobs
from commandline import Ended, Program, run
from kafka.admin import NewTopic
from kafka.errors import KafkaError
from support import lag, lines, send_many, wait_until, with_admin

SHOP = {
    "shop/__init__.py": "from shop.errors import Closed\n",
    "shop/errors.py": "class Closed(Exception): ...\n\n\nclass Sold:\n    class Out(Closed): ...\n",
    "shop/jobs.py": """
import workerjobs
from shop.errors import Closed, Sold

KINDS = {kind.__name__: kind for kind in (Closed, Sold.Out, FileNotFoundError, LookupError)}


def fail(path, kind):
    workerjobs.note(path, kind)
    raise KINDS[kind](kind)
""",
    "shop/broken.py": "x = 1\nx / 0\n",
    "shop/needing.py": "import nothing_of_that_name\n",
}
ONCE = {"Closed": 1, "Out": 1, "FileNotFoundError": 1, "LookupError": 1}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with a package of a user's own, whose exceptions are also known by other names than
    theirs."""
    for name, content in SHOP.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    return tmp_path


def work(
    shop: Path, hosts: str, topic: str, *options: str, env: dict[str, str] | None = None
) -> tuple[Ended, dict[str, int]]:
    """Let a worker meet a job of each kind, which may run twice more; how often each was run."""
    noted = shop / "noted"
    code = (
        "from embedkq import Queue; from shop.jobs import fail\n"
        f"Queue({hosts!r}, {topic!r}).enqueue_many([(fail, ({str(noted)!r}, kind)) for kind in {list(ONCE)}])"
    )
    sent = run(program=[sys.executable, "-c", code], cwd=shop)
    assert sent.status == 0, sent
    given = ("--burst", "--retries=2", "--backoff=0.01")
    done = run(
        "worker", f"--hosts={hosts}", f"--topic={topic}", *given, *options, cwd=shop, env=env
    )
    assert done.status == 0 and lag(hosts, topic, topic) == 0, done
    return done, dict(Counter(lines(noted)))


@pytest.mark.parametrize(
    ("names", "again"),
    [
        ("OSError", ["FileNotFoundError"]),
        ("builtins.OSError", ["FileNotFoundError"]),
        ("LookupError", ["LookupError"]),
        ("shop.Closed", ["Closed", "Out"]),
        ("shop.errors.Sold.Out", ["Out"]),
        ("OSError shop.errors.Closed", ["FileNotFoundError", "Closed", "Out"]),
        ("TimeoutError", []),
        ("", list(ONCE)),
    ],
)
def test_only_after_the_exceptions_named_is_a_job_run_again(
    names: str, again: list[str], hosts: str, topic: str, shop: Path
) -> None:
    done, runs = work(shop, hosts, topic, *(f"--retry-on={name}" for name in names.split()))
    assert runs == ONCE | dict.fromkeys(again, 3), done


def test_the_environment_names_several(hosts: str, topic: str, shop: Path) -> None:
    done, runs = work(
        shop, hosts, topic, env={"EMBEDKQ_RETRY_ON": "shop.errors.Sold.Out  builtins.LookupError"}
    )
    assert runs == ONCE | {"Out": 3, "LookupError": 3}, done


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            "--retry-on=OsError",
            r"--retry-on='OsError': 'builtins' has no 'OsError'; did you mean 'OSError'\? Use .*, such as OSError or .*",
        ),
        (
            "--retry-on=Closed",
            r"--retry-on='Closed': 'builtins' has no 'Closed'\. Use the dotted name of an exception class, .*",
        ),
        (
            "--retry-on=stop.Closed",
            r"--retry-on='stop\.Closed': no module 'stop'\. Use the dotted name .*",
        ),
        (
            "--retry-on=shop.Close",
            r"--retry-on='shop\.Close': 'shop' has no 'Close'; did you mean 'Closed'\? Use .*",
        ),
        (
            "--retry-on=shop.stock.Out",
            r"--retry-on='shop\.stock\.Out': 'shop' has no 'stock'\. Use .*",
        ),
        (
            "--retry-on=shop.errors.Sold.In",
            r"--retry-on='shop\.errors\.Sold\.In': 'shop\.errors\.Sold' has no 'In'\. Use .*",
        ),
        (
            "--retry-on=shop.errors.Sold",
            r"--retry-on='shop\.errors\.Sold' is not an exception class but <class 'shop\.errors\.Sold'>\. Use .*",
        ),
        (
            "--retry-on=int",
            r"--retry-on='int' is not an exception class but <class 'int'>\. Use .*",
        ),
        ("--retry-on=shop", r"--retry-on='shop': 'builtins' has no 'shop'\. Use .*"),
        (
            "--retry-on=shop.errors",
            r"--retry-on='shop\.errors' is not an exception class but <module .*>\. Use .*",
        ),
        (
            "--retry-on=OSError,KeyError",
            r"--retry-on='OSError,KeyError' is not a dotted name\. Use .*",
        ),
        ("--retry-on=", r"--retry-on='' is not a dotted name\. Use .*"),
        (
            "--retry-on=shop.broken.X",
            r"--retry-on='shop\.broken\.X': importing 'shop\.broken' failed in .*broken\.py, line 2: ZeroDiv.*zero",
        ),
        (
            "--retry-on=shop.needing.X",
            r"--retry-on='shop\.needing\.X': importing .* failed in .*needing\.py, line 1: .*nothing_of_that_name'",
        ),
        ("--max-crashes=-1", r"max_crashes=-1: must be at least 0"),
    ],
)
def test_what_cannot_be_meant_is_told_in_one_line(given: str, told: str, shop: Path) -> None:
    done = run("worker", "--hosts=127.0.0.1:1", "--retry-on=OSError", given, cwd=shop)
    assert done.status == 2 and not done.out, done
    assert re.fullmatch(f"Error: {told}\n", done.err), done


# Real hosts that go down.


@pytest.fixture
def quick(quick_hosts: str) -> str:
    """A broker that gives up a dead member soon, with a topic and one for its dead letters."""
    with_admin(
        quick_hosts,
        lambda admin: admin.create_topics([NewTopic("poison", 1, 1), NewTopic("dead", 1, 1)]),
    )
    return quick_hosts


def all_done(hosts: str) -> bool:
    try:
        return lag(hosts, "poison", "poison") == 0
    except KafkaError:  # a fresh broker, for its first seconds
        return False


@pytest.mark.needs("quick_sessions")
@pytest.mark.parametrize(("most", "deaths", "stops"), [("1", 3, True), ("0", 6, False)])
def test_a_job_may_take_down_as_many_workers_as_told(
    most: str, deaths: int, stops: bool, quick: str, tmp_path: Path
) -> None:
    """Two go down before the job is suspected, then as many as are told; without a limit it goes on
    beyond the default."""
    noted, pid, options = tmp_path / "noted", tmp_path / "pid", tmp_path / "kafka.json"
    options.write_text('{"session_timeout_ms": 1000, "heartbeat_interval_ms": 250}')
    send_many(quick, "poison", jobs.kill_host, [(str(noted), str(pid))])
    given = (
        f"--hosts={quick}",
        "--topic=poison",
        "--dead-letter-topic=dead",
        f"--max-crashes={most}",
        f"--kafka-file={options}",
    )
    for _ in range(deaths):
        with Program(tmp_path, "worker", *given) as kq_worker:
            pid.write_text(str(kq_worker.pid))
            assert kq_worker.end().status == -signal.SIGKILL
    assert lines(noted) == ["poison"] * deaths
    if stops:
        with Program(tmp_path, "worker", *given) as kq_worker:
            pid.write_text(str(kq_worker.pid))
            wait_until(lambda: all_done(quick) or not kq_worker.running, "the job is given up")
            assert kq_worker.running and lines(noted) == ["poison"] * deaths
        listed = run("dlq", "list", f"--hosts={quick}", "--dead-letter-topic=dead", "--json")
        assert listed.status == 0 and '"reason": "crashes"' in listed.out, listed
    else:
        assert not all_done(quick)
