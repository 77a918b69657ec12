"""Messages of any size between a host and one of its children, and claims, which decide whether the
child runs a job.

A socket pair that keeps message boundaries carries both directions, so nobody waits for half a
message. A message above 32 KiB is written to an anonymous file, one for each direction, that both
sides open at the start; a notice goes through the socket. So no writer blocks half-way, and sending
and receiving need no new descriptor, of which either process may have none left.

A claim is a job's number in a pipe that both sides read: the child to start the job, the host to
take it back. The kernel gives each number to only one of them.

SOCK_SEQPACKET for local sockets, memfd_create and MSG_CMSG_CLOEXEC exist only on Linux. This file
has portable replacements.
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
"""Error numbers of `Channel.send`: the machine has no room for this message now, but may have room
for smaller ones."""
NOT_ALLOWED = (errno.ENOSYS, errno.EPERM, errno.EACCES)
"""Error numbers of a system call that the kernel does not have, or that a sandbox (seccomp)
denies."""
_BUFFER_BYTES = 8 * INLINE_BYTES
_MOST_DESCRIPTORS = 12
_ANCILLARY_BYTES = socket.CMSG_LEN(_MOST_DESCRIPTORS * struct.calcsize("i"))
_CLOEXEC_ON_RECEIVE = int(
    getattr(socket, "MSG_CMSG_CLOEXEC", 0)
)  # plain numbers, because combining enum flags costs a microsecond
_DONTWAIT = int(socket.MSG_DONTWAIT)
_PEEK = (
    int(socket.MSG_PEEK) if sys.platform.startswith("linux") else 0
)  # on other systems it does not return descriptors
# A DGRAM pair keeps boundaries too, but its reader sees no end of file. On such systems the child
# watches its host in another way.
_KIND = socket.SOCK_SEQPACKET if hasattr(os, "memfd_create") else socket.SOCK_DGRAM
_NOTICE_MARK = 0
_NOTICE = struct.Struct("=BQQ")
"""`_NOTICE_MARK`, with which no other message begins; then position and size in the sender's
file."""
_COUNT = struct.Struct("=Q")
_KEPT_BYTES = 1024 * 1024
_CLAIM = struct.Struct("=Q")
_MOST_CLAIMS = 512


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets. Both block, regardless of `socket.setdefaulttimeout()`."""
    ends = socket.socketpair(socket.AF_UNIX, _KIND)
    for end in ends:
        end.setblocking(True)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    return ends


def adopt(descriptor: int) -> socket.socket:
    """A socket object for a received descriptor. The blocking mode stays the same."""
    blocking = os.get_blocking(descriptor)
    end = socket.socket(fileno=descriptor)
    if os.get_blocking(descriptor) != blocking:
        # socket.setdefaulttimeout() made it non-blocking, also for the other process, which shares
        # the mode.
        os.set_blocking(descriptor, blocking)
    return end


class Channel:
    """One end of a channel for messages in both directions. One thread at a time.

    Args:
        end: one socket of a `pair`.
        outgoing: descriptor of the `message_file` for sent messages.
        incoming: descriptor of the `message_file` for received messages.
        most: bytes of the largest message to receive; None for no limit.

    `close` closes all three.
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
        """Send one message. It must not be empty or begin with a zero byte.

        Raises:
            BlockingIOError: the socket is non-blocking and its buffer is full; nothing was sent.
            OSError: the other side is gone; or one of `NO_ROOM`, then nothing was sent.
        """
        if len(message) < INLINE_BYTES:
            self.end.send(message)
            return
        if (
            identify(self._outgoing) != self._identities[0]
        ):  # a job closed it and opened another file
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
        """Receive the next message; empty at the end of file.

        Raises:
            BlockingIOError: there is no message, and the socket is non-blocking.
            DecodeError: the bytes are not a message.
            OSError: the channel is broken.
        """
        message = self.end.recv(INLINE_BYTES)
        return self._content_of(message) if message and message[0] == _NOTICE_MARK else message

    def close(self) -> None:
        """Close all descriptors."""
        self.end.close()
        os.close(self._outgoing)
        os.close(self._incoming)

    def _reclaim(self) -> None:
        """Reuse the file once the other side has read all messages. It counts them at the file's
        beginning."""
        if _COUNT.unpack(os.pread(self._outgoing, _COUNT.size, 0))[0] == self._sent:
            if self._position > _KEPT_BYTES:
                os.ftruncate(self._outgoing, _COUNT.size)
            self._position = _COUNT.size

    def _content_of(self, notice: bytes) -> bytes:
        try:
            _, position, size = _NOTICE.unpack(notice)
        except struct.error as error:
            raise DecodeError(f"invalid notice of a large message: {error}") from error
        if identify(self._incoming) != self._identities[1]:
            raise DecodeError("the file for large messages was closed")
        held = os.fstat(self._incoming).st_size
        most = held if self._most is None else self._most  # the reader must not run out of memory
        content = (
            b"" if size > most or position > held else os.pread(self._incoming, size, position)
        )
        while 0 < len(content) < size and (
            more := os.pread(self._incoming, size - len(content), position + len(content))
        ):
            content += more
        if len(content) != size:
            raise DecodeError(
                f"a message announces {size:,} bytes; at most {most:,} are allowed, and"
                f" {len(content):,} exist"
            )
        self._received += 1
        os.pwrite(self._incoming, _COUNT.pack(self._received), 0)
        return content


def message_file() -> int:
    """Create the file for large messages in one direction. Returns its descriptor."""
    descriptor = anonymous_file("embedkq-messages")
    os.ftruncate(descriptor, _COUNT.size)
    return descriptor


def identify(descriptor: int) -> tuple[int, int]:
    """Identify the file behind a descriptor. A job may close the descriptor and open another file
    with the same number."""
    status = os.fstat(descriptor)
    return status.st_ino, status.st_dev


def send_descriptors(end: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    """Send a short message with descriptors. The receiver gets duplicates."""
    end.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


def peek(end: socket.socket) -> tuple[bytes, list[int], bool]:
    """Receive the next message without removing it: the message, its descriptors, and whether these
    are complete. Call `drop` to remove it.

    Descriptors are missing if this process may not open more. Then the caller closes those it
    received, and calls `peek` again later.

    Raises:
        BlockingIOError: there is no message, and the socket is non-blocking.
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
    """Remove the message that `peek` returned."""
    if _PEEK:
        end.recv(1)


def claims_pair() -> tuple[socket.socket, socket.socket]:
    """The socket that the host writes claims to, and the socket that both sides read them from."""
    writer, reader = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    writer.setblocking(False)
    reader.setblocking(False)
    return writer, reader


def put_claims(writer: socket.socket, numbers: Iterable[int]) -> None:
    """Write claims, in this order.

    Raises:
        OSError: the other side is gone.
    """
    writer.send(b"".join(map(_CLAIM.pack, numbers)))


def claim(reader: socket.socket) -> int:
    """Take the first claim; 0 if there is none. Never blocks, regardless of the descriptor's mode.

    Raises:
        OSError: the socket is gone.
    """
    try:
        data = reader.recv(_CLAIM.size, _DONTWAIT)
    except BlockingIOError:
        return 0
    return int(_CLAIM.unpack(data)[0]) if data else 0


def take_claims(reader: socket.socket) -> set[int]:
    """Take all claims, so that the other side cannot."""
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
        ]  # a job that read from this descriptor may have left an incomplete number
        taken.update(number for (number,) in _CLAIM.iter_unpack(whole))


def wait_writable(descriptor: int) -> None:
    """Wait until the descriptor is writable, or the other side is gone."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


def wait_readable(descriptor: int, seconds: float | None) -> bool:
    """Wait until the descriptor is readable (or its other side is gone), or until the time is over.
    Returns whether it is readable.

    Uses poll, because select refuses descriptors above 1,023.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(None if seconds is None else max(0.0, seconds) * 1000))


def anonymous_file(name: str) -> int:
    """Create a file without a name in the file system. Returns its descriptor."""
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
