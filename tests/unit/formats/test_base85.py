"""Base 85 is the standard library's, to the last character."""

import base64

from hypothesis import given
from hypothesis import strategies as st

from embedkq._formats import base85


@given(st.binary(max_size=100))
def test_it_is_what_the_standard_library_writes(data: bytes) -> None:
    assert base85.encode(data) == base64.b85encode(data).decode()


def test_every_length_and_the_largest_words() -> None:
    for length in range(50):
        data = b"\xff" * length
        assert base85.encode(data) == base64.b85encode(data).decode()
