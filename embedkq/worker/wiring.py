"""What one run of a worker is made of."""

from __future__ import annotations

import asyncio

from embedkq.errors import WorkerError
from embedkq.worker.between_threads.shared_state import SharedState
from embedkq.worker.consumer_thread.consumer_thread import ConsumerThread
from embedkq.worker.consumer_thread.validator import PlainRecordValidator, RecordValidator
from embedkq.worker.control_thread.circuit_breaker import CircuitBreaker
from embedkq.worker.control_thread.completer import Completer
from embedkq.worker.control_thread.control_loop import ControlLoop
from embedkq.worker.control_thread.crash_guard import CrashGuard
from embedkq.worker.control_thread.job_log import JobLog
from embedkq.worker.control_thread.retries import Retries
from embedkq.worker.dead_letter_thread.dead_letter_writer import DeadLetterWriter
from embedkq.worker.environment import is_loop_running
from embedkq.worker.lifecycle import Lifecycle
from embedkq.worker.owner_thread.dispatcher import (
    AsyncioDispatcher,
    CallbackDispatcher,
    HandoffDispatcher,
    is_coroutine_function,
)
from embedkq.worker.pool.pool import JobPool
from embedkq.worker.runtime import Runtime
from embedkq.worker.settings import Settings


def build_runtime(settings: Settings, lifecycle: Lifecycle, max_jobs: int | None) -> Runtime:
    """All that one run needs, for the calling thread as its owner; nothing is started yet.

    Raises:
        WorkerError: the callback is `async def` and no asyncio loop runs here.
    """
    shared = SharedState()
    dispatcher = _make_dispatcher(settings, shared)

    def make_loop() -> ControlLoop:
        return _make_loop(settings, shared, dispatcher, max_jobs)

    consumer = _make_consumer(settings, shared)
    return Runtime(settings.topic, lifecycle, shared, dispatcher, make_loop, consumer)


def _make_loop(
    settings: Settings, shared: SharedState, dispatcher: CallbackDispatcher, max_jobs: int | None
) -> ControlLoop:
    log = JobLog()
    retries = Retries(settings.retries, settings.backoff, settings.retry_on)
    callbacks = None if settings.callback is None else dispatcher.mailbox
    is_signed = settings.signer is not None
    return ControlLoop(
        shared,
        completer=Completer(log, retries, callbacks, _make_letters(settings, shared)),
        retries=retries,
        breaker=CircuitBreaker(settings.topic, is_signed and settings.dead_letter_topic is None),
        make_crash_guard=lambda shared, ledger, is_idle: CrashGuard(
            shared, ledger, settings.processes, settings.max_crashes, is_idle
        ),
        log=log,
        make_pool=lambda selector: JobPool(
            settings.processes,
            selector,
            proc_ttl=settings.proc_ttl,
            initializer=settings.encoded_initializer,
            host_cpu=shared.host_cpu,
            decode_timeout=settings.decode_timeout,
        ),
        max_jobs=max_jobs,
    )


def _make_consumer(settings: Settings, shared: SharedState) -> ConsumerThread:
    return ConsumerThread(
        shared,
        hosts=settings.hosts,
        topic=settings.topic,
        group=settings.consumer_group,
        offset_policy=settings.offset_policy,
        job_size=settings.job_size,
        revoke_timeout=settings.revoke_timeout,
        validator=_make_validator(settings),
        options=settings.client_options,
    )


def _make_validator(settings: Settings) -> RecordValidator | PlainRecordValidator:
    limit, group = settings.timeout, settings.consumer_group
    if settings.handling is not None:
        tells = settings.callback is not None
        return PlainRecordValidator(settings.handling, tells, limit, settings.max_age, group)
    return RecordValidator(limit, settings.signer, settings.max_age, settings.allow, group)


def _make_letters(settings: Settings, shared: SharedState) -> DeadLetterWriter | None:
    if settings.dead_letter_topic is None:
        return None
    return DeadLetterWriter(
        settings.hosts,
        settings.consumer_group,
        settings.dead_letter_topic,
        settings.job_size,
        settings.client_options,
        shared.inbox,
    )


def _make_dispatcher(settings: Settings, shared: SharedState) -> CallbackDispatcher:
    callback = settings.callback
    if settings.handoff is None and is_loop_running():
        return AsyncioDispatcher(callback, shared.inbox, asyncio.get_running_loop())
    if callback is not None and is_coroutine_function(callback):
        raise WorkerError(
            "the callback is `async def`: start the worker from within a running asyncio loop,"
            " without `handoff`"
        )
    if settings.handoff is not None:
        return HandoffDispatcher(callback, shared.inbox, settings.handoff)
    return CallbackDispatcher(callback, shared.inbox)
