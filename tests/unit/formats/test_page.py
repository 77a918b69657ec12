"""The page by which a child tells how far it is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from embedkq._ipc import channel
from embedkq._ipc.progress_page import Phase, Progress, ProgressPage


@pytest.fixture
def descriptor() -> Iterator[int]:
    descriptor = channel.anonymous_file("embedkq-test-page")
    ProgressPage.size(descriptor)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def page(descriptor: int) -> Iterator[ProgressPage]:
    page = ProgressPage(descriptor)
    yield page
    page.close()


def test_a_new_page_speaks_of_no_job(page: ProgressPage) -> None:
    assert page.read().number == 0


def test_the_host_reads_when_a_job_ended_last(page: ProgressPage) -> None:
    assert page.ended == 0
    page.write(1, Phase.RUNNING, 10)
    page.end(20)
    assert page.ended == 20 and page.read() == Progress(1, Phase.RUNNING, 10)


@pytest.mark.parametrize("state", [0, 5, 6, 7])
def test_a_phase_that_there_is_not_counts_as_not_begun(page: ProgressPage, state: int) -> None:
    page._words[0] = 9 << 3 | state
    assert page.read() == Progress(9, Phase.DECODING, 0)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize("number", [1, 2, 2**31, 2**40, 2**60])
def test_the_host_reads_what_the_child_wrote(
    descriptor: int, page: ProgressPage, phase: Phase, number: int
) -> None:
    host = ProgressPage(descriptor)
    page.write(number, phase, 2**62 + 1)
    assert host.read() == Progress(number, phase, 2**62 + 1)
    host.close()


def test_a_page_outlives_the_process_that_wrote_it(descriptor: int, page: ProgressPage) -> None:
    pid = os.fork()
    if pid == 0:
        ProgressPage(descriptor).write(7, Phase.RUNNING, 123)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert page.read() == Progress(7, Phase.RUNNING, 123)


def test_phase_and_number_never_mix(descriptor: int, page: ProgressPage) -> None:
    """A child writes as fast as it can, always the number in step with the phase and the time; the
    host reads meanwhile."""
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        child = ProgressPage(descriptor)
        number = 0
        while os.getppid() == parent:
            number += 4
            for phase in Phase:
                child.write(number + phase, phase, number)
        os._exit(0)
    try:
        last = 0
        for _ in range(100_000):
            number, phase, _ = page.read()
            assert number == 0 or number % 4 == phase % 4
            assert number >= last
            last = number
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_closed_page_is_unmapped(descriptor: int) -> None:
    page = ProgressPage(descriptor)
    page.close()
    with pytest.raises(ValueError):
        page.read()
