"""The headers that users give their jobs: on the wire, under a signature, in a dead letter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import workerjobs
from hypothesis import example, given
from hypothesis import strategies as st

from embedkq import Queue
from embedkq._formats import headers, user_headers
from embedkq._formats.dead_letter import DeadLetter, Record, as_dead_letter
from embedkq._formats.signing import Signer
from embedkq.dlq.letters import read_letter
from embedkq.dlq.retry import restored
from embedkq.errors import DecodeError, SignatureRefused

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OWN = headers.headers_of(ID, 17, None)
SECRET = "a secret of the tests, long enough"
SIGNER = Signer(SECRET)
TENANT = {"tenant": "a", "trace": "ünï ☃;=\n"}


def is_possible(name: str) -> bool:
    is_ours = name.casefold().startswith("embedkq") or name == "dead-letter-group"
    return bool(name) and name.isprintable() and ";" not in name and not is_ours


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(is_possible)
values = st.text(st.characters(codec="utf-8"), max_size=40)
given_headers = st.dictionaries(names, values, max_size=10)
others = st.lists(
    st.tuples(st.sampled_from(["traceparent", "x", "dead-letter-group"]), st.binary(max_size=9)),
    max_size=3,
)
Headers = list[tuple[str, bytes | None]]


def record_of(own: dict[str, str]) -> Headers:
    return [*OWN, *user_headers.encode(own)]


def signed(own: dict[str, str]) -> Headers:
    return [*SIGNER.sign("t", None, record_of(own), b"p")]


def mixed_with(foreign: Headers, ours: Headers, own: dict[str, str], order: Any) -> Headers:
    """A record's headers and others in any order."""
    mixed = ours + [each for each in foreign if each[0] not in own]
    order.shuffle(mixed)
    return mixed


# There and back.


@given(own=given_headers, foreign=others, order=st.randoms(use_true_random=False))
def test_they_come_back_as_they_were_whatever_stands_beside_them(
    own: dict[str, str], foreign: Headers, order: Any
) -> None:
    mixed = mixed_with(foreign, record_of(own), own, order)
    assert user_headers.decode(mixed) == own
    assert headers.read_headers(mixed)[:5] == (ID, 17, None, None, None)


@given(own=given_headers, foreign=others, order=st.randoms(use_true_random=False))
def test_they_are_signed_and_headers_of_others_are_not(
    own: dict[str, str], foreign: Headers, order: Any
) -> None:
    mixed = mixed_with(foreign, signed(own), own, order)
    SIGNER.check("t", None, mixed, b"p")


def test_it_is_this_on_the_wire() -> None:
    assert user_headers.encode({"tenant": "a", "b": ""}) == (
        ("embedkq.headers", b"tenant;b"),
        ("tenant", b"a"),
        ("b", b""),
    )


@pytest.mark.parametrize("none", [None, {}])
def test_without_them_a_record_is_as_it_was_before_there_were_any(none: Any) -> None:
    queue = Queue(topic="t", secret=SECRET).using(headers=none)
    _, message = queue._prepare(workerjobs.echo, (1,), {})
    ((name, value),) = message.headers
    assert name == "embedkq"
    before, _, _ = value.rpartition(b";signature=")
    key = SIGNER._keys[SIGNER._first]
    assert value.endswith(key.digest("t", None, before, message.value, b""))


# A record that somebody has changed.


@given(own=given_headers.filter(bool), other=given_headers)
@example(own={"a": "1"}, other={})
@example(own={"a": "1"}, other={"a": "1", "b": "2"})
@example(own={"a": "1", "b": "2"}, other={"b": "2", "a": "1"})
def test_others_in_their_place_are_refused(own: dict[str, str], other: dict[str, str]) -> None:
    """Changed, added and removed ones; also where none were, or none are left."""
    for first, second in ((own, other), (other, own)):
        moved = [*signed(first)[:1], *record_of(second)[1:]]
        if list(first.items()) != list(second.items()):
            with pytest.raises(SignatureRefused):
                SIGNER.check("t", None, moved, b"p")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda found: found[:-1], "'trace', which is missing"),
        (lambda found: [*found, ("tenant", b"b")], "'tenant' is duplicated"),
        (lambda found: [*found, ("embedkq.headers", b"tenant")], "'embedkq.headers' is duplicated"),
        (lambda found: [*found[:2], ("tenant", b"b"), *found[3:]], "signature is invalid"),
        (lambda found: [*found[:2], ("tenant", None), *found[3:]], "signature is invalid"),
        (
            lambda found: [found[0], ("embedkq.headers", b"tenant"), *found[2:]],
            "signature is invalid",
        ),
        (
            lambda found: [
                found[0],
                ("embedkq.headers", b"tenant;trace;x"),
                *found[2:],
                ("x", b""),
            ],
            "signature is invalid",
        ),
        (lambda found: [found[0], *found[2:]], "signature is invalid"),
        (lambda found: found[:1], "signature is invalid"),
        (lambda found: [found[0], ("embedkq.headers", b""), *found[2:]], "not printable text"),
        (
            lambda found: [found[0], ("embedkq.headers", b"tenant;tenant"), *found[2:]],
            "names a header twice",
        ),
        (lambda found: [found[0], ("embedkq.headers", b"embedkq"), *found[2:]], "embedkq's own"),
    ],
)
def test_a_change_is_refused_with_its_reason(
    change: Callable[[Headers], Headers], why: str
) -> None:
    found = signed(TENANT)
    assert [name for name, _ in found] == ["embedkq", "embedkq.headers", "tenant", "trace"]
    SIGNER.check("t", None, found, b"p")
    with pytest.raises(SignatureRefused) as caught:
        SIGNER.check("t", None, change(found), b"p")
    assert why in str(caught.value)


def test_a_boundary_cannot_be_moved() -> None:
    """Neither between two headers, nor between the payload and the headers."""
    (own, *_) = signed({"a": "bc"})
    for name, value in (("ab", "c"), ("abc", ""), ("a", "b")):
        with pytest.raises(SignatureRefused):
            SIGNER.check("t", None, [own, *user_headers.encode({name: value})], b"p")
    more = user_headers.signed_part(record_of({"a": "bc"}))
    with pytest.raises(SignatureRefused):
        SIGNER.check("t", None, [own], b"p" + more)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["embedkq", "embedkq.headers", "a", "b", ""]) | st.text(max_size=5),
            st.none()
            | st.binary(max_size=20)
            | st.sampled_from([b"a", b"a;b", b"a;a", b";", b"\xff", b"embedkq.headers"]),
        ),
        max_size=6,
    )
)
def test_any_headers_are_read_or_refused(noise: Headers) -> None:
    for read in (user_headers.decode, user_headers.signed_part):
        try:
            read(noise)
        except DecodeError as error:
            assert "header" in str(error)


def test_a_value_that_is_no_text_is_refused() -> None:
    with pytest.raises(DecodeError, match="header 'a' is not UTF-8"):
        user_headers.decode([("embedkq.headers", b"a"), ("a", b"\xff")])


# What `using` accepts.


@pytest.mark.parametrize(
    ("wrong", "kind", "said"),
    [
        ("tenant=a", TypeError, ["'tenant=a'", "mapping", '{"tenant": "a"}']),
        ([("tenant", "a")], TypeError, ["[('tenant', 'a')]", "mapping"]),
        ({1: "a"}, TypeError, ["a name must be a string", "1"]),
        ({"tenant": 7}, TypeError, ["'tenant'", "7", "str()"]),
        ({"tenant": b"a"}, TypeError, ["'tenant'", "b'a'", "str()"]),
        ({"tenant": None}, TypeError, ["'tenant'", "None", "str()"]),
        ({"": "a"}, ValueError, ["''", "not printable", "choose another name"]),
        ({"a;b": "a"}, ValueError, ["'a;b'", "semicolon", "choose another name"]),
        ({"a\nb": "a"}, ValueError, [r"'a\nb'", "not printable", "choose another name"]),
        ({"\ud800": "a"}, ValueError, [r"'\ud800'", "not printable", "choose another name"]),
        ({"embedkq": "a"}, ValueError, ["'embedkq'", "embedkq's own", "choose another name"]),
        ({"Embedkq-x": "a"}, ValueError, ["'Embedkq-x'", "embedkq's own", "choose another name"]),
        ({"dead-letter-group": "a"}, ValueError, ["'dead-letter-group'", "embedkq's own"]),
        ({"tenant": "\ud800"}, ValueError, ["'tenant'", r"'\ud800'", "UTF-8", "as an argument"]),
        ({"a": "x" * 8_192}, ValueError, ["8,193 bytes", "8,192", "as an argument"]),
        ({"a": "ü" * 4_096}, ValueError, ["8,193 bytes", "8,192", "as an argument"]),
        (
            {str(number): "" for number in range(33)},
            ValueError,
            ["33 headers", "at most 32", "as an argument"],
        ),
    ],
)
def test_what_cannot_be_headers_is_refused_at_the_call(
    wrong: Any, kind: type[Exception], said: list[str]
) -> None:
    for use in (Queue(topic="t").using, Queue(topic="t").job):
        with pytest.raises(kind) as caught:
            use(headers=wrong)
        assert type(caught.value) is kind and str(caught.value).startswith("headers")
        assert all(words in str(caught.value) for words in said), caught.value
        assert len(str(caught.value)) < 600


def test_the_most_that_is_possible_is_accepted() -> None:
    Queue(topic="t").using(headers={"a": "x" * 8_191})
    Queue(topic="t").using(headers={str(number): "" for number in range(32)})


def test_settings_add_up_and_later_headers_replace_earlier_ones() -> None:
    own = {"tenant": "a"}
    queue = Queue(topic="t").using(headers=own)
    own["tenant"] = "changed later"

    def of(made: Any, call: Any = workerjobs.echo) -> dict[str, str]:
        job, message = made._prepare(call, (), {})
        found = user_headers.decode(message.headers)
        assert job.headers == found
        return found

    assert of(queue.using(key="k")) == {"tenant": "a"}
    assert of(queue.using(headers={"b": "1"})) == {"b": "1"}
    assert of(queue.using(headers=None)) == {}
    assert "headers={'tenant': 'a'}" in repr(queue) and "headers" not in repr(
        queue.using(headers=None)
    )
    job, _ = queue._prepare(workerjobs.echo, (), {})
    assert of(Queue(topic="t"), job) == {"tenant": "a"}
    assert of(queue.using(headers={"b": "1"}), job) == {"b": "1"}


def test_a_letter_whose_headers_were_changed_is_not_signed_again() -> None:
    letter = DeadLetter("t", 0, 1, "failure")
    for own, fits in ((signed(TENANT), True), ([*signed(TENANT)[:-1], ("trace", b"x")], False)):
        dead = as_dead_letter(Record(None, b"p", own), letter)
        read = read_letter(_Polled(dead), resolved=False)
        assert read.dead is not None
        if fits:
            again = restored(read.original, read.dead, SIGNER)
            SIGNER.check("t", None, again, b"p")
            assert user_headers.decode(again) == TENANT and headers.read_rounds(again) == 1
        else:
            with pytest.raises(SignatureRefused):
                restored(read.original, read.dead, SIGNER)


class _Polled:
    """A record of a dead-letter topic, as a client has it."""

    partition, offset, timestamp = 0, 0, 0

    def __init__(self, record: Any) -> None:
        self.key, self.value, self.headers = record
