"""The job as callers and callbacks see it: its fields, and that it goes anywhere a tuple goes."""

from __future__ import annotations

import copy
import pickle

import workerjobs
from hypothesis import given
from hypothesis import strategies as st

import embedkq
from embedkq import Job, codec
from embedkq.job import Job as HomeJob

JOB = Job("an-id", 17, "topic", workerjobs.echo, (1, "two"), {"three": 3}, 2.5, b"key")


def test_its_fields_are_these_in_this_order() -> None:
    assert Job._fields == ("id", "timestamp", "topic", "func", "args", "kwargs", "timeout", "key")
    assert JOB._asdict() == {
        "id": "an-id",
        "timestamp": 17,
        "topic": "topic",
        "func": workerjobs.echo,
        "args": (1, "two"),
        "kwargs": {"three": 3},
        "timeout": 2.5,
        "key": b"key",
    }


def test_it_is_a_named_tuple_that_cannot_be_changed() -> None:
    identity, timestamp, topic, func, args, kwargs, timeout, key = JOB
    assert (identity, timestamp, topic, func, args, kwargs, timeout, key) == tuple(JOB)
    assert isinstance(JOB, tuple) and JOB._replace(id="other").id == "other" and JOB.id == "an-id"
    try:
        JOB.id = "other"  # type: ignore[misc]
    except AttributeError:
        pass
    else:
        raise AssertionError("it was changed")


def test_every_field_may_be_left_out_and_is_none_then() -> None:
    assert Job() == (None,) * 8


def test_it_is_the_public_name() -> None:
    assert embedkq.Job is Job is HomeJob and Job.__module__ == "embedkq.job"


def test_it_pickles_and_copies() -> None:
    for again in (
        pickle.loads(pickle.dumps(JOB)),
        copy.deepcopy(JOB),
        codec.decode_object(codec.encode_object(JOB)),
    ):
        assert type(again) is Job and again == JOB and again.func is workerjobs.echo


@given(
    st.builds(
        Job,
        id=st.none() | st.uuids().map(str),
        timestamp=st.none() | st.integers(),
        topic=st.none() | st.text(),
        func=st.sampled_from([None, workerjobs.echo, len]),
        args=st.none() | st.tuples(st.text()),
        kwargs=st.none() | st.dictionaries(st.text(), st.integers()),
        timeout=st.none() | st.floats(allow_nan=False),
        key=st.none() | st.binary(),
    )
)
def test_any_job_comes_back_as_it_was(job: Job) -> None:
    again = codec.decode_object(codec.encode_object(job))
    assert type(again) is Job and again == job


def test_a_job_can_be_an_argument_of_a_job() -> None:
    func, args, kwargs = codec.decode_call(
        codec.encode_call(workerjobs.echo, (JOB,), {"other": JOB})
    )
    assert (func, args, kwargs) == (workerjobs.echo, (JOB,), {"other": JOB}) and type(
        args[0]
    ) is Job
