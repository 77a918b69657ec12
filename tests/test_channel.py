"""Messages between host and child: whole, in order, of any size, with nothing left open."""
from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poolharness import descriptors
from support import wait_until

from embedkq import channel

AROUND = [channel.INLINE_BYTES + by for by in (-2, -1, 0, 1, 2)]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    before = descriptors()
    left, right = channel.pair()
    with left, right:
        yield left, right
    assert descriptors() == before


@pytest.fixture
def default_timeout() -> Iterator[None]:
    socket.setdefaulttimeout(0.01)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.parametrize("size", [1, 255, 256, 257, 4096, *AROUND, 2 * channel.INLINE_BYTES, 1_000_000, 20_000_000])
def test_a_message_of_any_size_arrives_whole(ends: tuple[socket.socket, socket.socket], size: int) -> None:
    message = os.urandom(size)
    channel.send(ends[0], message)
    assert channel.receive(ends[1], socket.MSG_DONTWAIT) == message


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(
    st.binary(min_size=1, max_size=1_000),
    st.builds(bytes.__mul__, st.binary(min_size=1, max_size=3), st.integers(1, 200_000)),
    st.builds(bytes.__mul__, st.binary(min_size=1, max_size=1), st.sampled_from(AROUND)),
), max_size=5))
def test_messages_of_all_sizes_arrive_whole_and_in_order(messages: list[bytes]) -> None:
    left, right = channel.pair()
    with left, right:
        left.setblocking(False)
        sent = []
        for message in messages:
            try:
                channel.send(left, message)
            except BlockingIOError:
                break  # it is full: nothing of this one was sent
            sent.append(message)
        left.shutdown(socket.SHUT_WR)
        received = []
        while message := channel.receive(right):
            received.append(message)

        assert received == sent


def test_a_large_message_blocks_no_writer(ends: tuple[socket.socket, socket.socket]) -> None:
    """Nobody reads while a hundred megabytes are sent."""
    ends[0].setblocking(False)
    message = bytes(10_000_000)
    for _ in range(10):
        channel.send(ends[0], message)
    assert [len(channel.receive(ends[1])) for _ in range(10)] == [10_000_000] * 10


@pytest.mark.parametrize("size", [100, channel.INLINE_BYTES - 1, 100_000])
def test_a_full_channel_refuses_a_message_wholly(ends: tuple[socket.socket, socket.socket], size: int) -> None:
    ends[0].setblocking(False)
    sent = 0
    before = descriptors()
    with pytest.raises(BlockingIOError):
        while True:
            channel.send(ends[0], sent.to_bytes(4, "big") + bytes(size - 4))
            sent += 1
    assert descriptors() == before, "the sender keeps no file open"
    received = []
    with pytest.raises(BlockingIOError):
        while True:
            received.append(channel.receive(ends[1], socket.MSG_DONTWAIT))
    assert [int.from_bytes(message[:4], "big") for message in received] == list(range(sent)) and sent >= 2
    assert {len(message) for message in received} == {size}
    assert descriptors() == before, "nor does the receiver"


def test_the_end_of_file_is_an_empty_message(ends: tuple[socket.socket, socket.socket]) -> None:
    channel.send(ends[0], b"last")
    ends[0].close()
    assert channel.receive(ends[1]) == b"last"
    assert channel.receive(ends[1]) == b"" == channel.receive(ends[1], socket.MSG_DONTWAIT)


def test_sending_to_nobody_raises(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].close()
    for size in (10, 100_000):
        with pytest.raises(OSError):
            channel.send(ends[0], bytes(size))


def test_a_message_that_is_taken_back_is_read_by_its_head_alone(ends: tuple[socket.socket, socket.socket]) -> None:
    message = os.urandom(1_000_000)
    channel.send(ends[0], message)
    head, files = channel.receive_descriptors(ends[1])
    assert head == message[: len(head)] and 0 < len(head) <= 256 and len(files) == 1
    assert not os.get_inheritable(files[0])
    os.close(files[0])


def test_descriptors_arrive_as_duplicates_in_order_that_programs_do_not_inherit(ends: tuple[socket.socket, socket.socket]) -> None:
    files = [channel.anonymous_file(f"number-{number}") for number in range(5)]
    for number, file in enumerate(files):
        os.write(file, b"%d" % number)
    channel.send_descriptors(ends[0], b"five", files)
    for file in files:
        os.close(file)
    message, received = channel.receive_descriptors(ends[1])
    assert message == b"five" and [os.pread(file, 9, 0) for file in received] == [b"0", b"1", b"2", b"3", b"4"]
    assert not any(map(os.get_inheritable, received))
    for file in received:
        os.close(file)


def test_a_pair_blocks_whatever_the_default_timeout_of_the_process(default_timeout: None) -> None:
    left, right = channel.pair()
    with left, right:
        assert os.get_blocking(left.fileno()) and os.get_blocking(right.fileno())
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(channel.receive(right)))
        reader.start()
        reader.join(0.05)  # five times the default timeout
        assert reader.is_alive() and not received
        channel.send(left, b"at last")
        reader.join(10)
        assert received == [b"at last"]


@pytest.mark.parametrize("blocking", [True, False])
def test_adopting_a_descriptor_leaves_its_blocking_mode_alone(default_timeout: None, blocking: bool) -> None:
    left, right = channel.pair()
    with left, right:
        right.setblocking(blocking)
        adopted = channel.adopt(os.dup(right.fileno()))
        with adopted:
            assert os.get_blocking(adopted.fileno()) is blocking and os.get_blocking(right.fileno()) is blocking


def test_two_readers_of_one_end_share_the_messages_and_lose_none(ends: tuple[socket.socket, socket.socket]) -> None:
    """As a host that takes back while its child reads."""
    received: list[bytes] = []

    def read() -> None:
        while message := channel.receive(ends[1]):
            received.append(message)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    sent = [b"%d" % number * (1 if number % 7 else 30_000) for number in range(300)]
    for message in sent:
        channel.send(ends[0], message)
    wait_until(lambda: len(received) == len(sent), "all are received")
    ends[0].close()
    for reader in readers:
        reader.join(10)
    assert sorted(received) == sorted(sent)


def test_waiting_ends_with_a_message_with_the_end_and_with_time(ends: tuple[socket.socket, socket.socket]) -> None:
    descriptor = ends[1].fileno()
    assert not channel.wait_readable(descriptor, 0) and not channel.wait_readable(descriptor, -1)
    assert not channel.wait_readable(descriptor, 0.01)
    channel.send(ends[0], b"x")
    assert channel.wait_readable(descriptor, None)
    channel.receive(ends[1])
    ends[0].close()
    assert channel.wait_readable(descriptor, None)


def test_an_anonymous_file_has_no_name() -> None:
    descriptor = channel.anonymous_file("embedkq-test")
    try:
        assert os.fstat(descriptor).st_nlink == 0 and not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_what_other_systems_use_instead_carries_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(channel, "_KIND", socket.SOCK_DGRAM)
    before = descriptors()
    left, right = channel.pair()
    with left, right:
        for size in (1, *AROUND, 1_000_000):
            message = os.urandom(size)
            channel.send(left, message)
            assert channel.receive(right) == message
    assert descriptors() == before
