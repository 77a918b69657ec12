"""The handler of plain records, in a child process."""

from __future__ import annotations

from typing import Any

from embedkq import codec
from embedkq._child.current_job import NO_KEY
from embedkq._formats import plain_record
from embedkq._formats.plain_record import Handling
from embedkq.record import Record

_handling: Handling | None = None


def set_up(initializer: bytes, handling: bytes) -> None:
    """Initializer of a child: make the user's own call, which may be empty, then load his handler
    and decoder, once for all records. Raises what either raises."""
    global _handling
    if initializer:
        function, args, kwargs = codec.decode_call(initializer)
        function(*args, **kwargs)
    handler, (decoder,), _ = codec.decode_call(handling)
    _handling = Handling(handler, decoder)


def call_of(
    head: tuple[Any, ...], names: memoryview, payload: memoryview
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The call of the handler for a record.

    Args:
        head: the fields of `JOB_HEADER`.
        names: id, topic and key, as they follow it.
        payload: from `plain_record.pack`.

    Raises:
        DecodeError: the value is not JSON, or the decoder says that nobody can decode it.
        Exception: whatever else the decoder raises.
    """
    if _handling is None:
        raise RuntimeError("this child process has no handler")
    _, partition, offset, _, of_id, of_topic, of_key, _ = head[3:]
    topic = of_id + of_topic
    key = None if of_key == NO_KEY else bytes(names[topic : topic + of_key])
    value, headers, timestamp = plain_record.unpack(payload)
    record = Record(
        value, key, headers, str(names[of_id:topic], "utf-8"), partition, offset, timestamp
    )
    return _handling.handler, (_handling.argument(record),), {}


def pack_args(args: tuple[Any, ...]) -> bytes:
    """Encode the arguments, for the callback's job."""
    return plain_record.pack_told(_encoded(args))


def _encoded(args: tuple[Any, ...]) -> bytes:
    """The arguments, pickled; empty if they cannot be pickled or rebuilt, or are too large."""
    try:
        encoded = codec.encode_object(args)
        codec.decode_object(encoded)
    except BaseException:  # noqa: BLE001  (pickling runs the values' own code)
        return b""
    return encoded if len(encoded) <= plain_record.LARGEST_ARGUMENTS else b""
