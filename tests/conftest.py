"""Fixtures of all tests: the session's broker, fresh names, private brokers for faults, and a guard
against hanging.

Environment: EMBEDKQ_TEST_BROKER (hosts, docker, jars, embedded) and EMBEDKQ_TEST_HOSTS choose the
broker; CI=true turns every skip for want of a broker into a failure.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pytest
from _pytest.faulthandler import fault_handler_stderr_fd_key
from kafka import KafkaAdminClient
from kafka.admin import NewTopic
from kafka.errors import InvalidReplicationFactorError

sys.path.insert(
    0, os.path.dirname(__file__)
)  # jobs are imported by child processes as modules of their own

import brokers
from brokers import Broker
from support import OUR_LOGGERS, Recorder, kept_loggers

from embedkq import Worker

HANG_SECONDS = 120.0

# A limit in milliseconds would measure the machine, and what else runs on it.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "broker_kind" in getattr(item, "fixturenames", ()):
            item.add_marker("broker")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "broker: uses the session's kind of broker (added here)")
    config.addinivalue_line(
        "markers", "needs(*abilities): what the broker must be able to do; see brokers/base.py"
    )
    config.addinivalue_line(
        "markers",
        "hang_guard(seconds): another limit than 120 s, after which the whole run is ended",
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """End the run with all stacks shown when a test hangs, wherever it hangs."""
    marker = item.get_closest_marker("hang_guard")
    stderr = item.config.stash[fault_handler_stderr_fd_key]  # the real one, whatever is captured
    faulthandler.dump_traceback_later(
        marker.args[0] if marker else HANG_SECONDS, exit=True, file=stderr
    )
    yield
    faulthandler.cancel_dump_traceback_later()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["brokers"] = sorted(_used)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _used.update(getattr(node, "workeroutput", {}).get("brokers", ()))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _used:
        terminalreporter.write_line(f"Brokers: {', '.join(sorted(_used))}")


_used: set[str] = set()


@pytest.fixture(scope="session")
def broker_kind() -> type[Broker]:
    """The kind of broker that this session runs on."""
    try:
        return brokers.choose()
    except brokers.Unavailable as error:
        if brokers.in_ci():
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def session_broker(broker_kind: type[Broker]) -> Iterator[Broker]:
    broker = brokers.make(broker_kind)
    with broker:
        _used.add(broker.description)
        yield broker
    brokers.containers.end_guard()


@pytest.fixture(autouse=True)
def abilities(request: pytest.FixtureRequest) -> None:
    """Skip what the session's kind of broker cannot do, as far as the test's `needs` markers
    tell."""
    wanted = {ability for marker in request.node.iter_markers("needs") for ability in marker.args}
    assert wanted <= brokers.ABILITIES, (
        f"no such ability: {', '.join(sorted(wanted - brokers.ABILITIES))}"
    )
    if not wanted:
        return
    brokers.require(request.getfixturevalue("broker_kind"), wanted)


@pytest.fixture
def quick_hosts(make_broker: Callable[..., Broker]) -> str:
    """A broker of the test's own that lets a group give up a dead member within a second."""
    return make_broker(brokers.QUICK_SESSIONS).hosts


@pytest.fixture
def broker(abilities: None, session_broker: Broker) -> Broker:
    """The session's broker, able to do what the test's `needs` marker asks for, and alive."""
    session_broker.heal()
    return session_broker


@pytest.fixture
def hosts(broker: Broker) -> str:
    """Where the session's broker listens."""
    return broker.hosts


@pytest.fixture
def make_broker(abilities: None, broker_kind: type[Broker]) -> Iterator[Callable[..., Broker]]:
    """Makes and starts brokers of the test's own, to be killed, paused or set up otherwise."""
    made: list[Broker] = []

    def make(*args: Any, **kwargs: Any) -> Broker:
        made.append(brokers.make(broker_kind, *args, **kwargs))
        made[-1].start()
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def make_topic(hosts: str) -> Callable[[int], str]:
    """Creates a topic that no other test uses, with so many partitions."""

    def make(partitions: int = 4) -> str:
        name = f"test-{uuid.uuid4().hex[:12]}"
        admin = KafkaAdminClient(bootstrap_servers=hosts)
        until = time.monotonic() + brokers.base.READY_TIMEOUT
        try:
            while True:
                try:
                    admin.create_topics(
                        [
                            NewTopic(
                                name,
                                num_partitions=partitions,
                                replication_factor=-1 if _replicates(hosts) else 1,
                            )
                        ]
                    )
                    return name
                except (
                    InvalidReplicationFactorError
                ):  # a broker that was stopped or frozen is fenced until its next heartbeat
                    if time.monotonic() > until:
                        raise
                time.sleep(0.05)
        finally:
            admin.close()

    return make


def _replicates(hosts: str) -> bool:
    return "," in hosts


@pytest.fixture
def topic(make_topic: Callable[[int], str]) -> str:
    """A fresh topic of four partitions."""
    return make_topic(4)


@pytest.fixture
def group() -> str:
    """A fresh consumer group."""
    return f"group-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def embedded_broker_program() -> None:
    """Makes sure that the development broker's program is there, built before anything is timed or
    read."""
    try:
        brokers.Embedded.prepare()
    except brokers.Unavailable as error:
        if brokers.in_ci():
            raise
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def loggers_of_its_own() -> Iterator[None]:
    """No test finds the loggers as a command that an earlier one ran in this process has set them
    up."""
    with kept_loggers(*OUR_LOGGERS):
        yield


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No worker's thread outlives the test that started it.  Only that test is to blame, not those
    that follow in the same process."""
    before = set(threading.enumerate())
    yield
    threads = [
        thread
        for thread in threading.enumerate()
        if thread not in before and thread.name.startswith(("embedkq-worker", "embedkq-consumer"))
    ]
    for thread in threads:
        thread.join(10)
    alive = [thread.name for thread in threads if thread.is_alive()]
    assert not alive, f"threads left behind: {alive}"


@pytest.fixture
def run_until_done(hosts: str, topic: str, group: str) -> Callable[..., Recorder]:
    """Runs a worker until the topic is done; what its callback was told."""

    def run(**options: Any) -> Recorder:
        recorder = Recorder()
        with Worker(hosts=hosts, topic=topic, group=group, callback=recorder, **options) as worker:
            assert worker.drain(60)
            assert worker.state == "running"
        return recorder

    return run
