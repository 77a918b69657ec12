"""Fixtures for pytest, which finds them by itself where embedkq is installed. The only user of
pytest.

    kq_jobs     what was enqueued, without running it, and without a broker
    kq_queue    a queue with a topic of the test's own, on a development broker
    kq_worker   a running worker on that topic, with real child processes
    kq_redirect all queues of the process use that topic
    kq_settings what the configuration of a Flask app or a Django project needs, to use that topic

    kq_broker, kq_topic, kq_queue_options, kq_worker_options: override these to change them.

Whatever a run does not use, it does not import: this module costs every run of pytest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from embedkq import Job, Queue
    from embedkq.testing import RunningWorker
    from embedkq.testing.session import Session

T = TypeVar("T")

_WORKER = "kq_worker"
_next_has_worker = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    """Passes over what kafka-python 3.0.12 does that Python is about to drop: 218 warnings, or a
    failure in a project whose warnings are errors."""
    for place in ("kafka.protocol.schemas.load_json", "importlib.resources._legacy"):
        line = rf"ignore:(read|open)_text is deprecated:DeprecationWarning:{place}"
        config.addinivalue_line("filterwarnings", line)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Notes whether the next test can use the worker of this one."""
    if _uses_worker(item):
        item.config.stash[_next_has_worker] = _uses_worker(nextitem)


def _uses_worker(item: pytest.Item | None) -> bool:
    return _WORKER in getattr(item, "fixturenames", ())


def _made(make: Callable[[], T]) -> T:
    """What a fixture makes. What embedkq says where it cannot be made is one sentence: the test
    fails with that, and without tracebacks of embedkq."""
    from embedkq.errors import EmbedkqError

    try:
        return make()
    except EmbedkqError as error:
        reason = str(error)
    return pytest.fail(reason, pytrace=False)  # not above, where pytest would show what led to it


@pytest.fixture(scope="session")
def kq_broker() -> Iterator[Any]:
    """A development broker for this test run, in memory; under xdist one for each of its processes.

    It ends with the process that started it, even if that is killed. Override it to test with
    another broker: it needs an attribute `hosts`.
    """
    from embedkq.testing.session import start_broker

    broker = _made(start_broker)
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def _kq_session(kq_broker: Any) -> Iterator[Session]:
    from embedkq.testing.session import Session

    session = Session()
    yield session
    session.close()


@pytest.fixture
def kq_topic(_kq_session: Session, request: pytest.FixtureRequest) -> str:
    """Name of a topic that holds no undone job. The first job creates it."""
    return _kq_session.topic(_WORKER in request.fixturenames)


@pytest.fixture
def kq_queue_options() -> dict[str, Any]:
    """Options of `kq_queue`, beside hosts and topic."""
    return {}


@pytest.fixture
def kq_worker_options() -> dict[str, Any]:
    """Options of `kq_worker`, beside hosts and topic."""
    return {}


@pytest.fixture
def kq_settings(kq_broker: Any, kq_topic: str) -> dict[str, Any]:
    """Settings for a Flask app or a Django project, to use the topic of `kq_queue`. The app runs no
    worker of its own."""
    return {
        "EMBEDKQ_HOSTS": kq_broker.hosts,
        "EMBEDKQ_TOPIC": kq_topic,
        "EMBEDKQ_WORKER": False,
    }


@pytest.fixture
def kq_queue(
    _kq_session: Session, kq_broker: Any, kq_topic: str, kq_queue_options: dict[str, Any]
) -> Queue:
    """A queue with a topic of the test's own."""
    return _kq_session.queue({"hosts": kq_broker.hosts, "topic": kq_topic, **kq_queue_options})


@pytest.fixture
def kq_redirect(kq_queue: Queue) -> Iterator[None]:
    """All queues of this process send their jobs to the topic of `kq_queue`."""
    from embedkq.testing import redirected

    with redirected(kq_queue):
        yield


@pytest.fixture
def kq_worker(
    _kq_session: Session,
    kq_queue: Queue,
    kq_worker_options: dict[str, Any],
    request: pytest.FixtureRequest,
) -> Generator[RunningWorker, None, None]:
    """A worker that takes jobs from the topic of `kq_queue`, with real child processes. Records how
    jobs end."""
    options = {"hosts": kq_queue.hosts, "topic": kq_queue.topic, **kq_worker_options}
    callback = options.pop("callback", None)
    yield _made(lambda: _kq_session.worker(options, callback))
    if not _kq_session.release(keep=request.config.stash.get(_next_has_worker, False)):
        pytest.fail(
            "the callback of kq_worker has not returned: its worker cannot stop", pytrace=False
        )


@pytest.fixture
def kq_jobs() -> Iterator[list[Job]]:
    """The jobs that any queue of this process has enqueued in this test. They do not run, and no
    broker is needed."""
    from embedkq.testing import captured

    with captured() as jobs:
        yield jobs
