"""Each example, run as its docstring says, on a real broker; and the callback file on the command
line."""

from __future__ import annotations

import ast
import json
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from brokers import Broker
from programs import KQ, STOP_SECONDS, Programs, end, request
from support import ROOT, Sender, lines, send_many, wait_until

from embedkq._clients import admin
from embedkq.errors import BrokerUnavailable

EXAMPLES = ROOT / "examples"
NAMES = [
    "asgi_app.py",
    "asyncio_app.py",
    "callback.py",
    "flask_app.py",
    "flask_background.py",
    "gunicorn.conf.py",
    "orders_app.py",
    "script.py",
]


@pytest.fixture
def programs(hosts: str, topic: str, tmp_path: Path) -> Iterator[Programs]:
    """Runs the examples with a topic and a file of the test's own."""
    environment = {
        "EMBEDKQ_HOSTS": hosts,
        "EMBEDKQ_TOPIC": topic,
        "RESULTS_FILE": str(tmp_path / "results"),
    }
    with Programs(tmp_path, environment) as programs:
        yield programs


def docstring_of(name: str) -> str:
    return ast.get_docstring(ast.parse((EXAMPLES / name).read_text())) or ""


def promised(name: str) -> list[str]:
    """The lines that an example's docstring says one should see."""
    _, _, see = docstring_of(name).partition("\nSee")
    return [line.strip() for line in see.splitlines()[1:] if line.startswith(" " * 8)]


def test_every_example_says_what_it_needs_how_to_run_it_and_what_to_see() -> None:
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == NAMES
    for name in NAMES:
        for heading in ("needs", "run", "see"):
            assert re.search(rf"\b{heading}\b", docstring_of(name), re.IGNORECASE), (
                f"{name}: {heading}"
            )


@pytest.mark.parametrize("name", ["callback.py", "script.py", "asyncio_app.py"])
def test_what_one_should_see_is_what_one_sees(name: str, programs: Programs) -> None:
    seen = programs.run(sys.executable, str(EXAMPLES / name)).splitlines()
    assert promised(name)
    assert sorted(seen) == sorted(promised(name))


def test_the_callback_file_on_the_command_line_logs_the_five_lines(
    programs: Programs, hosts: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_module.py").write_text(
        "def my_func(foo, bar, baz):\n    return foo, bar, baz\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(
        sys.modules, "my_module", raising=False
    )  # another test may have one of its own
    import my_module  # type: ignore[import-not-found]

    (job_id,) = send_many(hosts, topic, my_module.my_func, [(1, 2)], baz=3)
    worker = programs.start(KQ, "worker", "--verbose", f"--callback={EXAMPLES / 'callback.py'}")
    wait_until(lambda: "\nmy_func" in programs.log, "the callback is called")
    end(worker, signal.SIGTERM)
    logged = programs.log.splitlines()
    record = re.fullmatch(
        r"\[INFO\] Processing Record\(topic=(\S+), partition=[0-3], offset=0\) \.\.\.", logged[1]
    )
    assert record is not None and record.group(1) == topic
    assert [logged[0], *logged[2:6]] == [
        f"[INFO] Starting Worker(topic={topic}) ...",
        f"[INFO] Running Job {job_id[:8]}: my_module.my_func(1, 2, baz=3) ...",
        f"[INFO] Job {job_id[:8]} returned: (1, 2, 3)",
        "[INFO] Executing callback ...",
        "my_func(1, 2) returned (1, 2, 3)",
    ]


@pytest.fixture
def start_flask_app(
    programs: Programs, hosts: str, topic: str
) -> Callable[..., tuple[subprocess.Popen[bytes], str]]:
    """Starts Gunicorn with so many workers, in each of which a worker of embedkq is at work; the
    process, and its address."""

    def start(workers: int, kind: str) -> tuple[subprocess.Popen[bytes], str]:
        server, address = programs.start_gunicorn("flask_app:app", workers, kind, cwd=EXAMPLES)
        wait_until(
            lambda: workers_with_partitions(hosts, topic) == workers,
            "each Gunicorn worker has partitions",
        )
        return server, address

    return start


def workers_with_partitions(hosts: str, topic: str) -> int:
    try:
        groups = admin.describe(hosts, topic, topic).groups
    except BrokerUnavailable:  # a fresh broker has no coordinator of groups at first
        return 0
    return sum(1 for group in groups for member in group.members if member.partitions)


@pytest.fixture
def told(tmp_path: Path) -> Callable[[], dict[str, str]]:
    """What the callbacks of the Flask app have been told so far: status and result by job."""
    return lambda: dict(line.split(" ", 1) for line in lines(tmp_path / "results"))


@pytest.fixture
def check_rest(
    programs: Programs, broker: Broker, tmp_path: Path
) -> Callable[[dict[str, str]], None]:
    """Runs what was left undone in a worker of the same group and callback: then each job was told
    of, and once."""

    def check(expected: dict[str, str]) -> None:
        programs.start(
            KQ,
            "worker",
            "--burst",
            "--timeout=1",
            "--processes=4",
            "--callback=flask_app",
            cwd=EXAMPLES,
        ).wait()
        results = [line.split(" ", 1) for line in lines(tmp_path / "results")]
        assert dict(results) == expected
        assert set(Counter(job_id for job_id, _ in results).values()) == {1}

    return check


@pytest.mark.parametrize("kind", ["sync", "gthread"])
def test_flask_under_gunicorn_loses_nothing(
    kind: str,
    start_flask_app: Any,
    told: Any,
    check_rest: Any,
    broker: Broker,
    hosts: str,
    topic: str,
    tmp_path: Path,
) -> None:
    server, address = start_flask_app(2, kind)
    expected = {
        request(f"{address}/jobs/{number}", "POST"): f"success {number * number}"
        for number in range(20)
    }
    wait_until(lambda: len(told()) == 20, "callbacks have come while no request did")
    assert told() == expected
    assert request(f"{address}/results").splitlines() == lines(tmp_path / "results")

    notes = tmp_path / "notes"
    slow = send_many(
        hosts, topic, workerjobs.note_both_ends, [(str(notes), number, 0.3) for number in range(30)]
    )
    wait_until(lambda: len(told()) > 22, "some more are done")
    end(server, signal.SIGTERM)
    assert len(told()) < 50
    check_rest({**expected, **{job_id: f"success {number}" for number, job_id in enumerate(slow)}})
    assert sorted(lines(notes)) == sorted(
        f"{edge} {number}" for number in range(30) for edge in ("begin", "end")
    ), "one was cut short"


def test_a_job_that_outlasts_gunicorn_runs_again(
    start_flask_app: Any, told: Any, check_rest: Any, hosts: str, topic: str, tmp_path: Path
) -> None:
    server, _ = start_flask_app(1, "sync")
    begun = tmp_path / "begun"
    (job_id,) = send_many(
        hosts, topic, workerjobs.note_and_wait, [(str(begun), "here", str(tmp_path / "never"))]
    )
    wait_until(lambda: lines(begun), "the job runs")
    end(server, signal.SIGTERM, within=2 * STOP_SECONDS)  # the exit hook alone takes 4 s of it
    assert not told() and len(lines(begun)) == 1
    check_rest({job_id: "timeout None"})
    assert len(lines(begun)) == 2


def test_a_flask_app_whose_one_thread_owns_the_worker(programs: Programs) -> None:
    server, address = programs.start_web(
        sys.executable,
        "-m",
        "flask",
        "--app",
        "flask_background",
        "run",
        "--without-threads",
        "--port=0",
        cwd=EXAMPLES,
    )
    expected = {request(f"{address}/jobs/{number}", "POST"): number * number for number in range(5)}
    wait_until(
        lambda: json.loads(request(f"{address}/results")) == expected,
        "requests have fired the callbacks",
    )
    end(server, signal.SIGINT)
    assert "Traceback" not in programs.log


def test_an_asgi_app_whose_loop_fires_the_callbacks(programs: Programs) -> None:
    server, address = programs.start_web(
        sys.executable, "-m", "uvicorn", "--port", "0", "asgi_app:app", cwd=EXAMPLES
    )
    jobs = {request(f"{address}/jobs/{number}", "POST"): number * number for number in range(10)}
    wait_until(
        lambda: json.loads(request(f"{address}/results")) == jobs, "all callbacks have fired"
    )
    assert json.loads(request(f"{address}/health"))["healthy"] is True
    end(
        server, signal.SIGTERM, status=-signal.SIGTERM
    )  # uvicorn shuts down, then lets the signal have its way


def test_a_service_that_works_through_the_topic_of_another_program(
    programs: Programs, hosts: str, topic: str
) -> None:
    server, address = programs.start_web(
        sys.executable, "-m", "uvicorn", "--port", "0", "orders_app:app", cwd=EXAMPLES
    )
    with Sender(hosts, topic) as sender:
        for value in (*(f'{{"item": "tea", "count": {count}}}' for count in (1, 2, 3)), "{}"):
            sender.send_record(value.encode(), [], key=b"ann")
        sender.flush()
    expected = {"handled": 3, "failed": 1, "last": "KeyError('count')"}
    wait_until(
        lambda: json.loads(request(f"{address}/customers/ann")) == expected,
        "all orders were handled, in their order",
    )
    assert json.loads(request(f"{address}/health"))["healthy"] is True
    end(server, signal.SIGTERM, status=-signal.SIGTERM)


def test_a_flask_shop_shows_what_became_of_each_order(
    programs: Programs, hosts: str, topic: str
) -> None:
    programs.environment |= {"FLASK_EMBEDKQ_HOSTS": hosts, "FLASK_EMBEDKQ_TOPIC": topic}
    command = (sys.executable, "-m", "flask", "--app", "shop", "run", "-p", "0")
    server, address = programs.start_web(*command, cwd=EXAMPLES / "flask_shop")
    good = request(f"{address}/orders/tea/2", "POST")
    bad = request(f"{address}/orders/nothing/2", "POST")
    expected = (
        f'<li id="{good}">2 x tea</li>',
        f'<li id="{bad}">failure nothing costs nothing</li>',
    )
    wait_until(
        lambda: all(item in request(f"{address}/orders") for item in expected),
        "the page shows both",
    )
    end(server, signal.SIGINT)


def test_the_tests_of_the_flask_shop_pass_without_kafka(programs: Programs, tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    shutil.copytree(EXAMPLES / "flask_shop", shop, ignore=shutil.ignore_patterns("__pycache__"))
    programs.environment["PYTEST_ADDOPTS"] = "-p no:cacheprovider"
    assert "4 passed" in programs.run(sys.executable, "-m", "pytest", "-q", cwd=shop)
