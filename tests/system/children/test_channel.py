"""Messages between host and child: whole, in order, of any size, with nothing left open."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poolharness import descriptors
from support import ROOT, no_descriptors, wait_until

from embedkq._ipc import channel
from embedkq.errors import DecodeError

AROUND = [channel.INLINE_BYTES + by for by in (-2, -1, 0, 1, 2)]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    before = descriptors()
    left, right = channel.pair()
    with left, right:
        yield left, right
    assert descriptors() == before


Ends = tuple[channel.Channel, channel.Channel]


def make_ends() -> Ends:
    """Both sides of a channel, with descriptors of their own."""
    left, right = channel.pair()
    up, down = channel.message_file(), channel.message_file()
    return channel.Channel(left, up, down), channel.Channel(right, os.dup(down), os.dup(up))


@pytest.fixture
def channels() -> Iterator[Ends]:
    before = descriptors()
    with contextlib.ExitStack() as both:
        ends = make_ends()
        for end in ends:
            both.callback(end.close)
        yield ends
    assert descriptors() == before


@pytest.fixture
def default_timeout() -> Iterator[None]:
    socket.setdefaulttimeout(0.01)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.parametrize(
    "size", [1, 255, 256, 257, 4096, *AROUND, 2 * channel.INLINE_BYTES, 1_000_000, 20_000_000]
)
def test_a_message_of_any_size_arrives_whole(channels: Ends, size: int) -> None:
    message = b"x" + os.urandom(size - 1)
    channels[1].end.setblocking(False)
    channels[0].send(message)
    assert channels[1].receive() == message


@settings(max_examples=60)
@given(
    st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=1_000),
            st.builds(bytes.__mul__, st.binary(min_size=1, max_size=3), st.integers(1, 200_000)),
            st.builds(bytes.__mul__, st.binary(min_size=1, max_size=1), st.sampled_from(AROUND)),
        ),
        max_size=5,
    )
)
def test_messages_of_all_sizes_arrive_whole_and_in_order(messages: list[bytes]) -> None:
    left, right = make_ends()
    try:
        left.end.setblocking(False)
        sent = []
        for message in messages:
            try:
                left.send(b"x" + message)
            except BlockingIOError:
                break  # it is full: nothing of this one was sent
            sent.append(b"x" + message)
        left.end.shutdown(socket.SHUT_WR)
        received = []
        while message := right.receive():
            received.append(message)

        assert received == sent
    finally:
        left.close()
        right.close()


@settings(max_examples=60)
@given(st.lists(st.one_of(st.none(), st.integers(1, 400_000)), max_size=30))
def test_room_for_large_messages_is_used_anew_and_never_too_early(steps: list[int | None]) -> None:
    """Each step sends a message of so many bytes, or receives one."""
    left, right = make_ends()
    waiting: list[bytes] = []
    try:
        right.end.setblocking(False)
        for number, size in enumerate(steps, 1):
            if size is not None:
                waiting.append((b"%06d" % number) * (size // 6 + 1))
                left.send(waiting[-1])
            elif waiting:
                assert right.receive() == waiting.pop(0)
        for message in waiting:
            assert right.receive() == message
    finally:
        left.close()
        right.close()


def test_a_large_message_blocks_no_writer_and_its_memory_is_given_back(channels: Ends) -> None:
    """Nobody reads while a hundred megabytes are sent."""
    left, right = channels
    left.end.setblocking(False)
    message = b"x" * 10_000_000
    for _ in range(10):
        left.send(message)
    assert [len(right.receive()) for _ in range(10)] == [10_000_000] * 10
    left.send(b"x" * 100_000)
    assert os.fstat(left._outgoing).st_size < 200_000 and len(right.receive()) == 100_000


def test_no_descriptor_is_needed_to_send_or_to_receive(channels: Ends) -> None:
    with no_descriptors():
        for size in (10, 100_000, 3_000_000):
            channels[0].send(b"x" * size)
            channels[1].send(b"y" * size)
            assert channels[1].receive() == b"x" * size and channels[0].receive() == b"y" * size


@pytest.mark.parametrize(
    "notice",
    [
        b"\0",
        bytes(16),
        bytes(18),
        struct.pack("=BQQ", 0, 8, 2**63),
        struct.pack("=BQQ", 0, 2**62, 40_000),
    ],
)
def test_a_notice_of_what_is_not_there_is_no_message(channels: Ends, notice: bytes) -> None:
    left, right = channels
    left.end.send(notice)
    with pytest.raises(DecodeError):
        right.receive()


def test_a_message_larger_than_may_be_is_refused_before_it_is_read(channels: Ends) -> None:
    left, right = channels
    right._most = 1_000_000
    left.send(b"x" * 1_000_000)
    left.send(b"x" * 1_000_001)
    assert len(right.receive()) == 1_000_000
    with pytest.raises(DecodeError, match="1,000,001"):
        right.receive()


def test_a_file_that_was_closed_and_opened_as_another_is_not_written_to(
    channels: Ends, tmp_path: Path
) -> None:
    left, right = channels
    other = os.open(tmp_path / "users", os.O_RDWR | os.O_CREAT)
    os.dup2(other, left._outgoing)
    with pytest.raises(OSError, match="closed"):
        left.send(b"x" * 100_000)
    assert os.fstat(other).st_size == 0
    os.dup2(other, right._incoming)
    os.write(other, bytes(200_000))
    left.end.send(struct.pack("=BQQ", 0, 8, 100_000))
    with pytest.raises(DecodeError, match="closed"):
        right.receive()
    os.close(other)


def test_what_does_not_fit_is_not_sent_at_all() -> None:
    places = (Path(__file__).parent, ROOT / "tests")
    done = subprocess.run(
        [sys.executable, "-c", TOO_LARGE],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr


TOO_LARGE = """
import resource
from embedkq._ipc import channel
from test_channel import make_ends
left, right = make_ends()
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    left.send(b"x" * 100_000)
except OSError as error:
    assert error.errno in channel.NO_ROOM, error
    print("refused")
left.send(b"x" * 40_000)
assert right.receive() == b"x" * 40_000
"""


@pytest.mark.parametrize("size", [100, channel.INLINE_BYTES - 1, 100_000])
def test_a_full_channel_refuses_a_message_wholly(channels: Ends, size: int) -> None:
    left, right = channels
    left.end.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            left.send(b"x" + sent.to_bytes(4, "big") + bytes(size - 5))
            sent += 1
    received = []
    right.end.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            received.append(right.receive())
    assert [int.from_bytes(message[1:5], "big") for message in received] == list(
        range(sent)
    ) and sent >= 2
    assert {len(message) for message in received} == {size}


def test_the_end_of_file_is_an_empty_message(channels: Ends) -> None:
    left, right = channels
    left.send(b"last")
    left.end.shutdown(socket.SHUT_WR)
    assert right.receive() == b"last"
    assert right.receive() == b"" == right.receive()


def test_sending_to_nobody_raises(channels: Ends) -> None:
    channels[1].end.shutdown(socket.SHUT_RDWR)
    for size in (10, 100_000):
        with pytest.raises(OSError):
            channels[0].send(b"x" * size)


def test_descriptors_arrive_as_duplicates_in_order_that_programs_do_not_inherit(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    files = [channel.anonymous_file(f"number-{number}") for number in range(5)]
    for number, file in enumerate(files):
        os.write(file, b"%d" % number)
    channel.send_descriptors(ends[0], b"five", files)
    for file in files:
        os.close(file)
    message, received, complete = channel.peek(ends[1])
    channel.drop(ends[1])
    assert complete
    assert message == b"five" and [os.pread(file, 9, 0) for file in received] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
    ]
    assert not any(map(os.get_inheritable, received))
    for file in received:
        os.close(file)


def test_a_pair_blocks_whatever_the_default_timeout_of_the_process(default_timeout: None) -> None:
    left, right = channel.pair()
    with left, right:
        assert os.get_blocking(left.fileno()) and os.get_blocking(right.fileno())
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(right.recv(100)))
        reader.start()
        reader.join(0.05)  # five times the default timeout
        assert reader.is_alive() and not received
        left.send(b"at last")
        reader.join(10)
        assert received == [b"at last"]


@pytest.mark.parametrize("blocking", [True, False])
def test_adopting_a_descriptor_leaves_its_blocking_mode_alone(
    default_timeout: None, blocking: bool
) -> None:
    left, right = channel.pair()
    with left, right:
        right.setblocking(blocking)
        adopted = channel.adopt(os.dup(right.fileno()))
        with adopted:
            assert (
                os.get_blocking(adopted.fileno()) is blocking
                and os.get_blocking(right.fileno()) is blocking
            )


def test_each_claim_goes_to_the_child_or_back_to_the_host_and_to_no_other() -> None:
    writer, reader = channel.claims_pair()
    with writer, reader:
        claimed: list[int] = []
        taken: set[int] = set()
        over = threading.Event()

        def claim_all() -> None:
            while not over.is_set():
                if number := channel.claim(reader):
                    claimed.append(number)

        def take_all() -> None:
            while not over.is_set():
                numbers = channel.take_claims(reader)
                assert not numbers & taken
                taken.update(numbers)

        threads = [threading.Thread(target=claim_all), threading.Thread(target=take_all)]
        for thread in threads:
            thread.start()
        most = 20_000
        for first in range(1, most, 32):
            channel.put_claims(writer, range(first, first + 32))
            wait_until(lambda: len(claimed) + len(taken) == first + 31, "each has gone to one side")
        over.set()
        for thread in threads:
            thread.join(10)
        assert claimed == sorted(claimed) and taken and claimed
        assert sorted([*claimed, *taken]) == list(range(1, len(claimed) + len(taken) + 1))


def test_claiming_never_waits_and_outlives_the_other_side(default_timeout: None) -> None:
    writer, reader = channel.claims_pair()
    with reader:
        assert channel.claim(reader) == 0 and channel.take_claims(reader) == set()
        channel.put_claims(writer, [2**63, 7])
        writer.close()
        assert [channel.claim(reader) for _ in range(3)] == [2**63, 7, 0] and channel.take_claims(
            reader
        ) == set()


def test_waiting_ends_with_a_message_with_the_end_and_with_time(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    descriptor = ends[1].fileno()
    assert not channel.wait_readable(descriptor, 0) and not channel.wait_readable(descriptor, -1)
    assert not channel.wait_readable(descriptor, 0.01)
    ends[0].send(b"x")
    assert channel.wait_readable(descriptor, None)
    ends[1].recv(1)
    ends[0].close()
    assert channel.wait_readable(descriptor, None)


def test_an_anonymous_file_has_no_name() -> None:
    descriptor = channel.anonymous_file("embedkq-test")
    try:
        assert os.fstat(descriptor).st_nlink == 0 and not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_descriptors_that_this_process_has_no_room_for_stay_until_it_has(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    files = [channel.anonymous_file(f"number-{number}") for number in range(5)]
    for word in (b"five", b"more"):
        channel.send_descriptors(ends[0], word, files)
    ends[1].setblocking(False)
    for room in (0, 1, 4):
        with no_descriptors(but=room):
            message, received, complete = channel.peek(ends[1])
            assert message == b"five" and len(received) == room and not complete
            for file in received:
                os.close(file)
    for word in (b"five", b"more"):
        message, received, complete = channel.peek(ends[1])
        channel.drop(ends[1])
        assert message == word and len(received) == 5 and complete
        for file in received:
            os.close(file)
    with pytest.raises(BlockingIOError):
        channel.peek(ends[1])
    for file in files:
        os.close(file)


def test_a_message_with_too_many_descriptors_is_not_waited_for(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    channel.send_descriptors(ends[0], b"many", [0] * 100)
    message, received, complete = channel.peek(ends[1])
    assert message == b"many" and complete
    for file in received:
        os.close(file)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_what_a_kernel_or_a_sandbox_does_not_allow_is_done_without(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(name: str) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "memfd_create", refuse)
    test_an_anonymous_file_has_no_name()


def test_what_other_systems_use_instead_carries_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(channel, "_KIND", socket.SOCK_DGRAM)
    before = descriptors()
    left, right = make_ends()
    for size in (1, *AROUND, 1_000_000):
        message = b"x" + os.urandom(size)
        left.send(message)
        assert right.receive() == message
    left.close()
    right.close()
    assert descriptors() == before
