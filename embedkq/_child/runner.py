"""Runs each job in a child process: payload bytes in, outcome bytes out. Nothing that a job does
may raise out of here."""

from __future__ import annotations

import inspect
import os
import struct
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from embedkq import codec
from embedkq._child import output, process
from embedkq._child.baseline import Baseline
from embedkq._formats.outcome import Outcome
from embedkq._ipc import channel
from embedkq._ipc.progress_page import Phase, ProgressPage
from embedkq.errors import (
    DecodeError,
    JobExited,
    JobFailed,
    ResultNotPicklable,
    ResultTooLarge,
    type_name,
)

JOB_HEADER = struct.Struct("=BQQ")
"""The flags, the job's number, and the length of its payload, which follows. A message has one or
more jobs."""
ANNOUNCE, FROM_KQ, JOB, FROM_JSON = 1, 2, 4, 8
"""Flags of a job. ANNOUNCE: the child reports the start of the call with its text. FROM_KQ: the
payload is a job of KQ, and the child reports its limit and id. FROM_JSON: the payload is a JSON
job. JOB is always set."""
REPLY_HEADER = struct.Struct("=BQ")
"""The kind of the reply and the job's number."""
BEGUN, ENDED, ENDED_PRINTING, LOGGED = 1, 2, 3, 4
"""Kinds of reply. `ENDED_PRINTING`: the job has ended, and the host has not read all of its output
yet."""

LARGEST_RESULT = 64 * 1024 * 1024
SPENT_STATUS = 75
"""Exit status (EX_TEMPFAIL) of a child without free file descriptors."""
LOST_CHANNEL_STATUS = 74
"""Exit status (EX_IOERR) of a child whose channel a job has closed, so that it cannot report
outcomes."""

_QUICK_NANOSECONDS = 500_000
_TEXT_BYTES = 1024
_KINDS_CHARACTERS = 16 * 1024
_MESSAGE_CHARACTERS = 16 * 1024
_TRACEBACK_CHARACTERS = 256 * 1024
_GLOBAL_OPCODE = b"\x93"
_PLAIN_VALUES = (str, int, float, bool, bytes, type(None))


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
            flags, number, size = JOB_HEADER.unpack_from(jobs, position)
            payload = position + JOB_HEADER.size
            position = payload + size
            if self._may_begin(number):
                self._number = number
                harmless = self._run_job(number, flags, jobs[payload:position])
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

    def _run_job(self, number: int, flags: int, payload: memoryview) -> bool:
        """Run one job and reply. Returns True for a quick success, which can hardly have harmed the
        process."""
        page = self._page
        began = time.monotonic_ns()
        page.write(number, Phase.DECODING, began)
        try:
            limit_and_id, (function, args, kwargs) = (
                _decode_other(payload, flags)
                if flags & (FROM_KQ | FROM_JSON)
                else (b"", codec.decode_call(payload))
            )
        except BaseException as error:  # noqa: BLE001  (unpickling and importing may raise anything)
            outcome = not_loaded(error, _is_damaged(error, payload, flags))
        else:
            page.write(number, Phase.RUNNING, time.monotonic_ns())
            if flags & (ANNOUNCE | FROM_KQ):
                text = _text_of_call(function, args, kwargs) if flags & ANNOUNCE else ""
                self._reply(BEGUN, number, limit_and_id + text.encode("utf-8", "backslashreplace"))
            outcome = run_call(function, args, kwargs, describe=bool(flags & ANNOUNCE))
        if os.getpid() != self._pid:
            process.leave(
                0
            )  # the job forked and returned twice: only the original process may reply
        printed = self._baseline.end_output()
        ended = time.monotonic_ns()
        page.end(ended)
        self._reply(ENDED_PRINTING if printed else ENDED, number, outcome.pack())
        return ended < began + _QUICK_NANOSECONDS and outcome.status == "success"

    def _reply(self, kind: int, number: int, content: bytes) -> None:
        try:
            if channel.identify(self._end.fileno()) != self._end_identity:
                process.leave(LOST_CHANNEL_STATUS)
            self._channel.send(REPLY_HEADER.pack(kind, number) + content)
        except BlockingIOError:  # a job made the descriptor non-blocking
            channel.wait_writable(self._end.fileno())
            self._reply(kind, number, content)
        except OSError as error:
            if error.errno not in channel.NO_ROOM or len(content) < channel.INLINE_BYTES:
                process.leave(LOST_CHANNEL_STATUS)
            self._reply(kind, number, failure(error).pack())

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


def _decode_other(payload: memoryview, flags: int) -> tuple[bytes, tuple[Any, Any, Any]]:
    """Limit and id for the host, if they are in the payload, and the call."""
    from embedkq._formats import json_job, kq_record  # here, because most children need neither

    if flags & FROM_JSON:
        return b"", json_job.decode(payload)
    job = kq_record.decode_job(payload)
    return kq_record.pack_told(job), (job.func, job.args, job.kwargs)


def set_job_context(context: Callable[[], AbstractContextManager[Any]]) -> None:
    """Run each job of this child inside a new context manager from `context`. For initializers."""
    global _surrounding
    _surrounding = context


_surrounding: Callable[[], AbstractContextManager[Any]] | None = None
_NOTHING = nullcontext()


def run_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], describe: bool
) -> Outcome:
    """Call the function and turn its result or exception into an outcome. Never raises."""
    try:
        with _surrounding() if _surrounding else _NOTHING:
            result = function(*args, **kwargs)
            if inspect.iscoroutine(result):
                import asyncio

                result = asyncio.run(result)
    except MemoryError as error:
        traceback.clear_frames(
            error.__traceback__
        )  # the frames hold the memory that reporting needs
        return failure(error)
    except Exception as error:  # noqa: BLE001  (any exception of a job is its outcome)
        return failure(error)
    except BaseException as error:  # noqa: BLE001  (SystemExit and similar ones must not end the child)
        return failure(_exited(error), error)
    return _success(result, describe)


def _success(result: Any, describe: bool) -> Outcome:
    try:
        payload = codec.encode_object(result)
        _check_rebuilds(result, payload)
    except BaseException as error:  # noqa: BLE001  (pickling runs the result's own code)
        unpicklable = ResultNotPicklable(type_name(type(result)), _message_of(error))
        return failure(unpicklable, error)
    if len(payload) > LARGEST_RESULT:
        return failure(ResultTooLarge(len(payload), LARGEST_RESULT))
    return Outcome("success", payload, text=_bounded(_text_of(result)) if describe else "")


def failure(error: Exception, raised: BaseException | None = None) -> Outcome:
    """The outcome of a job that raised. The callback receives `error`; the traceback is that of
    `raised`."""
    raised = raised or error
    name, message = type_name(type(error)), _message_of(error)
    try:
        payload = codec.encode_object(error)
        _check_rebuilds(error, payload)
        if len(payload) > LARGEST_RESULT:
            raise ValueError(f"the pickled exception has {len(payload):,} bytes")
    except BaseException:  # noqa: BLE001  (pickling runs the exception's own code)
        payload = codec.encode_object(JobFailed(name, message))
    kinds = "\n".join(
        dict.fromkeys(type_name(kind) for each in (error, raised) for kind in type(each).__mro__)
    )
    return Outcome(
        "failure",
        payload,
        name,
        message,
        _traceback_of(raised) or f"{name}: {message}\n",
        kinds[:_KINDS_CHARACTERS],
    )


def _is_damaged(error: BaseException, payload: memoryview, flags: int) -> bool:
    """Whether no host can load this payload."""
    if isinstance(error, DecodeError) and error.__cause__ is None:
        return True
    return not flags & FROM_JSON and not codec.is_pickle(payload)


def not_loaded(error: BaseException, is_damaged: bool = False) -> Outcome:
    """The outcome of a job whose payload could not be decoded.

    Args:
        error: the exception from decoding: a `DecodeError` with the reason as its cause, or
            anything else.
        is_damaged: no other host can load the payload either.
    """
    decode_error = (
        error
        if isinstance(error, DecodeError)
        else DecodeError(f"the payload cannot be unpickled: {_kind_and_message_of(error)}")
    )
    return failure(decode_error, error.__cause__ or error)._replace(
        status="malformed" if is_damaged else "undecodable"
    )


def _check_rebuilds(value: Any, payload: bytes) -> None:
    # The owner's thread in the host unpickles the value, and must not raise or hang. So try it here
    # first, under the job's limit. A pickle without a class or function can do neither.
    if type(value) not in _PLAIN_VALUES and _GLOBAL_OPCODE in payload:
        codec.decode_object(payload)


def _exited(error: BaseException) -> JobExited:
    plain = tuple(
        arg if type(arg) in _PLAIN_VALUES else _bounded(_text_of(arg)) for arg in error.args
    )
    return JobExited(type_name(type(error)), plain)


def _traceback_of(error: BaseException) -> str:
    try:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        text = "".join(traceback.format_exception(type(error), error, frames))
    except BaseException:  # noqa: BLE001  (formatting runs the exception's __str__)
        return ""
    return text if len(text) <= _TRACEBACK_CHARACTERS else "...\n" + text[-_TRACEBACK_CHARACTERS:]


def _message_of(error: BaseException) -> str:
    try:
        return str(error)[:_MESSAGE_CHARACTERS]
    except BaseException:  # noqa: BLE001  (the exception's own code)
        return "(its str() raises)"


def _kind_and_message_of(error: BaseException) -> str:
    return f"{type_name(type(error))}: {_message_of(error)}"


def _text_of(value: Any) -> str:
    try:
        return repr(value)
    except BaseException:  # noqa: BLE001  (the value's own code)
        return f"<{type(value).__name__} without repr>"


def _text_of_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    name = getattr(function, "__qualname__", None) or _text_of(function)
    module = getattr(function, "__module__", None)
    parts = [_text_of(arg) for arg in args] + [
        f"{key}={_text_of(value)}" for key, value in kwargs.items()
    ]
    return _bounded(
        f"{module}.{name}({', '.join(parts)})" if module else f"{name}({', '.join(parts)})"
    )


def _bounded(text: str) -> str:
    return text if len(text) <= _TEXT_BYTES else text[: _TEXT_BYTES - 3] + "..."
