"""The Flask extension, in a real server of each kind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import ROOT, lag, lines, wait_until

GUNICORN = [
    sys.executable,
    "-m",
    "gunicorn",
    "-w",
    "2",
    "--graceful-timeout",
    "10",
    "flaskshop:create_app()",
]
FLASK = [sys.executable, "-m", "flask", "--app", "flaskshop:create_app"]
CONF = """
import flaskshop
def post_worker_init(worker):
    flaskshop.kq.start(worker.wsgi)
def worker_exit(server, worker):
    flaskshop.kq.stop(app=worker.wsgi)
"""


def request(port: int, path: str, method: str = "GET") -> tuple[int, str]:
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method), timeout=30
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def environment(hosts: str, topic: str, tmp_path: Path) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "HOSTS": hosts,
        "TOPIC": topic,
        "TOLD": str(tmp_path / "told"),
    }


@pytest.fixture
def serve(
    environment: dict[str, str], tmp_path: Path
) -> Iterator[Callable[..., tuple[int, subprocess.Popen[bytes]]]]:
    """Starts a server, waits until it answers; its port and process."""
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str]) -> tuple[int, subprocess.Popen[bytes]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = ["-b", f"127.0.0.1:{port}"] if "gunicorn" in command else ["-p", str(port)]
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen(
                [*command, *where], env=environment, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)

        def answers() -> bool:
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                return request(port, "/state")[0] == 200
            except OSError:
                return False

        wait_until(answers, "the server answers")
        return port, process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    "options",
    [["-k", "sync"], ["-k", "gthread"], ["--preload"], ["--max-requests", "5"]],
    ids=" ".join,
)
def test_under_gunicorn_jobs_run_in_the_apps_context_and_nothing_is_left(
    serve: Callable[..., tuple[int, subprocess.Popen[bytes]]],
    options: list[str],
    tmp_path: Path,
    hosts: str,
    topic: str,
) -> None:
    conf = tmp_path / "conf.py"
    conf.write_text(CONF)
    port, process = serve([*GUNICORN, "-c", str(conf), *options])
    for number in range(20):
        assert request(port, f"/jobs/word{number}", "POST")[0] == 202
    wait_until(
        lambda: len(lines(tmp_path / "told")) >= 20,
        "all callbacks have fired, while no request comes in",
    )
    told = [line.split() for line in lines(tmp_path / "told")]
    assert {(status, result) for status, result, _ in told} == {
        ("success", f"word{n}-shop") for n in range(20)
    }
    assert len(told) == 20 or "--max-requests" in options
    process.terminate()
    assert process.wait(6) == 0
    wait_until(lambda: gone(process.pid), "no process is left", 2)
    assert lag(hosts, topic, topic) == 0


def test_a_reload_starts_new_workers_and_loses_nothing(
    serve: Callable[..., tuple[int, subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    conf = tmp_path / "conf.py"
    conf.write_text(CONF)
    port, process = serve([*GUNICORN, "-c", str(conf)])
    for number in range(10):
        request(port, f"/jobs/a{number}", "POST")
    process.send_signal(signal.SIGHUP)

    def ask() -> bool:
        try:
            return request(port, "/jobs/b", "POST")[0] == 202
        except OSError:  # a worker that is leaving
            return False

    for _ in range(10):
        wait_until(ask, "the reloaded server answers")
    wait_until(
        lambda: len({line.split()[1] for line in lines(tmp_path / "told")}) == 11,
        "all kinds of jobs are done",
    )
    wait_until(
        lambda: sum("b-shop" in line for line in lines(tmp_path / "told")) >= 10, "all are done"
    )


def test_the_reloaders_parent_starts_no_worker(
    serve: Callable[..., tuple[int, subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    port, process = serve([*FLASK, "run", "--reload"])
    request(port, "/jobs/word", "POST")
    wait_until(lambda: lines(tmp_path / "told"), "the job is done")
    told_by = int(lines(tmp_path / "told")[0].split()[2])
    assert told_by != process.pid
    names = [
        (Path(f"/proc/{process.pid}/task") / task / "comm").read_text()
        for task in os.listdir(f"/proc/{process.pid}/task")
    ]
    assert len(names) <= 2  # the parent's own and perhaps the reloader's


def test_the_health_view_is_200_or_503(
    serve: Callable[..., tuple[int, subprocess.Popen[bytes]]],
) -> None:
    port, _ = serve([*FLASK, "run"])
    wait_until(lambda: request(port, "/health")[0] == 200, "it is healthy")
    told = json.loads(request(port, "/health")[1])
    assert told["healthy"] is True and told["state"] == "running" and told["reasons"] == []


def test_an_unhealthy_worker_is_503(
    hosts: str, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "HOSTS": "127.0.0.1:1",
        "TOPIC": topic,
        "TOLD": str(tmp_path / "told"),
        "WORKER": "0",
    }.items():
        monkeypatch.setenv(name, value)
    import flaskshop

    answer = flaskshop.create_app().test_client().get("/health")
    assert answer.status_code == 503 and answer.json["reasons"] == ["the worker is new"]


@pytest.mark.parametrize("options", [[], ["--verbose"]], ids=["quiet", "verbose"])
def test_flasks_own_command_line_runs_the_worker_and_shows_the_topic(
    environment: dict[str, str], tmp_path: Path, topic: str, options: list[str]
) -> None:
    code = "import flaskshop; app = flaskshop.create_app()\nwith app.app_context(): flaskshop.kq.enqueue(flaskshop.name_app, 'cli')"
    subprocess.run(
        [sys.executable, "-c", code], env={**environment, "WORKER": "0"}, check=True, timeout=60
    )
    with (tmp_path / "log").open("wb") as log:
        command = [*FLASK, "kq", "worker", *options]
        worker = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: lines(tmp_path / "told"), "the job is done")
        assert lines(tmp_path / "told")[0] == f"success cli-shop {worker.pid}"
        shown = subprocess.run(
            [*FLASK, "kq", "info", "--json"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert json.loads(shown.stdout)["topics"] == [topic]
    finally:
        worker.terminate()
        assert worker.wait(20) == 0
    log_text = (tmp_path / "log").read_text()
    assert f"Worker(topic={topic})" in log_text if options else log_text == ""


def test_flasks_commands_have_the_apps_configuration_and_the_command_line_wins(
    environment: dict[str, str], tmp_path: Path, make_topic: Callable[[int], str]
) -> None:
    dead = make_topic(1)
    environment |= {"FLASK_EMBEDKQ_DEAD_LETTER_TOPIC": dead, "WORKER": "0"}
    environment |= {"FLASK_EMBEDKQ_SECRET": "a secret of thirty-two characters"}

    def kq(*arguments: str) -> str:
        done = subprocess.run(
            [*FLASK, "kq", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    kq("enqueue", "flaskshop:name_app", "fail")
    kq("worker", "--burst", "--processes=2")
    (letter,) = map(json.loads, kq("dlq", "list", "--json").splitlines())
    assert (letter["function"], letter["reason"]) == ("flaskshop.name_app", "failure")
    kq("dlq", "retry", "--all", "--yes")
    told = "import sys\ndef callback(*told): print(told[0], type(told[3]).__name__)\n"
    (tmp_path / "told.py").write_text(told)
    again = kq("worker", "--burst", f"--callback={tmp_path / 'told.py'}")
    assert again == "failure LookupError\n", "it was signed again, and ran in the app's context"
    assert lines(tmp_path / "told") == [f"failure None {lines(tmp_path / 'told')[0].split()[2]}"]
    assert kq("dlq", "list", f"--dead-letter-topic={make_topic(1)}", "--json") == ""


def test_a_failed_job_is_visible_without_any_configuration(
    serve: Callable[..., tuple[int, subprocess.Popen[bytes]]], tmp_path: Path
) -> None:
    port, _ = serve([*FLASK, "run"])
    _, job_id = request(port, "/jobs/fail", "POST")
    wait_until(lambda: lines(tmp_path / "told"), "the job has failed")
    log = (tmp_path / "log").read_text()
    assert f"Job {job_id[:8]} failed: no word" in log
    assert "in name_app" in log and "LookupError: no word" in log


UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import flask
from embedkq.flask import EmbedKQ
app = flask.Flask("shop")
app.config["EMBEDKQ_WORKER"] = {worker}
print(EmbedKQ(app).__class__.__name__)
"""


def test_under_gevent_an_app_is_refused_unless_it_only_enqueues() -> None:
    ends = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", UNDER_GEVENT.format(worker=worker)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        for worker in (True, False)
    ]
    last = ends[0].stderr.splitlines()[-1]
    assert ends[0].returncode == 1 and "WorkerError: gevent has replaced this process's" in last
    assert last.endswith("An app that only enqueues sets EMBEDKQ_WORKER to False")
    assert (ends[1].returncode, ends[1].stdout) == (0, "EmbedKQ\n"), ends[1].stderr


def test_a_server_that_is_patched_after_its_app_was_made_is_refused_at_the_start() -> None:
    """As Gunicorn does with --preload: the answer says why, and no thread is left."""
    code = (
        "import flask, threading\nfrom embedkq.flask import EmbedKQ\napp = flask.Flask('shop')\n"
        "app.config['TESTING'] = True\nkq = EmbedKQ(app)\n"
        "from gevent import monkey\nmonkey.patch_all()\n"
        "from embedkq.errors import WorkerError\n"
        "for start in (lambda: kq.start(app), lambda: app.test_client().get('/')):\n"
        "    try:\n        start()\n"
        "    except WorkerError as error:\n        print(str(error).partition(' ')[0])\n"
        "print(any(thread.name == 'embedkq-owner' for thread in threading.enumerate()))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["gevent", "gevent", "False"], done.stderr


def test_an_app_that_was_not_initialised_is_told_what_to_call() -> None:
    from flask import Flask

    from embedkq.flask import EmbedKQ

    app = Flask("bare")
    with (
        app.app_context(),
        pytest.raises(
            RuntimeError, match=r"'bare' does not know embedkq: call kq\.init_app\(app\) first"
        ),
    ):
        EmbedKQ().enqueue(print)
