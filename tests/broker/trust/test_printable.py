"""Text of others never steers a terminal, nor passes for a line of the log: in the log, on the
command line, in errors."""

from __future__ import annotations

import logging
import os
import pty
import re
import select
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from commandline import MODULE, environment, run
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaConsumer
from support import wait_until

from embedkq import Queue
from embedkq._printable import escaped, in_one_record, one_line
from embedkq._safe_logging import SafeLogger

EVIL = "x\n[INFO] Job deadbeef returned: 'paid'\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


@given(st.text())
def test_no_text_keeps_what_steers(text: str) -> None:
    for shown in (escaped(text), one_line(text), in_one_record(text)):
        steering = {
            c
            for c in shown
            if unicodedata.category(c) == "Cc"
            or unicodedata.bidirectional(c) in ("RLO", "LRO", "RLE", "LRE")
        }
        assert steering <= {"\n", "\t"}
    assert "\n" not in one_line(text)
    assert all(line[:1] in ("", " ", "\t") for line in in_one_record(text).split("\n")[1:])


@pytest.mark.parametrize(
    "text", ["", "resize('a.png', width=80)", "Füße, 日本語, \u00a0", "two\nlines\tand a tab"]
)
def test_what_does_not_steer_stays(text: str) -> None:
    assert escaped(text) == text


def test_a_log_line_has_escapes_in_place_of_what_steers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "embedkq.test"):
        SafeLogger("embedkq.test").warning("%s and %s", EVIL, ValueError(EVIL))
    assert not set("\x1b\x07\x9b\u202e") & set(caplog.messages[0])


@pytest.mark.parametrize("verbose", [True, False])
def test_no_record_writes_a_line_of_its_own_into_the_log(
    hosts: str, topic: str, tmp_path: Path, verbose: bool
) -> None:
    with Queue(hosts, topic) as queue:
        queue.enqueue(workerjobs.echo, EVIL)
        queue.enqueue(workerjobs.fail_with, EVIL)
        queue.enqueue(print, EVIL)
        queue.enqueue(logging.warning, EVIL)
    ended = run(
        "worker",
        "--burst",
        f"--hosts={hosts}",
        f"--topic={topic}",
        *["--verbose"] * verbose,
        cwd=tmp_path,
    )
    assert ended.status == 0 and "owned" in ended.err, ended
    assert not set("\x1b\x07\x9b\u202e") & set(ended.out + ended.err), ended
    assert not re.search(r"^\[INFO\] Job deadbeef", ended.err, re.MULTILINE), ended


@pytest.mark.parametrize("evil", [EVIL, "[/y]", "[bold]x[/bold]"])
def test_names_of_other_clients_reach_the_terminal_as_they_are_and_steer_nothing(
    hosts: str, topic: str, evil: str
) -> None:
    other = KafkaConsumer(
        bootstrap_servers=hosts, group_id=f"group-{topic}-{evil}", client_id=f"client-{evil}"
    )
    try:
        other.subscribe([topic])
        wait_until(
            lambda: other.poll(500) is not None and bool(other.assignment()), "it has joined"
        )
        shown = on_a_terminal("info", f"--hosts={hosts}", f"--topic={topic}")
    finally:
        other.close()
    assert "Workers" in shown and "Traceback" not in shown, shown
    assert "\x1b]0;" not in shown and "\x1b[2J" not in shown and "\u202e" not in shown
    if evil.startswith("["):
        assert f"client-{evil}" in re.sub(r"\x1b\[[0-9;]*m", "", shown), shown


def on_a_terminal(*arguments: str) -> str:
    """What the command line writes where it has a terminal."""
    ours, theirs = pty.openpty()
    env: dict[str, Any] = environment({"COLUMNS": "250", "TERM": "xterm-256color"})
    with subprocess.Popen(
        [*MODULE, *arguments], env=env, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        written = b""
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.1)[0]:
                try:
                    written += os.read(ours, 65536)
                except OSError:  # the other end is closed
                    break
    os.close(ours)
    return written.decode()
