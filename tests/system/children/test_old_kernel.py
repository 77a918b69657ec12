"""Kernels and sandboxes without the newer system calls: pidfd_open is Linux 5.3, and seccomp
profiles forbid what they do not know."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys

import pytest
from support import HANG_SECONDS, ROOT

SCRIPT_SECONDS = 4 * HANG_SECONDS
"""The script's own waits are for progress, each up to `HANG_SECONDS`; this is for what waits
without a limit, and shows where that is."""
NUMBERS = {
    "pidfd_open": 434,
    "pidfd_send_signal": 424,
    "memfd_create": 279 if platform.machine() == "aarch64" else 319,
}
SCRIPT = """
import ctypes, faulthandler, logging, os, signal, struct, sys
faulthandler.dump_traceback_later({hang_seconds}, exit=True)
logging.basicConfig(level=logging.INFO)
FORBIDDEN, ERROR = {forbidden}, {error}
def filter_of(numbers, error):
    program = struct.pack("HBBI", 0x20, 0, 0, 0)
    for number in numbers:
        program += struct.pack("HBBI", 0x15, 0, 1, number) + struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | error)
    return program + struct.pack("HBBI", 0x06, 0, 0, 0x7fff0000)
class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
code = filter_of(FORBIDDEN, ERROR)
buffer = ctypes.create_string_buffer(code)
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(Program(len(code) // 8, ctypes.addressof(buffer))), 0, 0):
    sys.exit("no filter can be set here")

import jobs
from poolharness import Harness, descriptors, exists, value_of
from support import wait_until
with Harness() as pool:
    pool.fill()
before = descriptors()
pool = Harness(proc_ttl=20)
pool.fill()
assert value_of(pool.run(jobs.echo, "x" * 100_000)) == "x" * 100_000
for _ in range(3):
    assert value_of(pool.run(jobs.exit_with, 3)).exitcode == 3
    assert pool.run(jobs.sleep, os.devnull, limit=0.5).status == "timeout"

def tells_where_it_was():  # a child that gets no time on a busy machine cannot, and is killed all the same
    outcome = pool.run(jobs.sleep, os.devnull, limit=0.5)
    assert outcome.status == "timeout", outcome
    return "in sleep" in outcome.traceback

wait_until(tells_where_it_was, "a job at its limit tells where it was")
killed = pool.pids
for pid in killed:
    os.kill(pid, signal.SIGKILL)
pool.run_until(lambda: pool.is_full() and not killed & pool.pids, "others are there")
tasks = [pool.submit(jobs.echo, number) for number in range(200)]
assert [value_of(outcome) for outcome in pool.finish(*tasks)] == list(range(200))
pool.fill()
pids = pool.pids
pool.close()
assert descriptors() == before and not any(map(exists, pids))
print("done")
"""


@pytest.mark.hang_guard(SCRIPT_SECONDS + 30)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="seccomp is Linux's")
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM])
@pytest.mark.parametrize(
    "missing",
    [["pidfd_open"], ["pidfd_send_signal"], ["memfd_create"], list(NUMBERS)],
    ids=" ".join,
)
def test_a_pool_works_without_newer_system_calls(missing: list[str], error: int) -> None:
    script = SCRIPT.format(
        forbidden=[NUMBERS[name] for name in missing], error=error, hang_seconds=SCRIPT_SECONDS
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=SCRIPT_SECONDS + 20,
        env=environment,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert "WARNING" not in done.stderr and "broke" not in done.stderr, done.stderr
