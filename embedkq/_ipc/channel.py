"""Whole messages of any size between a host and one of its children, and claims, by which both
agree on what the child runs.

A socket pair that keeps message boundaries carries both directions, so that there is never half a
message to wait for. What is larger than 32 KiB is written to an anonymous file that both sides hold
open from the start, one for each direction, and a notice of it goes through the socket: no writer
blocks half-way, and no descriptor is needed to send or to receive, of which either process may have
none left.

Claims are numbers in the one direction that both sides read: the child to begin what a number
stands for, the host to take it back. The kernel gives each number to one of them.

Only Linux has SOCK_SEQPACKET for local sockets, memfd_create and MSG_CMSG_CLOEXEC; their portable
stand-ins are in this file.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
import sys
from collections.abc import Iterable, Sequence

from embedkq.errors import DecodeError

INLINE_BYTES = 32 * 1024
NO_ROOM = (errno.ENOSPC, errno.ENOMEM, errno.EFBIG, errno.EDQUOT)
"""Of an OSError of `Channel.send`: the message is too large for this machine now; smaller ones can
still be sent."""
NOT_ALLOWED = (errno.ENOSYS, errno.EPERM, errno.EACCES)
"""Of an OSError of a system call that this kernel does not have, or that a sandbox (seccomp) keeps
from its processes."""
_BUFFER_BYTES = 8 * INLINE_BYTES
_MOST_DESCRIPTORS = 12
_ANCILLARY_BYTES = socket.CMSG_LEN(_MOST_DESCRIPTORS * struct.calcsize("i"))
_CLOEXEC_ON_RECEIVE = int(
    getattr(socket, "MSG_CMSG_CLOEXEC", 0)
)  # as plain numbers: to join flags of an enum costs a microsecond
_DONTWAIT = int(socket.MSG_DONTWAIT)
_PEEK = (
    int(socket.MSG_PEEK) if sys.platform.startswith("linux") else 0
)  # elsewhere it does not give descriptors
# A DGRAM pair keeps boundaries too, but its reader sees no end of file: there the child watches its
# host by other means.
_KIND = socket.SOCK_SEQPACKET if hasattr(os, "memfd_create") else socket.SOCK_DGRAM
_NOTICE_MARK = 0
_NOTICE = struct.Struct("=BQQ")
"""`_NOTICE_MARK`, with which no other message begins; position and size in the sender's file."""
_COUNT = struct.Struct("=Q")
_KEPT_BYTES = 1024 * 1024
_CLAIM = struct.Struct("=Q")
_MOST_CLAIMS = 512


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends, both blocking whatever `socket.setdefaulttimeout()` says in this
    process."""
    ends = socket.socketpair(socket.AF_UNIX, _KIND)
    for end in ends:
        end.setblocking(True)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return ends


def adopt(descriptor: int) -> socket.socket:
    """A socket object around a descriptor that was received; its description keeps the blocking
    mode that it has."""
    blocking = os.get_blocking(descriptor)
    end = socket.socket(fileno=descriptor)
    if os.get_blocking(descriptor) != blocking:
        # socket.setdefaulttimeout() made it non-blocking, and with it the other process's view of
        # the same description.
        os.set_blocking(descriptor, blocking)
    return end


class Channel:
    """One side's end, for whole messages in both directions. Not for several threads at once.

    Args:
        end: of a `pair`.
        outgoing: descriptor of the `message_file` of what is sent.
        incoming: descriptor of the `message_file` of what is received.
        most: bytes of the largest message that is received; None for any.

    All three are closed by `close`.
    """

    def __init__(
        self, end: socket.socket, outgoing: int, incoming: int, most: int | None = None
    ) -> None:
        self.end = end
        self._outgoing, self._incoming, self._most = outgoing, incoming, most
        self._identities = identify(outgoing), identify(incoming)
        self._sent = self._received = 0
        self._position = _COUNT.size

    def send(self, message: bytes) -> None:
        """Send one message, not empty, whose first byte is not 0.

        Raises:
            BlockingIOError: the end is non-blocking and its buffer is full; nothing was sent.
            OSError: the other side is gone; or one of `NO_ROOM`, and nothing was sent.
        """
        if len(message) < INLINE_BYTES:
            self.end.send(message)
            return
        if (
            identify(self._outgoing) != self._identities[0]
        ):  # a job has closed it and opened another
            raise OSError(errno.EBADF, "the file for large messages was closed")
        self._reclaim()
        rest, position = memoryview(message), self._position
        while rest:
            written = os.pwrite(self._outgoing, rest, position)
            position += written
            rest = rest[written:]
        self.end.send(_NOTICE.pack(_NOTICE_MARK, self._position, len(message)))
        self._sent += 1
        self._position = position

    def receive(self) -> bytes:
        """The next message; empty at the end of file.

        Raises:
            BlockingIOError: nothing is there, and the end does not allow to wait.
            DecodeError: what is there is no message.
            OSError: the channel is broken.
        """
        message = self.end.recv(INLINE_BYTES)
        return self._content_of(message) if message and message[0] == _NOTICE_MARK else message

    def close(self) -> None:
        """Give all descriptors back."""
        self.end.close()
        os.close(self._outgoing)
        os.close(self._incoming)

    def _reclaim(self) -> None:
        """Use the file's room anew once the other side has read all that was sent, which it counts
        at the file's beginning."""
        if _COUNT.unpack(os.pread(self._outgoing, _COUNT.size, 0))[0] == self._sent:
            if self._position > _KEPT_BYTES:
                os.ftruncate(self._outgoing, _COUNT.size)
            self._position = _COUNT.size

    def _content_of(self, notice: bytes) -> bytes:
        try:
            _, position, size = _NOTICE.unpack(notice)
        except struct.error as error:
            raise DecodeError(f"no notice of a large message: {error}") from error
        if identify(self._incoming) != self._identities[1]:
            raise DecodeError("the file for large messages was closed")
        held = os.fstat(self._incoming).st_size
        most = held if self._most is None else self._most  # who reads must not run out of memory
        content = (
            b"" if size > most or position > held else os.pread(self._incoming, size, position)
        )
        while 0 < len(content) < size and (
            more := os.pread(self._incoming, size - len(content), position + len(content))
        ):
            content += more
        if len(content) != size:
            raise DecodeError(
                f"a message of {size:,} bytes is announced, where at most {most:,} may be, and"
                f" {len(content):,} are"
            )
        self._received += 1
        os.pwrite(self._incoming, _COUNT.pack(self._received), 0)
        return content


def message_file() -> int:
    """Descriptor of a new file for the large messages of one direction."""
    descriptor = anonymous_file("embedkq-messages")
    os.ftruncate(descriptor, _COUNT.size)
    return descriptor


def identify(descriptor: int) -> tuple[int, int]:
    """What is behind a descriptor: a job may close it and open something else, which then has the
    same number."""
    status = os.fstat(descriptor)
    return status.st_ino, status.st_dev


def send_descriptors(end: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    """Send a short message with descriptors, which the receiver gets duplicates of."""
    end.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


def peek(end: socket.socket) -> tuple[bytes, list[int], bool]:
    """The next message, which stays until `drop`, its descriptors, and whether these are all.

    They are not where this process may not open more; the caller closes them, and looks again when
    it may.

    Raises:
        BlockingIOError: nothing is there, and the end does not allow to wait.
        OSError: the channel is broken.
    """
    # Not socket.recv_fds: in Python 3.11 it drops its flags.
    message, ancillary, flags, _ = end.recvmsg(
        INLINE_BYTES, _ANCILLARY_BYTES, _CLOEXEC_ON_RECEIVE | _PEEK
    )
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return (
        message,
        list(descriptors),
        not flags & socket.MSG_CTRUNC or len(descriptors) >= _MOST_DESCRIPTORS,
    )


def drop(end: socket.socket) -> None:
    """Take away the message that `peek` has given."""
    if _PEEK:
        end.recv(1)


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
    """The number that was put first, from now on this side's; 0 if there is none. Never waits,
    whatever the descriptor's mode.

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
        whole = data[
            : len(data) - len(data) % _CLAIM.size
        ]  # a job that reads what is not its own may leave less
        taken.update(number for (number,) in _CLAIM.iter_unpack(whole))


def wait_writable(descriptor: int) -> None:
    """Until something can be sent, or the other side is gone."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


def wait_readable(descriptor: int, seconds: float | None) -> bool:
    """Until the descriptor is readable (or its other side gone), or for so many seconds; whether it
    is.

    By poll: in a host with more than a thousand descriptors, select refuses.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))


def anonymous_file(name: str) -> int:
    """Descriptor of a new file that has no name in the file system."""
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create(name)
        except OSError as error:
            if error.errno not in NOT_ALLOWED:
                raise
    import tempfile

    descriptor, path = tempfile.mkstemp(prefix=name)
    os.unlink(path)
    return descriptor
