"""`queue.on_commit(...)` with SQLAlchemy and with Django: what is enqueued, when, and what is not."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from typing import Any

import djangoshop
import pytest
import sqlalchemy
from django.db import connections, transaction
from sqlalchemy import orm

from embedkq import Job, Queue
from embedkq.errors import BrokerUnavailable, EncodeError, EnqueueFailed
from embedkq.testing import captured

queue = Queue(hosts="127.0.0.1:1", topic="orders", timeout=7)
Base = orm.declarative_base()


class Order(Base):  # type: ignore[valid-type,misc]
    __tablename__ = "orders"
    id = sqlalchemy.Column(sqlalchemy.Integer, primary_key=True)
    name = sqlalchemy.Column(sqlalchemy.Text, unique=True)


@queue.job(timeout=3, key="k")
def ship(name: str, boxes: int = 1) -> str:
    return name * boxes


@pytest.fixture(scope="module", autouse=True)
def project() -> None:
    djangoshop.set_up()


@pytest.fixture
def engine() -> Iterator[Any]:
    made = sqlalchemy.create_engine(
        "sqlite://",
        poolclass=sqlalchemy.pool.StaticPool,
        connect_args={"check_same_thread": False},
    )
    Base.metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def session(engine: Any) -> Iterator[Any]:
    with orm.Session(engine) as made:
        yield made


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    with captured() as recorded:
        yield recorded


def names(jobs: list[Job]) -> list[Any]:
    return [job.args[0] for job in jobs if job.args]


# SQLAlchemy.


def test_a_job_is_enqueued_after_the_commit_with_its_queues_settings(
    session: Any, jobs: list[Job]
) -> None:
    session.add(Order(name="tea"))
    job = queue.using(key="a", headers={"tenant": "b"}).on_commit(session).enqueue(ship, "tea")
    assert jobs == [] and job.id and job.partition is None
    session.commit()
    (sent,) = jobs
    assert sent is job
    assert (sent.args, sent.timeout, sent.key, sent.headers) == (("tea",), 7, b"a", {"tenant": "b"})


def test_nothing_is_enqueued_after_a_rollback_or_a_close(session: Any, jobs: list[Job]) -> None:
    for give_up in (session.rollback, session.close):
        session.add(Order(name="tea"))
        queue.on_commit(session).enqueue(ship, "tea")
        give_up()
        session.commit()
    with pytest.raises(ValueError), session.begin():
        queue.on_commit(session).enqueue(ship, "milk")
        raise ValueError
    session.commit()
    assert jobs == []


def test_a_job_is_enqueued_once(session: Any, jobs: list[Job]) -> None:
    for name in ("tea", "milk"):
        session.add(Order(name=name))
        queue.on_commit(session).enqueue(ship, name)
        session.commit()
        session.commit()
    assert names(jobs) == ["tea", "milk"]


def test_a_job_before_the_transaction_belongs_to_the_next_one(
    session: Any, jobs: list[Job]
) -> None:
    queue.on_commit(session).enqueue(ship, "tea")
    with session.begin():
        session.add(Order(name="tea"))
        assert jobs == []
    assert names(jobs) == ["tea"]


def test_a_savepoint_takes_its_jobs_with_it(session: Any, jobs: list[Job]) -> None:
    later = queue.on_commit(session)
    with session.begin():
        later.enqueue(ship, "outer")
        with session.begin_nested():
            later.enqueue(ship, "kept")
        with session.begin_nested() as outer:
            with session.begin_nested():
                later.enqueue(ship, "released, and then rolled back with the outer one")
            outer.rollback()
        with session.begin_nested() as point:
            later.enqueue(ship, "rolled back")
            point.rollback()
        session.flush()
        later.enqueue(ship, "last")
        assert jobs == []
    assert names(jobs) == ["outer", "kept", "last"]


def test_a_failed_flush_enqueues_nothing(session: Any, jobs: list[Job]) -> None:
    session.add(Order(name="tea"))
    session.commit()
    queue.on_commit(session).enqueue(ship, "tea")
    session.add(Order(name="tea"))
    with pytest.raises(sqlalchemy.exc.IntegrityError):
        session.commit()
    session.rollback()
    session.commit()
    assert jobs == []


def test_of_a_failed_flush_in_a_savepoint_the_rest_is_enqueued(
    session: Any, jobs: list[Job]
) -> None:
    later = queue.on_commit(session)
    with session.begin():
        session.add(Order(name="tea"))
        later.enqueue(ship, "first")
        with pytest.raises(sqlalchemy.exc.IntegrityError), session.begin_nested():
            later.enqueue(ship, "second")
            session.add(Order(name="tea"))
    assert names(jobs) == ["first"]


def test_many_are_enqueued_in_order(session: Any, jobs: list[Job]) -> None:
    later = queue.on_commit(session)
    with session.begin():
        returned = later.enqueue_many((ship, (name,)) for name in "abc")
        Queue(topic="other").on_commit(session).enqueue(ship, "d")
        later.enqueue(ship, "e")
    assert names(jobs) == ["a", "b", "c", "d", "e"] and jobs[:3] == returned
    assert [job.topic for job in jobs] == ["orders"] * 3 + ["other", "orders"]


def test_a_jobs_function_has_it_with_its_own_settings(session: Any, jobs: list[Job]) -> None:
    with session.begin():
        ship.delay.on_commit(session)("tea", boxes=2)
    assert [(job.func, job.timeout, job.key, job.kwargs) for job in jobs] == [
        (ship, 3, b"k", {"boxes": 2})
    ]


def test_a_scoped_session_is_the_one_of_its_thread(engine: Any, jobs: list[Job]) -> None:
    scoped = orm.scoped_session(orm.sessionmaker(engine))
    queue.on_commit(scoped).enqueue(ship, "tea")
    queue.on_commit(scoped()).enqueue(ship, "milk")
    scoped.commit()
    assert names(jobs) == ["tea", "milk"]
    queue.on_commit(scoped).enqueue(ship, "lost with its session")
    scoped.remove()
    scoped.commit()
    assert len(jobs) == 2


def test_an_asynchronous_session_has_it(session: Any, jobs: list[Job]) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession

    asynchronous = AsyncSession()
    queue.on_commit(asynchronous).enqueue(ship, "tea")
    asynchronous.sync_session.commit()
    assert names(jobs) == ["tea"]


def test_what_cannot_travel_is_refused_within_the_transaction(
    session: Any, jobs: list[Job]
) -> None:
    with pytest.raises(EncodeError), session.begin():
        queue.on_commit(session).enqueue(ship, (each for each in "generator"))  # type: ignore[arg-type]
    assert jobs == []


def test_the_arguments_are_those_at_the_call(engine: Any) -> None:
    KEPT.clear()
    with orm.Session(engine) as session, session.begin():
        order = {"name": "tea"}
        Queue(eager=True).on_commit(session).enqueue(keep, order)
        order["name"] = "changed"
        assert KEPT == []
    assert KEPT == [{"name": "tea"}]


KEPT: list[Any] = []


def keep(value: Any) -> None:
    KEPT.append(value)


def test_an_eager_job_can_use_the_session_after_the_commit(session: Any) -> None:
    with session.begin():
        session.add(Order(name="tea"))
        Queue(eager=True).on_commit(session).enqueue(keep, 1)
    assert session.query(Order).count() == 1


def test_what_an_eager_job_raises_is_raised_by_the_commit(session: Any) -> None:
    Queue(eager=True).on_commit(session).enqueue(divmod, 1, 0)
    with pytest.raises(ZeroDivisionError):
        session.commit()
    session.commit()


@pytest.fixture
def no_broker(monkeypatch: pytest.MonkeyPatch) -> BrokerUnavailable:
    """No message is acknowledged."""
    from embedkq._clients.producer import Producer, Sent

    error = BrokerUnavailable("127.0.0.1:1", "no broker")
    monkeypatch.setattr(
        Producer,
        "send_and_locate",
        lambda self, messages: Sent(dict.fromkeys(range(len(messages)), error), []),
    )
    return error


def test_without_a_broker_the_commit_stands_and_raises(
    session: Any, no_broker: BrokerUnavailable
) -> None:
    with pytest.raises(EnqueueFailed, match="2 of 2 jobs were not ack") as caught, session.begin():
        session.add(Order(name="tea"))
        lost = [queue.on_commit(session).enqueue(ship, name) for name in ("tea", "milk")]
    assert caught.value.failed == lost and caught.value.__cause__ is no_broker
    assert not session.in_transaction()
    assert session.query(Order).count() == 1  # the session is of use
    session.commit()


def test_a_robust_job_is_logged_in_place_of_an_exception(
    session: Any, no_broker: BrokerUnavailable, caplog: pytest.LogCaptureFixture
) -> None:
    job = queue.on_commit(session, robust=True).enqueue(ship, "tea")
    session.commit()
    (record,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert record.name == "embedkq.queue"
    assert record.getMessage().startswith("Not enqueued after the commit, and lost: Job(")
    assert job.id in record.getMessage() and str(no_broker) in record.getMessage()


def test_a_queue_that_was_closed_before_the_commit_is_told_of(session: Any) -> None:
    closed = Queue(hosts="127.0.0.1:1")
    closed.on_commit(session).enqueue(ship, "tea")
    closed.close()
    with pytest.raises(EnqueueFailed, match="1 of 1 jobs"):
        session.commit()


def test_what_is_logged_says_when(
    session: Any, jobs: list[Job], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedkq.queue")
    queue.on_commit(session).enqueue(ship, "tea")
    session.commit()
    told = [record.getMessage().partition(": Job")[0] for record in caplog.records]
    assert told == ["To be enqueued after the commit", "Enqueued"]


@pytest.mark.parametrize("wrong", ["session", 7, object()])
def test_what_is_no_session_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="needs a Session of SQLAlchemy"):
        queue.on_commit(wrong)


def test_a_session_and_a_database_of_django_are_one_too_many(session: Any) -> None:
    with pytest.raises(ValueError, match="`using` names a database of Django"):
        queue.on_commit(session, using="default")


# Django.


@pytest.fixture
def in_django(jobs: list[Job]) -> Iterator[list[Job]]:
    yield jobs
    connections.close_all()


def test_in_django_a_job_is_enqueued_after_the_commit(in_django: list[Job]) -> None:
    with transaction.atomic():
        job = queue.using(key="a").on_commit().enqueue(ship, "tea")
        ship.delay.on_commit()("milk")
        assert in_django == []
    assert names(in_django) == ["tea", "milk"] and in_django[0] is job
    queue.on_commit().enqueue(ship, "outside of a transaction")
    assert len(in_django) == 3


def test_in_django_nothing_is_enqueued_after_a_rollback(in_django: list[Job]) -> None:
    with pytest.raises(ValueError), transaction.atomic():
        queue.on_commit().enqueue(ship, "tea")
        raise ValueError
    with transaction.atomic():
        queue.on_commit().enqueue(ship, "outer")
        with pytest.raises(ValueError), transaction.atomic():
            queue.on_commit().enqueue_many([(ship, ("inner",))])
            raise ValueError
    assert names(in_django) == ["outer"]


def test_in_django_a_database_can_be_named(in_django: list[Job]) -> None:
    with transaction.atomic(using="other"):
        queue.on_commit().enqueue(ship, "at once: the default one has no transaction")
        queue.on_commit(using="other").enqueue(ship, "later")
        assert len(in_django) == 1
    assert len(in_django) == 2


def test_in_django_a_job_that_is_lost_is_raised_or_logged(
    no_broker: BrokerUnavailable, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(EnqueueFailed), transaction.atomic():
        queue.on_commit().enqueue(ship, "tea")
    called = []
    with transaction.atomic():
        queue.on_commit(robust=True).enqueue(ship, "tea")
        transaction.on_commit(lambda: called.append(1))
    assert called and "and lost: Job(" in caplog.text
    connections.close_all()


def test_without_django_a_session_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "django.db", None)
    with pytest.raises(ValueError, match=r"with SQLAlchemy give the session: on_commit\(session\)"):
        queue.on_commit()


def test_an_event_loop_can_enqueue_after_the_commit(engine: Any, jobs: list[Job]) -> None:
    async def main() -> None:
        with orm.Session(engine) as session:
            queue.on_commit(session).enqueue(ship, "tea")
            await asyncio.to_thread(session.commit)

    asyncio.run(main())
    assert names(jobs) == ["tea"]
