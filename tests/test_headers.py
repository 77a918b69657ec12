"""What a record's headers say of its job: there and back, and every way in which they can be wrong."""
from __future__ import annotations

import math
import uuid

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embedkq import headers
from embedkq.errors import DecodeError

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
FORMAT = ("embedkq-format", b"1")
ID_HEADER = ("embedkq-id", ID.encode())
TIMESTAMP = ("embedkq-timestamp", b"1700000000000")
TIMEOUT = ("embedkq-timeout", b"2.5")
SOUND = [FORMAT, ID_HEADER, TIMESTAMP, TIMEOUT]

seconds = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False) | st.integers(1, 10**9)
foreign = st.tuples(st.text().filter(lambda name: not name.startswith("embedkq-")), st.binary() | st.none())


def with_value(name: str, value: object) -> list[tuple[str, object]]:
    """Sound headers, but for this one's value."""
    return [(known, value if known == name else told) for known, told in SOUND]


# There and back.


@settings(deadline=None)
@given(job_id=st.uuids().map(str), timestamp=st.integers(0, 2**62), timeout=st.none() | seconds)
def test_they_come_back_as_they_were(job_id: str, timestamp: int, timeout: float | None) -> None:
    envelope = headers.read_headers(headers.headers_of(job_id, timestamp, timeout))
    assert envelope == (job_id, timestamp, timeout, None, None)
    assert (envelope.id, envelope.timestamp, envelope.timeout) == (job_id, timestamp, timeout)


@settings(deadline=None)
@given(
    timeout=st.none() | seconds, others=st.lists(foreign, max_size=5), order=st.randoms(use_true_random=False),
)
@example(timeout=None, others=[("trace-id", b"1"), ("trace-id", b"2"), ("", b""), ("x", None)], order=None)
def test_headers_of_others_and_any_order_do_no_harm(timeout: float | None, others: list[tuple[str, bytes]], order: object) -> None:
    told = headers.headers_of(ID, 17, timeout) + others
    if order is not None:
        order.shuffle(told)
    assert headers.read_headers(told) == (ID, 17, timeout, None, None)


@settings(deadline=None)
@given(retries=st.none() | st.integers(0, 2**40), backoff=st.none() | seconds)
def test_retries_and_backoff_come_back_too(retries: int | None, backoff: float | None) -> None:
    envelope = headers.read_headers(headers.headers_of(ID, 17, None, retries, backoff))
    assert (envelope.retries, envelope.backoff) == (retries, backoff)


@pytest.mark.parametrize(
    ("name", "value"), [("retries", b"-1"), ("retries", b"1.0"), ("retries", b""), ("retries", None), ("backoff", b"0"), ("backoff", b"x")]
)
def test_retries_that_make_no_sense_are_refused_by_name(name: str, value: bytes | None) -> None:
    with pytest.raises(DecodeError, match=f"embedkq-{name}"):
        headers.read_headers([*SOUND, (f"embedkq-{name}", value)])


def test_they_are_these_on_the_wire() -> None:
    assert headers.headers_of(ID, 1_700_000_000_000, 2.5) == SOUND
    assert headers.headers_of(ID, 1_700_000_000_000, None) == SOUND[:3]
    assert headers.headers_of(ID, 0, 3)[3] == ("embedkq-timeout", b"3.0")
    assert headers.headers_of(ID, 0, None, 2, 1)[3:] == [("embedkq-retries", b"2"), ("embedkq-backoff", b"1.0")]


def test_a_job_without_a_limit_has_none() -> None:
    assert headers.read_headers([FORMAT, ID_HEADER, TIMESTAMP]).timeout is None
    assert headers.read_headers(iter(SOUND)).timeout == 2.5


# Wrong ones.


@pytest.mark.parametrize("missing", [FORMAT, ID_HEADER, TIMESTAMP])
def test_a_missing_header_is_named(missing: tuple[str, bytes]) -> None:
    with pytest.raises(DecodeError, match=f"^header '{missing[0]}' is missing$"):
        headers.read_headers([header for header in SOUND if header != missing])


def test_no_headers_at_all_are_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="is missing"):
        headers.read_headers([])


def test_a_signature_is_let_pass_but_only_one() -> None:
    signature = ("embedkq-signature", b"\x00 any bytes")
    assert headers.read_headers([*SOUND, signature]) == headers.read_headers(SOUND)
    with pytest.raises(DecodeError, match=r"^header 'embedkq-signature' is doubled$"):
        headers.read_headers([*SOUND, signature, signature])


@pytest.mark.parametrize("doubled", SOUND)
def test_a_doubled_header_is_named_even_with_the_same_value(doubled: tuple[str, bytes]) -> None:
    with pytest.raises(DecodeError, match=f"^header '{doubled[0]}' is doubled$"):
        headers.read_headers([*SOUND, doubled])


@pytest.mark.parametrize("name", ["embedkq-", "embedkq-signature2", "embedkq-Format", "embedkq-id2"])
def test_one_of_ours_that_this_version_does_not_know_is_refused(name: str) -> None:
    """A later version may have put something there that must not be passed over."""
    with pytest.raises(DecodeError, match=f"^header '{name}' is unknown to this version of embedkq$"):
        headers.read_headers([*SOUND, (name, b"1")])


@pytest.mark.parametrize("value", [b"", b"2", b"01", b"1 ", b"\xff", None])
def test_another_format_is_refused_with_its_value(value: bytes | None) -> None:
    with pytest.raises(DecodeError) as caught:
        headers.read_headers(with_value("embedkq-format", value))
    assert str(caught.value) == f"header 'embedkq-format' is {value or b''!r}: this version of embedkq reads b'1'"


@pytest.mark.parametrize(
    "value",
    [
        b"", b"1", ID.encode()[:-1], ID.encode() + b"0", ID.encode() + b"\n", ID.upper().encode(), ID.replace("-", "").encode(),
        f"{{{ID}}}".encode(),
        f"urn:uuid:{ID}".encode(), ID.replace("f", "g").encode(), b"\x00" * 36, b"\xff" * 36, uuid.UUID(ID).bytes, None,
    ],
)
def test_an_id_that_is_no_uuid_is_refused_with_its_value(value: bytes | None) -> None:
    with pytest.raises(DecodeError, match=r"^header 'embedkq-id' is no UUID: ") as caught:
        headers.read_headers(with_value("embedkq-id", value))
    assert repr(value or b"") in str(caught.value)


@pytest.mark.parametrize(
    "value", [b"", b" ", b"soon", b"1.5", b"1e3", b"0x10", b"-", b"\xff", b"\x00", b"nan", b"9" * 33, None, b"1_000", b" 1", b"+1", b"-1"]
)
def test_a_timestamp_that_is_no_number_of_milliseconds_is_refused_with_its_value(value: bytes | None) -> None:
    with pytest.raises(DecodeError, match=r"^header 'embedkq-timestamp' is no number: ") as caught:
        headers.read_headers(with_value("embedkq-timestamp", value))
    assert repr(value or b"") in str(caught.value)


@pytest.mark.parametrize("value", [b"", b"soon", b"1,5", b"0x1", b"\xff", b"1" * 33, None, b"1_0", b" 1"])
def test_a_limit_that_is_no_number_is_refused_with_its_value(value: bytes | None) -> None:
    with pytest.raises(DecodeError, match=r"^header 'embedkq-timeout' is no number: ") as caught:
        headers.read_headers(with_value("embedkq-timeout", value))
    assert repr(value or b"") in str(caught.value)


@pytest.mark.parametrize("value", [b"0", b"0.0", b"-0.0", b"-1", b"-2.5", b"nan", b"inf", b"-inf", b"1e999", b"Infinity"])
def test_a_limit_that_cannot_be_one_is_refused_with_its_value(value: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^header 'embedkq-timeout' is ") as caught:
        headers.read_headers(with_value("embedkq-timeout", value))
    assert repr(value or b"") in str(caught.value)


@pytest.mark.parametrize("name", [name for name, _ in SOUND])
def test_a_message_about_a_huge_value_stays_short(name: str) -> None:
    with pytest.raises(DecodeError) as caught:
        headers.read_headers(with_value(name, b"x" * 1_000_000))
    assert len(str(caught.value)) < 500


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([name for name, _ in SOUND]) | st.text(), st.binary() | st.none()), max_size=8))
def test_any_headers_give_an_envelope_or_a_decode_error(told: list[tuple[str, bytes]]) -> None:
    check_any(told)


@settings(deadline=None)
@given(st.sampled_from([name for name, _ in SOUND]), st.binary(max_size=50) | st.text(max_size=40).map(str.encode))
def test_any_value_gives_an_envelope_or_a_decode_error(name: str, value: bytes) -> None:
    check_any(with_value(name, value))


def check_any(told: list[tuple[str, object]]) -> None:
    try:
        envelope = headers.read_headers(told)
    except DecodeError as error:
        assert str(error).startswith("header ")
    else:
        assert str(uuid.UUID(envelope.id)) == envelope.id and isinstance(envelope.timestamp, int) and envelope.timestamp >= 0
        assert envelope.timeout is None or (envelope.timeout > 0 and math.isfinite(envelope.timeout))


# Put back.


def test_a_job_put_back_is_the_same_with_a_round_more() -> None:
    again = headers.put_back([*SOUND, ("mine", b"1"), ("nothing", None)])
    assert again == [*SOUND, ("mine", b"1"), ("nothing", b""), ("embedkq-rounds", b"1")]
    assert headers.read_headers(again) == headers.read_headers(SOUND) and headers.rounds_of(again) == 1
    assert headers.put_back(again)[-1] == ("embedkq-rounds", b"2") and len(headers.put_back(again)) == len(again)


def test_what_is_signed_anew_loses_its_signature_and_gets_a_timestamp() -> None:
    told = headers.put_back([*SOUND, ("embedkq-signature", b"x"), ("embedkq-rounds", b"many")], 1_800_000_000_000)
    assert told == [FORMAT, ID_HEADER, ("embedkq-timestamp", b"1800000000000"), TIMEOUT, ("embedkq-rounds", b"1")]


def test_headers_without_any_of_ours_stay_as_they_are() -> None:
    assert headers.put_back([("mine", b"1")]) == [("mine", b"1")] and headers.rounds_of([("mine", b"1")]) == 0
