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
    ends[1].setblocking(False)
    channel.send(ends[0], message)
    assert channel.receive(ends[1]) == message


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
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            received.append(channel.receive(ends[1]))
    assert [int.from_bytes(message[:4], "big") for message in received] == list(range(sent)) and sent >= 2
    assert {len(message) for message in received} == {size}
    assert descriptors() == before, "nor does the receiver"


def test_the_end_of_file_is_an_empty_message(ends: tuple[socket.socket, socket.socket]) -> None:
    channel.send(ends[0], b"last")
    ends[0].close()
    assert channel.receive(ends[1]) == b"last"
    assert channel.receive(ends[1]) == b"" == channel.receive(ends[1])


def test_sending_to_nobody_raises(ends: tuple[socket.socket, socket.socket]) -> None:
    ends[1].close()
    for size in (10, 100_000):
        with pytest.raises(OSError):
            channel.send(ends[0], bytes(size))


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
        assert [channel.claim(reader) for _ in range(3)] == [2**63, 7, 0] and channel.take_claims(reader) == set()


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
