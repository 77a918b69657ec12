"""What a worker is made of: its settings, checked, and the parts of one run."""
from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from embedkq import codec, options
from embedkq.allowed import check_patterns
from embedkq.errors import WorkerError
from embedkq.signing import Secret, Signer
from embedkq.worker.client import KNOWN_OPTIONS, OWNED_OPTIONS
from embedkq.worker.consumer import Consumer
from embedkq.worker.deadletter import DeadLetters
from embedkq.worker.endings import Endings
from embedkq.worker.engine import Engine
from embedkq.worker.exchange import Exchange
from embedkq.worker.gate import Gate
from embedkq.worker.joblog import JobLog
from embedkq.worker.lifecycle import Lifecycle
from embedkq.worker.loop import Loop
from embedkq.worker.owner import Callback, HandoffOwner, LoopOwner, Owner, is_coroutine_function
from embedkq.worker.pool import JobPool

_REVOKE_SECONDS = 10.0


@dataclass
class Settings:
    """What a worker was given, as `Worker` describes it; checked when made, and not changed afterwards.

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
    stop_timeout: float | None
    revoke_timeout: float
    dead_letter_topic: str | None
    secret: Secret | Sequence[Secret] | None = field(repr=False)
    max_age: float | None
    allow: Sequence[str] | None
    kafka: Mapping[str, Any] | None

    def __post_init__(self) -> None:
        self.hosts = options.check_hosts(self.hosts)
        self.topic = options.check_topic(self.topic)
        self.timeout = options.check_timeout(self.timeout)
        if self.callback is not None:
            options.check_callback(self.callback)
        self.job_size = options.check_job_size(self.job_size)
        self.proc_ttl = options.check_count("proc_ttl", self.proc_ttl or 0, 0) or None
        self.offset_policy = options.check_offset_policy(self.offset_policy)
        self.consumer_group = self.topic if self.group is None else options.check_group(self.group)
        self.processes = options.check_count("processes", self.processes, 1)
        if self.handoff is not None and not callable(self.handoff):
            raise TypeError(f"handoff must be a callable that has the owner run a function, not {self.handoff!r}")
        self.encoded_initializer = b""
        if self.initializer is not None and not callable(self.initializer):
            raise TypeError(f"initializer must be callable, not {self.initializer!r}")
        if self.initializer is not None:
            self.encoded_initializer = codec.encode_call(self.initializer, tuple(self.initargs), {})
        self.stop_timeout = options.check_timeout(self.stop_timeout, "stop_timeout")
        self.revoke_timeout = options.check_timeout(self.revoke_timeout, "revoke_timeout") or _REVOKE_SECONDS
        if self.dead_letter_topic is not None:
            self.dead_letter_topic = options.check_topic(self.dead_letter_topic, "dead_letter_topic")
            if self.dead_letter_topic == self.topic:
                raise ValueError(f"dead_letter_topic={self.topic!r} is the worker's own topic: dead letters would come back to it")
        self.signer = None if self.secret is None else Signer(self.secret)
        self.secret = None  # from here on only the signer knows
        self.max_age = options.check_timeout(self.max_age, "max_age")
        self.allow = None if self.allow is None else check_patterns(self.allow)
        self.client_options = options.client_config(
            self.cafile, self.certfile, self.keyfile, self.crlfile, self.kafka, owned=OWNED_OPTIONS,
            known=KNOWN_OPTIONS, owner="Worker",
        )


def make_engine(settings: Settings, lifecycle: Lifecycle, max_jobs: int | None) -> Engine:
    """All that one run needs, for the calling thread as its owner; nothing is started yet.

    Raises:
        WorkerError: the callback is `async def` and no asyncio loop runs here.
    """
    exchange = Exchange()
    owner = _make_owner(settings, exchange)

    log = JobLog(settings.topic)

    def make_loop() -> Loop:
        callbacks = None if settings.callback is None else owner.mailbox
        return Loop(
            exchange,
            topic=settings.topic,
            endings=Endings(log, callbacks, _make_letters(settings, exchange)),
            log=log,
            make_pool=lambda selector: JobPool(
                settings.processes, selector, proc_ttl=settings.proc_ttl, initializer=settings.encoded_initializer
            ),
            max_jobs=max_jobs,
        )

    consumer = Consumer(
        exchange, hosts=settings.hosts, topic=settings.topic, group=settings.consumer_group,
        offset_policy=settings.offset_policy, job_size=settings.job_size, revoke_timeout=settings.revoke_timeout,
        gate=Gate(settings.topic, settings.timeout, settings.signer, settings.max_age, settings.allow),
        options=settings.client_options,
    )
    return Engine(settings.topic, lifecycle, exchange, owner, make_loop, consumer)


def _make_letters(settings: Settings, exchange: Exchange) -> DeadLetters | None:
    if settings.dead_letter_topic is None:
        return None
    return DeadLetters(
        settings.hosts, settings.topic, settings.dead_letter_topic, settings.job_size, settings.client_options, exchange.inbox
    )


def is_loop_running() -> bool:
    """Whether the calling thread runs an asyncio loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _make_owner(settings: Settings, exchange: Exchange) -> Owner:
    callback, topic = settings.callback, settings.topic
    if settings.handoff is not None:
        return HandoffOwner(callback, topic, exchange.inbox, settings.handoff)
    if is_loop_running():
        return LoopOwner(callback, topic, exchange.inbox, asyncio.get_running_loop())
    if callback is not None and is_coroutine_function(callback):
        raise WorkerError("the callback is `async def`: start the worker from within a running asyncio loop")
    return Owner(callback, topic, exchange.inbox)
