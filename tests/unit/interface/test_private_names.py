"""What is used of multiprocessing and pebble beyond their documentation is there, and said in one
sentence if it is not."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import pebble
import pytest
from support import ROOT, wait_until

from embedkq import Worker
from embedkq._ipc import multiprocessing_private
from embedkq.errors import EmbedkqError
from embedkq.worker.pool import pebble_private
from embedkq.worker.pool.fork_server_client import server


def test_all_names_are_there() -> None:
    multiprocessing_private.check()
    pebble_private.check()


GONE = [(owner, name) for owner, names in multiprocessing_private.NEEDED.items() for name in names]


@pytest.mark.parametrize(
    ("owner", "name"), GONE, ids=[f"{owner.__name__}.{name}" for owner, name in GONE]
)
def test_a_name_that_is_gone_is_told_in_one_sentence(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing_private, "NEEDED", {owner: (f"{name}_of_another_version",)})
    with pytest.raises(
        EmbedkqError, match=f"Python 3.*{name}_of_another_version is missing.*3.10 to 3.13"
    ):
        multiprocessing_private.check()


@pytest.mark.parametrize("what", [*pebble_private.METHODS, *pebble_private.ARGUMENTS])
def test_what_pebble_does_not_have_is_told_in_one_sentence(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [f"{name}=None" for name in pebble_private.ARGUMENTS if name != what]
    body = {name: None for name in pebble_private.METHODS if name != what}
    scope: dict[str, Any] = {}
    exec(f"def __init__(self, {', '.join(kept)}): pass", scope)
    monkeypatch.setattr(
        pebble_private,
        "ProcessPool",
        type("ProcessPool", (), {**body, "__init__": scope["__init__"]}),
    )
    with pytest.raises(
        EmbedkqError,
        match=f"pebble {pebble.__version__ if hasattr(pebble, '__version__') else ''}.*{what}.*pip install",
    ):
        pebble_private.check()


@pytest.mark.parametrize("private", [multiprocessing_private, pebble_private])
def test_a_worker_says_so_at_its_start_and_starts_nothing(
    private: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise EmbedkqError("a name is missing")

    monkeypatch.setattr(private, "check", fail)
    before = server._pid
    with pytest.raises(EmbedkqError, match="a name is missing"):
        Worker(hosts="127.0.0.1:1").start_background()
    assert server._pid == before
    wait_until(
        lambda: not any(each.name.startswith("embedkq-worker") for each in threading.enumerate()),
        "no thread was started",
    )


@pytest.mark.parametrize(
    ("module", "name", "told"),
    [
        ("multiprocessing.popen_forkserver", "Popen", "Python 3"),
        ("multiprocessing.reduction", "DupFd", "Python 3"),
        ("pebble", "ProcessPool", "pebble 5"),
        ("pebble.pool.process", "worker_process", "pebble 5"),
    ],
)
def test_what_cannot_be_imported_is_told_in_one_sentence(module: str, name: str, told: str) -> None:
    ours = (
        "worker.pool.pebble_private"
        if module.startswith("pebble")
        else "_ipc.multiprocessing_private"
    )
    script = f"import {module} as gone\ndel gone.{name}\nimport embedkq.{ours}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=False,
    )
    assert (
        done.stderr.splitlines()[-1].startswith(f"ImportError: {told}")
        and "embedkq needs" in done.stderr.splitlines()[-1]
    )
