"""What a worker was given, checked. What only a run needs is not imported here: making a worker
must be quick."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embedkq import _options
from embedkq._clients.consumer_options import KNOWN_OPTIONS, OWNED_OPTIONS
from embedkq._options.option import WORKER
from embedkq._options.takers import checked
from embedkq.worker.consumer_thread.timeouts import check_timeouts

if TYPE_CHECKING:
    from embedkq._formats.plain_record import Decoder, Handling
    from embedkq._formats.signing import Secret
    from embedkq.worker.owner_thread.dispatcher import Callback


class Settings:
    """What a worker was given, as `Worker` describes it; not changed afterwards.

    Each value is checked alone, as it is declared; then what depends on several of them.

    Args:
        arguments: those of `Worker`, which has a parameter for each annotation here.

    Raises:
        TypeError, ValueError: an argument cannot work; the message names it.
        EncodeError: the initializer or its arguments, the handler or its decoder cannot be pickled.
    """

    hosts: str
    topic: str
    timeout: float | None
    callback: Callback | None
    job_size: int
    cafile: str | None
    certfile: str | None
    keyfile: str | None
    crlfile: str | None
    proc_ttl: int | None
    offset_policy: str
    group: str | None
    processes: int
    handoff: Callable[[Callable[[], None]], Any] | None
    initializer: Callable[..., Any] | None
    initargs: tuple[Any, ...]
    decode_timeout: float | None
    stop_timeout: float | None
    revoke_timeout: float
    dead_letter_topic: str | None
    retries: int
    backoff: float
    retry_on: frozenset[str] | None
    max_crashes: int | None
    secret: Secret | Sequence[Secret] | None
    max_age: float | None
    allow: Sequence[str] | None
    kafka: Mapping[str, Any] | None
    handler: Callable[[Any], Any] | None
    decode: Decoder | None

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        vars(self).update(checked(WORKER, arguments))
        self.consumer_group = self.topic if self.group is None else self.group
        if self.dead_letter_topic == self.topic:
            raise ValueError(
                f"dead_letter_topic={self.topic!r} is the worker's own topic: dead letters would"
                " come back to it"
            )
        self.handling = self._check_handling()
        self.signer = _options.make_signer(self.secret)
        self.secret = None  # from here on only the signer knows
        self.encoded_initializer = self._encode_initializer()
        self.client_options = _options.client_config(
            _options.TLSFiles(self.cafile, self.certfile, self.keyfile, self.crlfile),
            self.kafka,
            owned=OWNED_OPTIONS,
            known=KNOWN_OPTIONS,
            owner=WORKER,
        )
        check_timeouts(self.client_options, self.revoke_timeout)

    def _check_handling(self) -> Handling | None:
        if self.handler is None:
            if self.decode is not None:
                raise ValueError(
                    f"decode={self.decode!r} is for the handler of a topic that other programs"
                    " write to, and this worker has none: set handler= too"
                )
            return None
        for name in ("secret", "allow"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"{name} is for embedkq's own jobs, and a worker with a handler takes any"
                    f" record: leave {name} or handler out"
                )
        from embedkq._formats.plain_record import Handling

        return Handling(self.handler, "record" if self.decode is None else self.decode)

    def _encode_initializer(self) -> bytes:
        if self.initializer is None and self.handling is None:
            return b""
        from embedkq import codec

        call = self.initializer
        own = b"" if call is None else codec.encode_call(call, self.initargs, {})
        if self.handling is None:
            return own
        from embedkq._child import plain

        handler, decoder = self.handling
        handling = codec.encode_call(handler, (decoder,), {})
        return codec.encode_call(plain.set_up, (own, handling), {})
