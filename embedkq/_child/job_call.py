"""Calls a job's function, and turns what becomes of it into an outcome. Child process.

Values, exceptions and their texts run code of their own, which may raise: nothing of it may get out
of here.
"""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from embedkq import codec
from embedkq._formats.outcome import Outcome
from embedkq.errors import (
    DecodeError,
    JobExited,
    JobFailed,
    ResultNotPicklable,
    ResultTooLarge,
    type_name,
)

LARGEST_RESULT = 64 * 1024 * 1024
_TEXT_BYTES = 1024
_KINDS_CHARACTERS = 16 * 1024
_MESSAGE_CHARACTERS = 16 * 1024
_TRACEBACK_CHARACTERS = 256 * 1024
_GLOBAL_OPCODE = b"\x93"
_FOLDER = os.path.dirname(os.path.dirname(__file__)) + os.sep
"""Of frames that a job's traceback does not begin with."""
_PLAIN_VALUES = (str, int, float, bool, bytes, type(None))


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
    except BaseException as error:  # noqa: BLE001  (any exception of a job is its outcome)
        return failed(error)
    return _success(result, describe)


def failed(error: BaseException) -> Outcome:
    """The outcome of a job that has raised this."""
    if isinstance(error, MemoryError):
        # The frames hold the memory that reporting needs.
        traceback.clear_frames(error.__traceback__)
    if isinstance(error, Exception):
        return failure(error)
    return failure(_exited(error), error)  # SystemExit and similar ones must not end the child


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
        while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_FOLDER):
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


def text_of_call(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> str:
    """The call as the log shows it, of a bounded length."""
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
