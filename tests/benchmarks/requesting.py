"""Asks a Flask app under Gunicorn as fast as it answers, alone and with a worker in it."""

from __future__ import annotations

import http.client
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from brokers.layout import free_port

from benchmarks import work
from benchmarks.alone import Alone, alone, say_ready
from benchmarks.bed import LIMIT_SECONDS, Bed
from benchmarks.figures import percentile
from embedkq import Queue

MODES = ("without", "sending", "polling", "idle", "busy")
"""No worker; none, but jobs are sent that nobody takes; kafka-python alone takes them; a worker
without jobs; a worker that takes those."""
JOBS_PER_SECOND = 500
_CONNECTIONS = 4
_JOB_SECONDS = 0.001
_BATCH = 10
_READY_SECONDS = 30.0
_WARM_SECONDS = 1.0
_REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"


def measure(bed: Bed, mode: str, seconds: float) -> dict[str, float]:
    """Requests a second and the p99 of their ms, and how many jobs a second were done meanwhile."""
    port, topic = free_port(), bed.topic()
    environment = {**os.environ, "BENCH_MODE": mode, "BENCH_HOSTS": bed.hosts, "BENCH_TOPIC": topic}
    # One process of four threads: all requests and the whole worker share one interpreter lock,
    # which is the hardest case.
    gunicorn = [
        sys.executable,
        "-m",
        "gunicorn",
        "-w",
        "1",
        "-k",
        "gthread",
        "--threads",
        str(_CONNECTIONS),
        "-b",
        f"127.0.0.1:{port}",
    ]
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            [*gunicorn, "benchmarks.webapp:app"], env=environment, stdout=log, stderr=log
        )
        try:
            _await(server, lambda: _get(port, "/ready")[0] == 200)
            if mode not in ("sending", "polling", "busy"):
                return alone(ask, port, seconds)
            with Alone(send_steadily, bed.hosts, topic) as sender:
                sender.await_ready()
                _await(server, lambda: mode == "sending" or int(_get(port, "/jobs")[1]) > 0)
                return alone(ask, port, seconds)
        finally:
            server.terminate()
            server.wait()


def _await(server: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if reached():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise RuntimeError("Gunicorn does not answer, or the worker in it does nothing")


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def send_steadily(hosts: str, topic: str) -> None:
    """JOBS_PER_SECOND jobs a second that take 1 ms each, until it is ended."""
    with Queue(hosts, topic, timeout=LIMIT_SECONDS) as queue:
        queue.enqueue(work.wait, _JOB_SECONDS)
        say_ready()
        due = time.monotonic()
        while True:
            queue.enqueue_many([(work.wait, (_JOB_SECONDS,))] * _BATCH)
            due += _BATCH / JOBS_PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))


def ask(port: int, seconds: float) -> dict[str, float]:
    """Over a few connections, each of which asks anew as soon as it is answered."""
    _ask_for(port, _WARM_SECONDS)
    jobs, began = int(_get(port, "/jobs")[1]), time.perf_counter()
    found = _ask_for(port, seconds)
    took = time.perf_counter() - began
    done = int(_get(port, "/jobs")[1]) - jobs
    return {"rate": len(found) / took, "p99": 1000 * percentile(found, 0.99), "jobs": done / took}


def _ask_for(port: int, seconds: float) -> list[float]:
    selector = selectors.DefaultSelector()
    asked: dict[socket.socket, float] = {}
    for _ in range(_CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", port))
        selector.register(connection, selectors.EVENT_READ)
        _send(connection, asked)
    found: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for key, _ in selector.select(1):
            connection = key.fileobj
            _receive(connection)
            found.append(time.perf_counter() - asked[connection])
            _send(connection, asked)
    for connection in asked:
        connection.close()
    selector.close()
    return found


def _send(connection: socket.socket, asked: dict[socket.socket, float]) -> None:
    asked[connection] = time.perf_counter()
    connection.sendall(_REQUEST)


def _receive(connection: socket.socket) -> None:
    """One whole answer of status 200."""
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0 or len(answer) < end + 4 + _length(answer[:end]):
        received = connection.recv(65536)
        if not received:
            raise RuntimeError("the app closed the connection")
        answer += received
    if not answer.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(answer[:200].decode(errors="replace"))


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split(None, 1)[0])
