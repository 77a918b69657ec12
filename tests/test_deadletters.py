"""Dead letters: what they look like, and that every record that cannot be run becomes one before it counts as done."""
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkq import deadletters, headers
from embedkq.deadletters import DeadLetter, Record
from embedkq.errors import DecodeError

LETTER = DeadLetter("orders", 3, 17, "failure", "ValueError: no", "Traceback ...\nValueError: no\n", 4, "here", 1_700_000_000_000)
RECORD = Record(b"key", b"value", [("embedkq-id", b"1"), ("theirs", b"2"), ("theirs", None)])

texts = st.text(st.characters(codec="utf-8"), max_size=50)
numbers = st.integers(0, 10**18)
letters = st.builds(
    DeadLetter, texts, numbers, numbers, st.sampled_from(deadletters.REASONS), texts, texts, numbers, texts, numbers, st.booleans()
)
names = st.sampled_from([*deadletters._NAMES, deadletters._POINTER, "embedkq-id"]) | texts
records = st.builds(
    Record, st.none() | st.binary(), st.none() | st.binary(), st.lists(st.tuples(names, st.none() | st.binary()), max_size=25)
)


# The format.


@settings(deadline=None)
@given(record=records, letter=letters)
def test_a_record_and_what_is_said_of_it_come_back_whatever_headers_it_had(record: Record, letter: DeadLetter) -> None:
    buried = deadletters.bury(record, letter)
    assert (buried.key, buried.value) == (record.key, record.value)
    assert deadletters.strip(buried.headers) == record.headers
    assert deadletters.read(buried.headers) == letter


def test_it_is_this_on_the_wire() -> None:
    assert deadletters.bury(RECORD, LETTER).headers == [
        *RECORD.headers, ("embedkq-dead-topic", b"orders"), ("embedkq-dead-partition", b"3"), ("embedkq-dead-offset", b"17"),
        ("embedkq-dead-reason", b"failure"), ("embedkq-dead-exception", b"ValueError: no"),
        ("embedkq-dead-traceback", b"Traceback ...\nValueError: no\n"), ("embedkq-dead-attempts", b"4"), ("embedkq-dead-host", b"here"),
        ("embedkq-dead-time", b"1700000000000"),
    ]
    assert deadletters.bury(RECORD, LETTER._replace(pointer=True)).headers[-1] == ("embedkq-dead-pointer", b"1")


def test_a_dead_letter_that_was_put_back_as_it_is_dies_again_with_all_that_it_brought() -> None:
    once = deadletters.bury(RECORD, LETTER._replace(pointer=True))
    again = deadletters.bury(once, LETTER._replace(offset=18, reason="malformed"))
    assert deadletters.read(again.headers).offset == 18
    assert deadletters.strip(again.headers) == once.headers
    assert deadletters.read(once.headers) == LETTER._replace(pointer=True)


def test_a_dead_letter_is_no_job() -> None:
    sound = headers.headers_of("0f8fad5b-d9cb-469f-a165-70867728950e", 17, None)
    with pytest.raises(DecodeError, match="embedkq-dead-topic"):
        headers.read_headers(deadletters.bury(Record(None, b"", sound), LETTER).headers)


@settings(deadline=None)
@given(told=st.lists(st.tuples(names, st.none() | st.binary()), max_size=12))
def test_what_is_no_dead_letter_is_refused(told: list[tuple[str, bytes | None]]) -> None:
    with pytest.raises(DecodeError):
        deadletters.read(told)


@pytest.mark.parametrize(("index", "value"), [(1, b""), (2, b"-1"), (6, b"1e3"), (8, "\u0664".encode()), (3, b"bored"), (2, b"9" * 20)])
def test_what_a_header_cannot_say_is_refused_by_name(index: int, value: bytes) -> None:
    told = deadletters.bury(Record(None, b"", ()), LETTER).headers
    told[index] = (told[index][0], value)
    with pytest.raises(DecodeError, match=told[index][0]):
        deadletters.read(told)


def test_texts_that_are_no_text_are_told_all_the_same() -> None:
    buried = deadletters.bury(RECORD, LETTER._replace(exception="\udcff", host="\ud800"))
    told = deadletters.read(buried.headers)
    assert (told.exception, told.host) == ("\\udcff", "\\ud800")


@settings(deadline=None)
@given(record=records, letter=letters, length=st.sampled_from([0, 1_000, 70_000, 200_000]))
def test_each_form_is_smaller_and_keeps_what_it_can(record: Record, letter: DeadLetter, length: int) -> None:
    letter = letter._replace(pointer=False, traceback="x" * length + "the end")
    forms = list(deadletters.forms_of(record, letter))
    told = [deadletters.read(form.headers) for form in forms]
    assert {(each.topic, each.partition, each.offset, each.reason, each.attempts) for each in told} == {
        (letter.topic, letter.partition, letter.offset, letter.reason, letter.attempts)
    }
    assert [each.pointer for each in told] == [False, False, True, True]
    assert [form.value for form in forms] == [record.value, record.value, b"", b""]
    assert all(deadletters.strip(form.headers) == record.headers for form in forms[:3])
    assert all(each.traceback.endswith("the end") for each in told)
    assert (forms[3].key, deadletters.strip(forms[3].headers)) == (None, [])
    assert forms[1].size <= forms[0].size and forms[3].size < 15_000
