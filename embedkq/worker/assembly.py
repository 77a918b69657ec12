"""What one run of a worker is made of."""
from __future__ import annotations

import asyncio

from embedkq.errors import WorkerError
from embedkq.worker.circuit_breaker import CircuitBreaker
from embedkq.worker.consumer import Consumer
from embedkq.worker.deadletter import DeadLetters
from embedkq.worker.endings import Endings
from embedkq.worker.engine import Engine
from embedkq.worker.exchange import Exchange
from embedkq.worker.gate import Gate
from embedkq.worker.guards import is_loop_running
from embedkq.worker.joblog import JobLog
from embedkq.worker.lifecycle import Lifecycle
from embedkq.worker.loop import Loop
from embedkq.worker.owner import HandoffOwner, LoopOwner, Owner, is_coroutine_function
from embedkq.worker.poison import PoisonGuard
from embedkq.worker.pool import JobPool
from embedkq.worker.retries import Retries
from embedkq.worker.settings import Settings


def make_engine(settings: Settings, lifecycle: Lifecycle, max_jobs: int | None) -> Engine:
    """All that one run needs, for the calling thread as its owner; nothing is started yet.

    Raises:
        WorkerError: the callback is `async def` and no asyncio loop runs here.
    """
    exchange = Exchange()
    owner = _make_owner(settings, exchange)

    log = JobLog(settings.topic)

    def make_loop() -> Loop:
        retries = Retries(settings.retries, settings.backoff, settings.names_to_retry_on)
        callbacks = None if settings.callback is None else owner.mailbox
        return Loop(
            exchange,
            topic=settings.topic,
            endings=Endings(log, retries, callbacks, _make_letters(settings, exchange)),
            retries=retries,
            breaker=CircuitBreaker(settings.topic, settings.signer is not None and settings.dead_letter_topic is None),
            make_guard=lambda exchange, ledger, is_idle: PoisonGuard(
                exchange, ledger, settings.processes, settings.max_crashes, is_idle
            ),
            log=log,
            make_pool=lambda selector: JobPool(
                settings.processes, selector, proc_ttl=settings.proc_ttl, initializer=settings.encoded_initializer,
                host_load=exchange.host_load, decode_timeout=settings.decode_timeout,
            ),
            max_jobs=max_jobs,
        )

    consumer = Consumer(
        exchange, hosts=settings.hosts, topic=settings.topic, group=settings.consumer_group,
        offset_policy=settings.offset_policy, job_size=settings.job_size, revoke_timeout=settings.revoke_timeout,
        gate=Gate(settings.topic, settings.timeout, settings.signer, settings.max_age, settings.allow, settings.consumer_group),
        options=settings.client_options,
    )
    return Engine(settings.topic, lifecycle, exchange, owner, make_loop, consumer)


def _make_letters(settings: Settings, exchange: Exchange) -> DeadLetters | None:
    if settings.dead_letter_topic is None:
        return None
    return DeadLetters(
        settings.hosts, settings.topic, settings.consumer_group, settings.dead_letter_topic, settings.job_size, settings.client_options,
        exchange.inbox,
    )


def _make_owner(settings: Settings, exchange: Exchange) -> Owner:
    callback, topic = settings.callback, settings.topic
    if settings.handoff is None and is_loop_running():
        return LoopOwner(callback, topic, exchange.inbox, asyncio.get_running_loop())
    if callback is not None and is_coroutine_function(callback):
        raise WorkerError("the callback is `async def`: start the worker from within a running asyncio loop, without `handoff`")
    if settings.handoff is not None:
        return HandoffOwner(callback, topic, exchange.inbox, settings.handoff)
    return Owner(callback, topic, exchange.inbox)
