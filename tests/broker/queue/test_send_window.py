"""Many jobs over a slow line: they arrive as long as acknowledgements come, and a broker that is
away is told in time."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support import end_offsets, wait_until

from embedkq import Queue
from embedkq._clients import producer, send_window
from embedkq._clients.send_window import FEWEST_BYTES, MOST_BYTES, InFlight, SendWindow
from embedkq.errors import BrokerUnavailable, EnqueueFailed


class Line:
    """A proxy (HTTP CONNECT) through which so many bytes a second go to the broker; `cut` lets
    nothing more through."""

    def __init__(self) -> None:
        self.bytes_a_second = 1e9
        self.cut = threading.Event()
        self.sent = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._sockets:
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                request = client.recv(4096)
                host, port = request.split()[1].decode().rsplit(":", 1)
                broker = socket.create_connection((host, int(port)))
            except OSError:
                return
            self._sockets += [client, broker]
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            threading.Thread(target=self._carry, args=(client, broker, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(broker, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, up: bool) -> None:
        try:
            while (data := source.recv(2048)) and not self.cut.is_set():
                if up:
                    self.sent += len(data)
                    time.sleep(len(data) / self.bytes_a_second)
                target.sendall(data)
        except OSError:
            pass


@pytest.fixture
def line() -> Iterator[Line]:
    line = Line()
    yield line
    line.cut.set()
    line.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds after which a broker that acknowledges nothing counts as away, here."""
    monkeypatch.setattr(producer, "SEND_SECONDS", 4.0)
    return 4.0


def test_jobs_that_take_longer_than_the_deadline_arrive_as_long_as_acknowledgements_come(
    line: Line, hosts: str, topic: str, impatient: float
) -> None:
    with Queue(hosts=hosts, topic=topic, kafka={"proxy_url": line.url}) as queue:
        queue.enqueue(len, b"")
        line.bytes_a_second = 30_000.0
        began = time.monotonic()
        jobs = queue.enqueue_many([(len, (bytes([number]) * 1_500,)) for number in range(130)])
        assert time.monotonic() - began > 1.3 * impatient, "the line was not slow"
    assert len(jobs) == 130 and sum(end_offsets(hosts, topic).values()) == 131


def test_a_broker_that_goes_away_in_the_middle_is_told_in_time(
    line: Line, hosts: str, topic: str, impatient: float
) -> None:
    with Queue(hosts=hosts, topic=topic, kafka={"proxy_url": line.url}) as queue:
        queue.enqueue(len, b"")
        line.bytes_a_second = 40_000.0

        def cut() -> None:
            wait_until(lambda: line.sent > 60_000, "some are on their way")
            line.cut.set()
            cut_at.append(time.monotonic())

        cut_at: list[float] = []
        cutting = threading.Thread(target=cut)
        cutting.start()
        with pytest.raises(EnqueueFailed) as caught:
            queue.enqueue_many([(len, (bytes([number]) * 1_500,)) for number in range(250)])
        cutting.join()
        assert time.monotonic() - cut_at[0] < 2.5 * impatient
    told = caught.value
    assert told.acknowledged and len(told.acknowledged) + len(told.failed) == 250
    assert isinstance(told.__cause__, BrokerUnavailable)
    assert len(told.acknowledged) <= sum(end_offsets(hosts, topic).values()) - 1


class Future:
    """Of a message: acknowledged, or never."""

    exception = None
    value = SimpleNamespace(partition=0, offset=0)

    def __init__(self, at: float | None, clock: Callable[[], float]) -> None:
        self._at, self._clock = at, clock

    @property
    def is_done(self) -> bool:
        return self._at is not None and self._clock() >= self._at

    def get(self, timeout: float) -> None:
        now = self._clock()
        if self._at is None or self._at > now + timeout:
            send_window.time.sleep(timeout)
            raise TimeoutError
        send_window.time.sleep(max(0.0, self._at - now))


class Clock:
    """`time`, which passes only in `sleep`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(send_window, "time", clock)
    return clock


@pytest.mark.parametrize("bytes_a_second", [7_000, 100_000, 10**6, 10**9])
def test_each_message_is_acknowledged_in_time_on_any_line(
    clock: Clock, bytes_a_second: int
) -> None:
    """As many bytes as a line carries in a minute; none of them may wait for ten seconds on its
    way."""
    flight, window = None, SendWindow()
    size, free_at, longest = 500, clock.now, 0.0
    flight = InFlight(window, 10.0)
    for index in range(min(60 * bytes_a_second // size, 20_000)):
        while not flight.has_room(size):
            assert flight.next_end()[2] is None
        free_at = max(free_at, clock.now) + (size + 100) / bytes_a_second
        longest = max(longest, free_at + 0.005 - clock.now)
        flight.add(index, None, Future(free_at + 0.005, clock.monotonic), size)
    while flight:
        assert flight.next_end()[2] is None
    assert longest < 9.0
    if bytes_a_second >= 10**6:
        assert window.bytes > 1_000_000, "a quick line is used"


def test_a_line_that_becomes_slow_gets_less_at_once(clock: Clock) -> None:
    window = SendWindow()
    while window.bytes < MOST_BYTES:
        window.acknowledged(window.bytes, clock.now)
    clock.sleep(5)
    window.acknowledged(1_000, clock.now - 4)
    window.acknowledged(1_000, clock.now - 4)  # was sent before the first was seen
    assert window.bytes == MOST_BYTES // 2
    for _ in range(20):
        clock.sleep(5)
        window.acknowledged(1_000, clock.now - 4)
    assert window.bytes == FEWEST_BYTES
    window.grow(1_000)  # it came with the last one
    assert window.bytes == FEWEST_BYTES
    window.acknowledged(1_000, clock.now - 0.1)
    window.grow(1_000)  # nobody has looked for long: that says nothing of the line
    assert window.bytes == FEWEST_BYTES + 2_000


def test_the_deadline_moves_with_acknowledgements_and_not_without(clock: Clock) -> None:
    flight = InFlight(SendWindow(), 10.0)
    for index, seconds in enumerate((9.0, 18.0, 27.0)):
        flight.add(index, None, Future(1000.0 + seconds, clock.monotonic), 10)
    flight.add(3, None, Future(None, clock.monotonic), 10)
    flight.add(4, None, Future(1000.0, clock.monotonic), 10)
    flight.add(5, None, Future(1100.0, clock.monotonic), 10)
    assert [flight.next_end()[2] for _ in range(3)] == [None] * 3
    index, _, error = flight.next_end()
    assert index == 3 and isinstance(error, TimeoutError) and clock.now == 1037.0
    flight.lose(BrokerUnavailable("hosts", "no answer"))
    assert flight.next_end()[2] is None  # it was there all the time
    assert isinstance(flight.next_end()[2], TimeoutError) and clock.now == 1037.0


def test_one_message_may_always_be_sent_however_large(clock: Clock) -> None:
    flight: Any = InFlight(SendWindow(), 10.0)
    assert flight.has_room(10**9)
    flight.add(0, None, Future(None, clock.monotonic), 10**9)
    assert not flight.has_room(1)


def test_where_the_client_keeps_messages_for_long_the_window_is_open_from_the_start() -> None:
    assert (
        SendWindow(linger=5.0).bytes == MOST_BYTES
        and SendWindow(linger=0.005).bytes == FEWEST_BYTES
    )
