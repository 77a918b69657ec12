"""What a worker was given, checked. What only a run needs is not imported here: making a worker
shall be quick."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from embedkq import _options
from embedkq._clients.consumer_options import KNOWN_OPTIONS, OWNED_OPTIONS
from embedkq._formats.allowlist import check_patterns
from embedkq._formats.signing import Secret, Signer
from embedkq.worker.consumer_thread.timeouts import check_timeouts

if TYPE_CHECKING:
    from embedkq.worker.owner_thread.dispatcher import Callback

_REVOKE_SECONDS = 10.0
_BACKOFF_SECONDS = 1.0


@dataclass
class Settings:
    """What a worker was given, as `Worker` describes it; checked when made, and not changed
    afterwards.

    Raises:
        TypeError, ValueError: an argument cannot work; the message names it.
        EncodeError: the initializer or its arguments cannot be pickled.
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
    initargs: Iterable[Any]
    decode_timeout: float | None
    stop_timeout: float | None
    revoke_timeout: float
    dead_letter_topic: str | None
    retries: int
    backoff: float
    retry_on: Iterable[type[BaseException] | str] | None
    max_crashes: int | None
    secret: Secret | Sequence[Secret] | None = field(repr=False)
    max_age: float | None
    allow: Sequence[str] | None
    kafka: Mapping[str, Any] | None

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Settings:
        """Made from the arguments of `Worker`, which has a parameter for each field here."""
        return cls(**{each.name: arguments[each.name] for each in fields(cls) if each.init})

    def __post_init__(self) -> None:
        self._check_jobs()
        self._check_process()
        self.client_options = _options.client_config(
            _options.TLSFiles(self.cafile, self.certfile, self.keyfile, self.crlfile),
            self.kafka,
            owned=OWNED_OPTIONS,
            known=KNOWN_OPTIONS,
            owner="Worker",
        )
        check_timeouts(self.client_options, self.revoke_timeout)

    def _check_jobs(self) -> None:
        """Which jobs are taken, and what becomes of them."""
        self.hosts = _options.check_hosts(self.hosts)
        self.topic = _options.check_topic(self.topic)
        self.timeout = _options.check_timeout(self.timeout)
        if self.callback is not None:
            _options.check_callback(self.callback)
        self.job_size = _options.check_job_size(self.job_size)
        self.offset_policy = _options.check_offset_policy(self.offset_policy)
        self.consumer_group = self.topic if self.group is None else _options.check_group(self.group)
        if self.dead_letter_topic is not None:
            self.dead_letter_topic = _options.check_topic(
                self.dead_letter_topic, "dead_letter_topic"
            )
            if self.dead_letter_topic == self.topic:
                raise ValueError(
                    f"dead_letter_topic={self.topic!r} is the worker's own topic: dead letters"
                    " would come back to it"
                )
        self.retries = _options.check_count("retries", self.retries, 0)
        self.backoff = _options.check_backoff(self.backoff) or _BACKOFF_SECONDS
        self.names_to_retry_on = _options.check_retry_on(self.retry_on)
        if self.max_crashes is not None:
            _options.check_count("max_crashes", self.max_crashes, 1)
        self.signer = None if self.secret is None else Signer(self.secret)
        self.secret = None  # from here on only the signer knows
        self.max_age = _options.check_timeout(self.max_age, "max_age")
        self.allow = None if self.allow is None else check_patterns(self.allow)

    def _check_process(self) -> None:
        """How this host and its child processes work."""
        self.proc_ttl = _options.check_count("proc_ttl", self.proc_ttl or 0, 0) or None
        self.processes = _options.check_count("processes", self.processes, 1)
        if self.handoff is not None and not callable(self.handoff):
            raise TypeError(
                "handoff must be a callable that has the owner run a function, not"
                f" {self.handoff!r}"
            )
        self.encoded_initializer = self._encode_initializer()
        self.decode_timeout = _options.check_timeout(self.decode_timeout, "decode_timeout")
        self.stop_timeout = _options.check_timeout(self.stop_timeout, "stop_timeout")
        self.revoke_timeout = (
            _options.check_timeout(self.revoke_timeout, "revoke_timeout") or _REVOKE_SECONDS
        )

    def _encode_initializer(self) -> bytes:
        if self.initializer is None:
            return b""
        if not callable(self.initializer):
            raise TypeError(f"initializer must be callable, not {self.initializer!r}")
        if inspect.iscoroutinefunction(self.initializer):
            raise TypeError(
                f"initializer={self.initializer!r} is `async def`, and would not be awaited: make"
                " it a plain `def`"
            )
        from embedkq import codec

        return codec.encode_call(self.initializer, tuple(self.initargs), {})
