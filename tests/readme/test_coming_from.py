"""The page for those who come from Celery or RQ: the programs of all three do what it says, those
of Celery and RQ with a Redis of the test's own."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import brokers
import pytest
from brokers.layout import free_port
from guidepages import COMMANDS
from programs import KQ, Programs
from support import wait_until

BIN = Path(sys.executable).parent


@pytest.fixture
def redis(programs: Programs) -> Iterator[int]:
    """The port of a Redis that the programs use."""
    server = shutil.which("redis-server")
    if server is None:
        assert not brokers.in_ci(), "no redis-server: .ci/run installs it"
        pytest.skip("no redis-server on the PATH")
    port = free_port()
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir"]
    process = subprocess.Popen([*command, str(programs.folder)], stdout=subprocess.DEVNULL)
    for program in programs.folder.glob("*.py"):
        program.write_text(program.read_text().replace("localhost:6379", f"127.0.0.1:{port}"))
    try:
        wait_until(lambda: answers(port), "Redis answers")
        yield port
    finally:
        process.terminate()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def told(begin: str) -> list[str]:
    """The words of the page's command that begins so."""
    (command,) = [command for command in COMMANDS if command.startswith(begin)]
    return command.split()


def start(programs: Programs, command: list[str]) -> subprocess.Popen[bytes]:
    return programs.start(str(BIN / command[0]), *command[1:])


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(60)


def python(programs: Programs, code: str) -> str:
    return programs.run(sys.executable, "-W", "ignore", "-c", code)


def test_celery_runs_its_job_and_calls_back_after_the_last_try(
    programs: Programs, redis: int
) -> None:
    worker = start(programs, told("celery"))
    assert programs.run(sys.executable, "celery_enqueue.py") == "a.png at 40\n"
    end(worker)
    worker = start(
        programs, ["celery", "--app", "celery_mail", "worker", "--concurrency=1", "-l", "INFO"]
    )
    python(programs, "import celery_mail; celery_mail.enqueue()")
    wait_until(lambda: "failed ann" in programs.log, "the last try has failed")
    assert programs.log.count("Retry in") == 2
    end(worker)


def test_rq_runs_its_job_and_calls_back_after_the_last_try(programs: Programs, redis: int) -> None:
    command = told("rq")
    command[command.index("--url") + 1] = f"redis://127.0.0.1:{redis}"
    worker = start(programs, command)
    programs.run(sys.executable, "rq_enqueue.py")
    done = "Successfully completed rq_shop.resize('a.png', width=40)"
    wait_until(lambda: done in programs.log, "it has run")
    end(worker)
    command[command.index("images")] = "mail"
    worker = start(programs, command)
    python(programs, "import rq_mail; rq_mail.enqueue()")
    wait_until(lambda: "failed ann" in programs.log, "the last try has failed")
    end(worker)


def test_embedkq_runs_its_job_and_calls_back_after_the_last_try(
    programs: Programs, hosts: str, topics: dict[str, str]
) -> None:
    command = told("kq worker --topic=images --processes")
    where = [f"--hosts={hosts}", f"--topic={topics['images']}"]
    worker = programs.start(KQ, "worker", *where, *command[3:])
    programs.run(sys.executable, "kq_enqueue.py")
    wait_until(lambda: "resize success a.png at 40" in programs.log, "the callback is called")
    end(worker)
    python(programs, "import kq_mail; kq_mail.enqueue()")
    programs.start(sys.executable, "-c", "import kq_mail; kq_mail.work()").wait(60)
    assert (
        "failed ann after 3 attempts" in programs.log and programs.log.count("runs again in") == 2
    )


def test_a_job_runs_at_once(programs: Programs) -> None:
    assert programs.run(sys.executable, "kq_eager.py") == "runs now\n"
