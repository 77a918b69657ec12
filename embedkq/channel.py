"""Whole messages of any size between a host and one of its children, and claims, by which both agree on what the child runs.

A socket pair that keeps message boundaries carries both directions, so that there is never half a message to wait for. What is
larger than 32 KiB goes as the descriptor of an anonymous file that holds it: no writer blocks half-way.

Claims are numbers in the one direction that both sides read: the child to begin what a number stands for, the host to take it back.
The kernel gives each number to one of them.

Only Linux has SOCK_SEQPACKET for local sockets, memfd_create and MSG_CMSG_CLOEXEC; their portable stand-ins are in this file.
"""
from __future__ import annotations

import array
import os
import select
import socket
import struct
from collections.abc import Iterable, Sequence

INLINE_BYTES = 32 * 1024
_BUFFER_BYTES = 8 * INLINE_BYTES
_MOST_DESCRIPTORS = 8
_ANCILLARY_BYTES = socket.CMSG_LEN(_MOST_DESCRIPTORS * struct.calcsize("i"))
_CLOEXEC_ON_RECEIVE = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))  # as plain numbers: to join flags of an enum costs a microsecond
_DONTWAIT = int(socket.MSG_DONTWAIT)
# A DGRAM pair keeps boundaries too, but its reader sees no end of file: there the child watches its host by other means.
_KIND = socket.SOCK_SEQPACKET if hasattr(os, "memfd_create") else socket.SOCK_DGRAM
_IN_FILE = b"\0"
_CLAIM = struct.Struct("=Q")
_MOST_CLAIMS = 512


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, both blocking whatever `socket.setdefaulttimeout()` says in this process."""
    ends = socket.socketpair(socket.AF_UNIX, _KIND)
    for end in ends:
        end.setblocking(True)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return ends


def adopt(descriptor: int) -> socket.socket:
    """A socket object around a descriptor that was received; its description keeps the blocking mode that it has."""
    blocking = os.get_blocking(descriptor)
    end = socket.socket(fileno=descriptor)
    if os.get_blocking(descriptor) != blocking:
        # socket.setdefaulttimeout() made it non-blocking, and with it the other process's view of the same description.
        os.set_blocking(descriptor, blocking)
    return end


def send(end: socket.socket, message: bytes) -> None:
    """Send one message, not empty.

    Raises:
        BlockingIOError: the end is non-blocking and its buffer is full; nothing was sent.
        OSError: the other side is gone.
    """
    if len(message) < INLINE_BYTES:
        end.send(message)
        return
    descriptor = _file_with(memoryview(message))
    try:
        send_descriptors(end, _IN_FILE, [descriptor])
    finally:
        os.close(descriptor)


def send_descriptors(end: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    """Send a short message with descriptors, which the receiver gets duplicates of."""
    end.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


def receive(end: socket.socket) -> bytes:
    """The next message; empty at the end of file.

    Raises:
        BlockingIOError: nothing is there, and the end does not allow to wait.
        OSError: the channel is broken.
    """
    message, descriptors = receive_descriptors(end)
    if not descriptors:
        return message
    try:
        return _content_of(descriptors[0])
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def receive_descriptors(end: socket.socket) -> tuple[bytes, list[int]]:
    """The next message with the descriptors that came with it, which the caller closes."""
    # Not socket.recv_fds: in Python 3.11 it drops its flags.
    message, ancillary, _, _ = end.recvmsg(INLINE_BYTES, _ANCILLARY_BYTES, _CLOEXEC_ON_RECEIVE)
    if not ancillary:
        return message, []
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return message, list(descriptors)


def claims_pair() -> tuple[socket.socket, socket.socket]:
    """Where claims are put, by the host, and where both sides take them from."""
    writer, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    writer.setblocking(False)
    reader.setblocking(False)
    return writer, reader


def put_claims(writer: socket.socket, numbers: Iterable[int]) -> None:
    """Put numbers where `claim` and `take_claims` find them, in this order.

    Raises:
        OSError: the other side is gone.
    """
    writer.send(b"".join(map(_CLAIM.pack, numbers)))


def claim(reader: socket.socket) -> int:
    """The number that was put first, from now on this side's; 0 if there is none. Never waits, whatever the descriptor's mode.

    Raises:
        OSError: what should be there is not.
    """
    try:
        data = reader.recv(_CLAIM.size, _DONTWAIT)
    except BlockingIOError:
        return 0
    return int(_CLAIM.unpack(data)[0]) if data else 0


def take_claims(reader: socket.socket) -> set[int]:
    """All numbers that are there; the other side will not get them."""
    taken: set[int] = set()
    while True:
        try:
            data = reader.recv(_MOST_CLAIMS * _CLAIM.size, _DONTWAIT)
        except OSError:
            return taken
        if not data:
            return taken
        whole = data[: len(data) - len(data) % _CLAIM.size]  # a job that reads what is not its own may leave less
        taken.update(number for number, in _CLAIM.iter_unpack(whole))


def wait_readable(descriptor: int, seconds: float | None) -> bool:
    """Until the descriptor is readable (or its other side gone), or for so many seconds; whether it is.

    By poll: in a host with more than a thousand descriptors, select refuses.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))


def anonymous_file(name: str) -> int:
    """Descriptor of a new file that has no name in the file system."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix=name)
    os.unlink(path)
    return descriptor


def _file_with(rest: memoryview) -> int:
    descriptor = anonymous_file("embedkq-message")
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _content_of(descriptor: int) -> bytes:
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read()
