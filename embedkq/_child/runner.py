"""Runs each job in a child process: payload bytes in, outcome bytes out. Nothing that a job does
may raise out of here."""

from __future__ import annotations

import os
import struct
import time
from typing import Any

from embedkq import codec
from embedkq._child import current_job, output, process
from embedkq._child.baseline import Baseline
from embedkq._child.current_job import JOB_HEADER
from embedkq._child.job_call import failed, failure, not_loaded, run_call, text_of_call
from embedkq._formats.outcome import Outcome
from embedkq._ipc import channel
from embedkq._ipc.progress_page import Phase, ProgressPage
from embedkq.errors import DecodeError

ANNOUNCE, FROM_KQ, JOB, FROM_JSON, PLAIN, TELL_ARGS = 1, 2, 4, 8, 16, 32
"""Flags of a job. ANNOUNCE: the child reports the start of the call with its text. FROM_KQ: the
payload is a job of KQ, and the child reports its limit and id. FROM_JSON: the payload is a JSON
job. PLAIN: it is a plain record for the worker's handler. TELL_ARGS: the child reports the call's
arguments. JOB is always set. A message has one or more jobs, each behind its `JOB_HEADER`."""
REPLY_HEADER = struct.Struct("=BQ")
"""The kind of the reply and the job's number."""
BEGUN, ENDED, ENDED_PRINTING, LOGGED = 1, 2, 3, 4
"""Kinds of reply. `ENDED_PRINTING`: the job has ended, and the host has not read all of its output
yet."""
END_HEADER = struct.Struct("=BQQQ")
"""`REPLY_HEADER` of an end, and `time.monotonic_ns()` at which the call began (0: it did not) and
ended."""

SPENT_STATUS = 75
"""Exit status (EX_TEMPFAIL) of a child without free file descriptors."""
LOST_CHANNEL_STATUS = 74
"""Exit status (EX_IOERR) of a child whose channel a job has closed, so that it cannot report
outcomes."""

_QUICK_NANOSECONDS = 500_000


def serve(slot: int) -> None:
    """The single task of a child: register with the host, then run jobs until the host closes the
    channel. Never returns."""
    try:
        runner = Runner(slot)
    except BaseException:  # noqa: BLE001  (too few descriptors, for example; pebble would keep a useless process)
        process.give_up()
    try:
        runner.run()
    finally:
        # a signal handler or thread that a job left has raised here; pebble would keep this
        # unresponsive process
        process.leave(LOST_CHANNEL_STATUS)


class Runner:
    """The child's side of the channel. Runs one job at a time."""

    def __init__(self, slot: int) -> None:
        self._pid = os.getpid()
        host_end, self._end = channel.pair()
        claims_writer, self._claims = channel.claims_pair()
        jobs, replies = channel.message_file(), channel.message_file()
        self._channel = channel.Channel(self._end, replies, jobs)
        descriptor = channel.anonymous_file("embedkq-progress")
        ProgressPage.size(descriptor)
        self._page = ProgressPage(descriptor)
        self._end_identity, self._claims_identity = (
            channel.identify(self._end.fileno()),
            channel.identify(self._claims.fileno()),
        )
        self._baseline = Baseline()
        stack = output.watch_stack()
        self._number = self._claimed = 0
        output.logs.attach(self._send_log)
        process.flush_output()
        process.tell_host(
            process.READY,
            [
                host_end.fileno(),
                claims_writer.fileno(),
                self._claims.fileno(),
                jobs,
                replies,
                descriptor,
                stack,
            ],
            str(slot),
        )
        os.close(descriptor)
        host_end.close()
        claims_writer.close()

    def run(self) -> None:
        """Serve the channel until the host closes it."""
        while True:
            message = self._next()
            if not message:
                process.leave_in_order()
            self._run_batch(memoryview(message))

    def _next(self) -> bytes:
        while True:
            try:
                return self._channel.receive()
            except BlockingIOError:
                # A job called socket.setdefaulttimeout or made the descriptor non-blocking: wait
                # here.
                channel.wait_readable(self._end.fileno(), None)
            except (OSError, DecodeError):
                process.leave(LOST_CHANNEL_STATUS)

    def _run_batch(self, jobs: memoryview) -> None:
        """Run the jobs of one message, except those that the host has taken back."""
        position = 0
        while position < len(jobs):
            head = JOB_HEADER.unpack_from(jobs, position)
            names = position + JOB_HEADER.size
            payload = names + head[-1]
            position = payload + head[2]
            if self._may_begin(head[1]):
                self._number = head[1]
                harmless = self._run_job(head, jobs, names, jobs[payload:position])
                self._baseline.restore()
                if not harmless:
                    self._baseline.restore_descriptors()
                    self._leave_if_spent()

    def _may_begin(self, number: int) -> bool:
        # The host writes the claim before the message. If the claim is gone, the host has taken the
        # job back. The claim that comes instead belongs to a later job, and all jobs before that
        # one were taken back.
        if not self._claimed:
            try:
                self._claimed = channel.claim(self._claims)
            except OSError:
                process.leave(LOST_CHANNEL_STATUS)
        if self._claimed != number:
            if channel.identify(self._claims.fileno()) != self._claims_identity:
                process.leave(LOST_CHANNEL_STATUS)
            return False
        self._claimed = 0
        return True

    def _run_job(
        self, head: tuple[Any, ...], jobs: memoryview, names: int, payload: memoryview
    ) -> bool:
        """Run one job and reply. Returns True for a quick success, which can hardly have harmed the
        process."""
        flags, number = head[:2]
        page = self._page
        began, started, of_kq = time.monotonic_ns(), 0, None
        # A decoder of plain records is the user's code, and under the limit of his handler.
        page.write(number, Phase.RUNNING if flags & PLAIN else Phase.DECODING, began)
        try:
            of_kq, (function, args, kwargs) = (
                _decode_other(head, jobs[names:], payload)
                if flags & (FROM_KQ | FROM_JSON | PLAIN)
                else (None, codec.decode_call(payload))
            )
        except BaseException as error:  # noqa: BLE001  (unpickling and importing may raise anything)
            outcome = _not_decoded(error, payload, flags)
        else:
            started = time.monotonic_ns()
            page.write(number, Phase.RUNNING, began if flags & PLAIN else started)
            if flags & (ANNOUNCE | FROM_KQ | TELL_ARGS):
                self._announce(head, of_kq, (function, args, kwargs))
            current_job.running = (head, jobs, names, started, of_kq)
            outcome = run_call(function, args, kwargs, describe=bool(flags & ANNOUNCE))
            current_job.running = None
        if os.getpid() != self._pid:
            process.leave(
                0
            )  # the job forked and returned twice: only the original process may reply
        printed = self._baseline.end_output()
        ended = time.monotonic_ns()
        page.end(ended)
        kind = ENDED_PRINTING if printed else ENDED
        self._reply(END_HEADER.pack(kind, number, started, ended), outcome.pack())
        return ended < began + _QUICK_NANOSECONDS and outcome.status == "success"

    def _announce(self, head: tuple[Any, ...], of_kq: Any, call: tuple[Any, Any, Any]) -> None:
        content = b""
        if of_kq is not None:
            from embedkq._formats import kq_record

            content = kq_record.pack_told(of_kq)
        elif head[0] & TELL_ARGS:
            from embedkq._child import plain

            content = plain.pack_args(call[1])
        if head[0] & ANNOUNCE:
            content += text_of_call(*call).encode("utf-8", "backslashreplace")
        self._reply(REPLY_HEADER.pack(BEGUN, head[1]), content)

    def _reply(self, head: bytes, content: bytes) -> None:
        try:
            if channel.identify(self._end.fileno()) != self._end_identity:
                process.leave(LOST_CHANNEL_STATUS)
            self._channel.send(head + content)
        except BlockingIOError:  # a job made the descriptor non-blocking
            channel.wait_writable(self._end.fileno())
            self._reply(head, content)
        except OSError as error:
            if error.errno not in channel.NO_ROOM or len(content) < channel.INLINE_BYTES:
                process.leave(LOST_CHANNEL_STATUS)
            self._reply(head, failure(error).pack())

    def _send_log(self, content: bytes) -> None:
        try:
            if channel.identify(self._end.fileno()) == self._end_identity:
                self._end.send(REPLY_HEADER.pack(LOGGED, self._number) + content)
        except OSError:  # a job closed the channel, which is noticed when the job ends
            pass

    def _leave_if_spent(self) -> None:
        """Exit if a job has left no file descriptor for the next job, so that the host replaces
        this process."""
        try:
            os.close(os.dup(self._end.fileno()))
        except OSError as error:
            output.warn(
                f"a job left its process without free file descriptors ({error}); replacing the"
                " process"
            )
            process.leave(SPENT_STATUS)


def _decode_other(
    head: tuple[Any, ...], names: memoryview, payload: memoryview
) -> tuple[Any, tuple[Any, Any, Any]]:
    """The job of KQ, which has limit and id in it, or None; and the call."""
    # Imported here, because most children need none of these.
    if head[0] & PLAIN:
        from embedkq._child import plain

        return None, plain.call_of(head, names, payload)
    from embedkq._formats import json_job, kq_record

    if head[0] & FROM_JSON:
        return None, json_job.decode(payload)
    job = kq_record.decode_job(payload)
    return job, (job.func, job.args, job.kwargs)


def _not_decoded(error: BaseException, payload: memoryview, flags: int) -> Outcome:
    """The outcome of a job without a call. What a decoder of plain records raises has failed like
    the handler, unless it is a `DecodeError`."""
    if flags & PLAIN and not isinstance(error, DecodeError):
        return failed(error)
    return not_loaded(error, _is_damaged(error, payload, flags))


def _is_damaged(error: BaseException, payload: memoryview, flags: int) -> bool:
    """Whether no host can load this payload."""
    if isinstance(error, DecodeError) and (error.__cause__ is None or flags & PLAIN):
        return True
    return not flags & FROM_JSON and not codec.is_pickle(payload)
