"""The targets of `make fuzz` under hypothesis, a short run of it, and that it would tell of what
fails."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import ROOT

from embedkq._formats import kq_record, signing
from embedkq.cli import callback_file
from fuzz.mutate import changed, changed_headers
from fuzz.run import Tally, feed, measure_kept, rounds
from fuzz.targets import Target, targets

NAMES = (
    "record, no secret",
    "record, secret",
    "record, allow and max_age",
    "payload of KQ",
    "what a job of KQ tells",
    "commit metadata",
    "outcome",
    "reply of a child",
    "claims taken back",
    "log record of a child",
    "page",
    "registration",
    "JSON job",
    "JSON job, in a child",
    "plain record, to its handler",
    "arguments that a child tells",
    "dead letter",
    "dead letter, shown",
    "callback file",
    "command line",
)
SLOW = {"callback file": 40, "command line": 25}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def listed(place: Path) -> Iterator[dict[str, Target]]:
    with targets(place, place / "mark") as made:
        yield {target.name: target for target in made}


@pytest.fixture(scope="module", autouse=True)
def no_log_of_refusals() -> Iterator[None]:
    """Each is a line, which pytest would keep."""
    import logging

    logger = logging.getLogger("embedkq")
    old, logger.propagate = logger.propagate, False
    yield
    logger.propagate = old


@pytest.mark.parametrize("name", NAMES)
def test_whatever_comes_is_taken_or_refused(
    listed: dict[str, Target], place: Path, name: str
) -> None:
    target = listed[name]

    @settings(
        max_examples=SLOW.get(name, 150),
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(st.randoms(use_true_random=False))
    def check(chance: Random) -> None:
        target.read(target.make(chance))

    check()
    tally = Tally()
    feed(target, 1, SLOW.get(name, 300), tally, place / "mark")
    assert not tally.failures and tally.taken > 0
    assert not (place / "mark").exists()


def test_every_target_is_listed_here(listed: dict[str, Target]) -> None:
    assert set(listed) == set(NAMES)


@pytest.mark.hang_guard(300)
def test_a_short_run_fails_nowhere() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-m", "fuzz", "--seed=7", "--count=1000", "--records=300"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing failed." in done.stdout and "worker with a secret" in done.stdout


# It would tell.


def test_what_raises_runs_code_or_keeps_memory_is_told(tmp_path: Path) -> None:
    mark, kept = tmp_path / "mark", []

    def crash(number: int) -> bool:
        if number > 200:
            raise KeyError(number)
        return True

    def run_code(number: int) -> bool:
        mark.touch()
        return True

    def keep(number: int) -> bool:
        kept.append(bytes(100))
        return True

    for read, failed in ((crash, True), (run_code, True), (keep, False)):
        target, tally = (
            Target(read.__name__, lambda chance: chance.randrange(256), read, 1),
            Tally(),
        )
        for _ in rounds([target], 1, 200, float("inf"), mark, {target.name: tally}):
            pass
        measure_kept(target, 1, tally, mark)
        assert not tally.well and bool(tally.failed) is failed, read
        assert tally.inputs >= 200 and (not failed or read.__name__ in tally.failures[0])
    assert not mark.exists()


def test_the_same_seed_makes_the_same_inputs() -> None:
    def made(seed: int) -> list[object]:
        chance = Random(seed)
        return [
            (changed(chance, b"abc", [b"x"]), changed_headers(chance, [("a", b"b")], [b"c"]))
            for _ in range(50)
        ]

    assert made(1) == made(1) != made(2)


# What it has found.


def test_a_name_made_of_a_name_is_no_name() -> None:
    payload = (
        b"\x80\x04"
        b"\x8c\x06kq.job\x8c\x03Job\x93"
        b"(\x8c\x01iK\x01\x8c\x01t"
        b"\x8c\x01a\x8c\x01b\x93\x8c\x01c\x93"
        b"."
    )
    assert kq_record.is_job(payload) and kq_record.function_name(payload) is None
    assert payload[:1] == pickle.PROTO


def test_the_home_of_nobody_is_refused() -> None:
    for where in ("~nobody-of-this-name/callback.py", "~\0/callback.py"):
        with pytest.raises(callback_file.CallbackRefused, match="no such file"):
            callback_file.load(where)
    with pytest.raises(ValueError, match="secret="):
        signing.Signer(Path("~nobody-of-this-name/secret"))
