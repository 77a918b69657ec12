"""Hosts where a worker cannot work refuse in one sentence; those that only look as if they could
not, work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support import HANG_SECONDS, ROOT

from embedkq.errors import WorkerError
from embedkq.worker import environment

START = """
from embedkq import Worker
try:
    Worker(hosts="127.0.0.1:1").start_background()
except Exception as error:
    print(type(error).__name__, error)
"""
APP = """#!/bin/sh
echo started >> {starts}
[ $(wc -l < {starts}) -gt 3 ] && exit 9
exec {python} {script}
"""
POOL = """
import sys
sys.path[:0] = {path!r}
{before}
import jobs
from poolharness import Harness, value_of
with Harness(processes=1) as pool:
    told = value_of(pool.run(jobs.describe_interpreter))
mine = jobs.describe_interpreter()
for name, value in told.items():
    print(name, value == mine[name] or (value, mine[name]))
"""
PATH = [str(ROOT), str(ROOT / "tests")]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, as a host that can import embedkq."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(PATH), **environment},
    )


# Which Python.


@pytest.mark.parametrize("way", ["sys.executable", "multiprocessing"])
def test_a_frozen_application_is_refused_and_not_started_again(way: str, tmp_path: Path) -> None:
    """As PyInstaller makes them: whatever starts the executable runs the whole application."""
    app, script, starts = tmp_path / "app", tmp_path / "script.py", tmp_path / "starts"
    setting = (
        f"import multiprocessing; multiprocessing.set_executable({str(app)!r})"
        if way == "multiprocessing"
        else ""
    )
    script.write_text(
        f"import sys; sys.executable, sys.frozen = {str(app)!r}, True\n{setting}\n{START}"
    )
    app.write_text(APP.format(starts=starts, python=sys.executable, script=script))
    app.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": PATH[0]}
    done = subprocess.run(
        [app], capture_output=True, text=True, timeout=HANG_SECONDS, check=False, env=environment
    )
    assert done.stdout.startswith(
        f"WorkerError this application is frozen, so '{app}' starts the application"
    )
    assert "kq worker" in done.stdout and starts.read_text() == "started\n"


@pytest.mark.parametrize("executable", ["app", ""])
def test_where_python_is_embedded_in_another_program_its_own_interpreter_is_found(
    executable: str, tmp_path: Path
) -> None:
    """As under uWSGI."""
    app, starts = tmp_path / "app", tmp_path / "starts"
    app.write_text(f"#!/bin/sh\necho started >> {starts}\n")
    app.chmod(0o755)
    done = run(
        "-c", POOL.format(path=PATH, before=f"sys.executable = {str(app) if executable else ''!r}")
    )
    assert done.returncode == 0 and "flags True" in done.stdout and not starts.exists(), done.stderr


def test_where_no_python_is_found_the_cure_is_told(tmp_path: Path) -> None:
    setting = f"import sys, sysconfig; sys.executable = '/opt/app'; sys.exec_prefix = sys.base_exec_prefix = {str(tmp_path)!r}\n"
    done = run("-c", f"{setting}sysconfig.get_config_var = lambda name: None\n{START}")
    assert (
        done.stdout.startswith("WorkerError sys.executable is '/opt/app', which is no Python")
        and "set_executable" in done.stdout
    )


def test_what_the_application_has_chosen_is_taken(tmp_path: Path) -> None:
    chosen = tmp_path / "launcher"
    chosen.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    chosen.chmod(0o755)
    before = f"import multiprocessing; multiprocessing.set_executable({str(chosen)!r}); sys.executable = '/opt/app'"
    done = run("-c", POOL.format(path=PATH, before=before))
    assert done.returncode == 0 and "flags True" in done.stdout, done.stderr


# How it is started.


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["-X", "utf8"],
        ["-X", "dev"],
        ["-X", "pycache_prefix=/nonexistent", "-X", "my_own=3"],
        ["-W", "error::UserWarning", "-B"],
        ["-I"],
        ["-E", "-s"],
        ["-bb"],
        ["-O"],
        ["-OO"],
    ],
    ids=" ".join,
)
def test_children_run_with_the_flags_of_their_host(flags: list[str]) -> None:
    done = run(*flags, "-c", POOL.format(path=PATH, before="sys.path.append('/added/later')"))
    assert done.returncode == 0 and done.stdout.count(" True\n") == 5, done.stdout + done.stderr


def test_environment_variables_reach_children() -> None:
    done = run(
        "-c", POOL.format(path=PATH, before=""), PYTHONWARNINGS="error::UserWarning", PYTHONUTF8="1"
    )
    assert done.returncode == 0 and done.stdout.count(" True\n") == 5, done.stdout + done.stderr


# Threads.


@pytest.mark.parametrize(
    "patched",
    ["patch_all()", "patch_all(thread=False)", "patch_socket()", "patch_os()", "patch_time()"],
)
def test_under_gevent_it_refuses_whatever_was_replaced(patched: str) -> None:
    done = run("-W", "ignore", "-c", f"from gevent import monkey\nmonkey.{patched}\n{START}")
    assert (
        done.stdout.startswith("WorkerError gevent has replaced this process's ")
        and "gthread" in done.stdout
    )
    assert "`kq worker`" in done.stdout and len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "refused"),
    [({}, True), ({"enable-threads": True}, False), ({"threads": b"2"}, False)],
)
def test_under_uwsgi_it_refuses_where_there_are_no_threads(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, object], refused: bool
) -> None:
    monkeypatch.setitem(sys.modules, "uwsgi", SimpleNamespace(opt=options))  # type: ignore[arg-type]
    if refused:
        with pytest.raises(WorkerError, match="--enable-threads"):
            environment.check_environment()
    else:
        environment.check_environment()
