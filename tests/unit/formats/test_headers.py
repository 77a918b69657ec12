"""What a record's headers say of its job: there and back, and every way in which they can be
wrong."""

from __future__ import annotations

import math
import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedkq._formats import headers
from embedkq.errors import DecodeError

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
FIELDS = {"id": ID.encode(), "timestamp": b"1700000000000", "timeout": b"2.5"}
SOUND = f"1;id={ID};timestamp=1700000000000;timeout=2.5".encode()

seconds = st.floats(
    min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False
) | st.integers(1, 10**9)
foreign = st.tuples(
    st.text().filter(lambda name: name != "embedkq" and not name.startswith("embedkq-")),
    st.binary() | st.none(),
)


def told(value: bytes | None) -> list[tuple[str, bytes | None]]:
    return [("embedkq", value)]


def with_field(name: str, value: bytes | None) -> list[tuple[str, bytes | None]]:
    """A sound header, but for this field's value; None: without it."""
    fields = {**FIELDS, name: value}
    return told(
        b";".join(
            [
                b"1",
                *(each.encode() + b"=" + text for each, text in fields.items() if text is not None),
            ]
        )
    )


# There and back.


@given(job_id=st.uuids().map(str), timestamp=st.integers(0, 2**62), timeout=st.none() | seconds)
def test_they_come_back_as_they_were(job_id: str, timestamp: int, timeout: float | None) -> None:
    envelope = headers.read_headers(headers.headers_of(job_id, timestamp, timeout))
    assert envelope == (job_id, timestamp, timeout, None, None, False)
    assert (envelope.id, envelope.timestamp, envelope.timeout) == (job_id, timestamp, timeout)


@given(
    timeout=st.none() | seconds,
    others=st.lists(foreign, max_size=5),
    order=st.randoms(use_true_random=False),
)
@example(
    timeout=None,
    others=[("trace-id", b"1"), ("trace-id", b"2"), ("", b""), ("x", None)],
    order=None,
)
def test_headers_of_others_and_any_order_do_no_harm(
    timeout: float | None, others: list[tuple[str, bytes]], order: object
) -> None:
    mixed = headers.headers_of(ID, 17, timeout) + others
    if order is not None:
        order.shuffle(mixed)
    assert headers.read_headers(mixed) == (ID, 17, timeout, None, None, False)


@given(retries=st.none() | st.integers(0, 2**40), backoff=st.none() | seconds)
def test_retries_and_backoff_come_back_too(retries: int | None, backoff: float | None) -> None:
    envelope = headers.read_headers(headers.headers_of(ID, 17, None, retries, backoff))
    assert (envelope.retries, envelope.backoff) == (retries, backoff)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retries", b"-1"),
        ("retries", b"1.0"),
        ("retries", b""),
        ("backoff", b"0"),
        ("backoff", b"x"),
        ("rounds", b"many"),
    ],
)
def test_retries_that_make_no_sense_are_refused_by_name(name: str, value: bytes) -> None:
    with pytest.raises(DecodeError, match=f"^header 'embedkq' has .*{name}"):
        headers.read_headers(with_field(name, value))


def test_it_is_this_on_the_wire() -> None:
    assert headers.headers_of(ID, 1_700_000_000_000, 2.5) == told(SOUND)
    assert headers.headers_of(ID, 1_700_000_000_000, None) == told(SOUND.partition(b";timeout")[0])
    assert headers.headers_of(ID, 0, 3) == told(f"1;id={ID};timestamp=0;timeout=3.0".encode())
    assert headers.headers_of(ID, 0, None, 2, 1) == told(
        f"1;id={ID};timestamp=0;retries=2;backoff=1.0".encode()
    )


def test_a_job_without_a_limit_has_none() -> None:
    assert headers.read_headers(with_field("timeout", None)).timeout is None
    assert headers.read_headers(iter(told(SOUND))).timeout == 2.5


# Wrong ones.


@pytest.mark.parametrize("missing", ["id", "timestamp"])
def test_a_missing_field_is_named(missing: str) -> None:
    with pytest.raises(DecodeError, match=f"^header 'embedkq' has no {missing}$"):
        headers.read_headers(with_field(missing, None))


def test_no_headers_at_all_are_a_decode_error() -> None:
    for none in ([], [("theirs", b"1")]):
        with pytest.raises(DecodeError, match=r"^header 'embedkq' is missing$"):
            headers.read_headers(none)


def test_a_signature_is_let_pass_but_only_one_and_only_at_the_end() -> None:
    signature = b";signature=\x00 any bytes"
    assert headers.read_headers(told(SOUND + signature)) == headers.read_headers(told(SOUND))
    assert headers.is_signed(told(SOUND + signature)) and not headers.is_signed(
        [*told(SOUND), ("signature", signature)]
    )
    with pytest.raises(DecodeError, match=r"^header 'embedkq' has b'signature' twice$"):
        headers.read_headers(told(SOUND + signature + signature))
    with pytest.raises(
        DecodeError,
        match=r"^header 'embedkq' does not have its fields in the order id, timestamp, ",
    ):
        headers.read_headers(told(SOUND.replace(b";timeout", signature + b";timeout")))


@pytest.mark.parametrize("again", [SOUND, b"", None])
def test_a_doubled_header_is_refused_even_with_the_same_value(again: bytes | None) -> None:
    with pytest.raises(DecodeError, match=r"^header 'embedkq' is duplicated$"):
        headers.read_headers([*told(SOUND), *told(again)])


@pytest.mark.parametrize("field", FIELDS)
def test_a_doubled_field_is_named_even_with_the_same_value(field: str) -> None:
    with pytest.raises(DecodeError, match=f"^header 'embedkq' has b'{field}' twice$"):
        headers.read_headers(told(SOUND + b";" + field.encode() + b"=" + FIELDS[field]))


@pytest.mark.parametrize(
    "name", ["embedkq-", "embedkq-signature", "embedkq-dead-topic", "embedkq-id"]
)
def test_one_of_ours_that_this_version_does_not_know_is_refused(name: str) -> None:
    """A later version may have put something there that must not be passed over."""
    with pytest.raises(
        DecodeError, match=f"^header '{name}' is unknown to this version of embedkq$"
    ):
        headers.read_headers([*told(SOUND), (name, b"1")])


@pytest.mark.parametrize(
    "field", [b"more=1", b"", b"Id=1", b" rounds=1", b"rounds = 1", b"\xff" * 200]
)
def test_a_field_that_this_version_does_not_know_is_refused(field: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        headers.read_headers(told(SOUND + b";" + field))
    name = field.partition(b"=")[0][:64]
    assert (
        str(caught.value)
        == f"header 'embedkq' has {name!r}, which is unknown to this version of embedkq"
    )


@pytest.mark.parametrize("value", [b"", b"2", b"01", b"1 ", b"\xff", None])
def test_another_format_is_refused_with_its_value(value: bytes | None) -> None:
    for whole in (value, (value or b"") + SOUND[1:]):
        with pytest.raises(DecodeError) as caught:
            headers.read_headers(told(whole))
        assert (
            str(caught.value)
            == f"header 'embedkq' begins with {value or b''!r}: this version of embedkq reads b'1' and b'json'"
        )


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"1",
        ID.encode()[:-1],
        ID.encode() + b"0",
        ID.encode() + b"\n",
        ID.upper().encode(),
        ID.replace("-", "").encode(),
        f"{{{ID}}}".encode(),
        f"urn:uuid:{ID}".encode(),
        ID.replace("f", "g").encode(),
        b"\x00" * 36,
        b"\xff" * 36,
        uuid.UUID(ID).bytes,
    ],
)
def test_an_id_that_is_no_uuid_is_refused_with_its_value(value: bytes) -> None:
    with pytest.raises(
        DecodeError, match=r"^header 'embedkq' has an invalid id, not a UUID: "
    ) as caught:
        headers.read_headers(with_field("id", value))
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b"soon",
        b"1.5",
        b"1e3",
        b"0x10",
        b"-",
        b"\xff",
        b"\x00",
        b"nan",
        b"9" * 33,
        b"1_000",
        b" 1",
        b"+1",
        b"-1",
    ],
)
def test_a_timestamp_that_is_no_number_of_milliseconds_is_refused_with_its_value(
    value: bytes,
) -> None:
    with pytest.raises(
        DecodeError, match=r"^header 'embedkq' has an invalid timestamp, not a number: "
    ) as caught:
        headers.read_headers(with_field("timestamp", value))
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [b"", b"soon", b"1,5", b"0x1", b"\xff", b"1" * 33, b"1_0", b" 1"])
def test_a_limit_that_is_no_number_is_refused_with_its_value(value: bytes) -> None:
    with pytest.raises(
        DecodeError, match=r"^header 'embedkq' has an invalid timeout, not a number: "
    ) as caught:
        headers.read_headers(with_field("timeout", value))
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    "value", [b"0", b"0.0", b"-0.0", b"-1", b"-2.5", b"nan", b"inf", b"-inf", b"1e999", b"Infinity"]
)
def test_a_limit_that_cannot_be_one_is_refused_with_its_value(value: bytes) -> None:
    with pytest.raises(DecodeError, match=r"^header 'embedkq' has timeout=") as caught:
        headers.read_headers(with_field("timeout", value))
    assert value.decode() in str(caught.value)


@pytest.mark.parametrize("name", [*FIELDS, "more", "x" * 1_000_000])
def test_a_message_about_a_huge_value_stays_short(name: str) -> None:
    with pytest.raises(DecodeError) as caught:
        headers.read_headers(with_field(name, b"x" * 1_000_000))
    assert len(str(caught.value)) < 500


@given(
    st.lists(
        st.tuples(st.just("embedkq") | st.text(), st.just(SOUND) | st.binary() | st.none()),
        max_size=8,
    )
)
def test_any_headers_give_an_envelope_or_a_decode_error(
    anything: list[tuple[str, bytes | None]],
) -> None:
    check_any(anything)


@given(
    st.lists(
        st.sampled_from([field.decode() for field in headers.FIELDS]) | st.text(max_size=9),
        max_size=9,
    ),
    st.lists(
        st.binary(max_size=50)
        | st.sampled_from(list(FIELDS.values()))
        | st.text(max_size=40).map(str.encode),
        min_size=9,
    ),
)
def test_any_fields_give_an_envelope_or_a_decode_error(
    names: list[str], values: list[bytes]
) -> None:
    check_any(
        told(
            b";".join(
                [
                    b"1",
                    *(
                        name.encode() + b"=" + value
                        for name, value in zip(names, values, strict=False)
                    ),
                ]
            )
        )
    )


def check_any(anything: list[tuple[str, bytes | None]]) -> None:
    assert len(headers.put_back(anything)) == len(anything)
    try:
        envelope = headers.read_headers(anything)
    except DecodeError as error:
        assert str(error).startswith("header ")
    else:
        assert (
            str(uuid.UUID(envelope.id)) == envelope.id
            and isinstance(envelope.timestamp, int)
            and envelope.timestamp >= 0
        )
        assert envelope.timeout is None or (
            envelope.timeout > 0 and math.isfinite(envelope.timeout)
        )


# Put back.


def test_a_job_put_back_is_the_same_with_a_round_more() -> None:
    again = headers.put_back([*told(SOUND), ("mine", b"1"), ("nothing", None)])
    assert again == [*told(SOUND + b";rounds=1"), ("mine", b"1"), ("nothing", b"")]
    assert (
        headers.read_headers(again) == headers.read_headers(told(SOUND))
        and headers.read_rounds(again) == 1
    )
    assert headers.put_back(again)[0] == ("embedkq", SOUND + b";rounds=2")


def test_what_is_signed_anew_loses_its_signature_and_gets_a_timestamp() -> None:
    again = headers.put_back(told(SOUND + b";rounds=9;signature=x"), 1_800_000_000_000)
    assert again == told(f"1;id={ID};timestamp=1800000000000;timeout=2.5;rounds=10".encode())


@pytest.mark.parametrize(
    "no_job", [[("mine", b"1")], told(b"2;id=x"), told(b""), [*told(SOUND), *told(SOUND)]]
)
def test_headers_of_no_job_stay_as_they_are(no_job: list[tuple[str, bytes]]) -> None:
    assert headers.put_back(no_job) == no_job and headers.read_rounds(no_job) == 0
