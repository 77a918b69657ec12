"""The map of done offsets: what is encoded comes back, and no text at all does harm."""

from __future__ import annotations

import base64
import os
import random
import string
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedkq._formats import offset_map
from embedkq._formats.offset_map import LIMIT, OffsetRanges

MAPS = int(os.environ.get("EMBEDKQ_MAPS", "20000"))
MOST_OFFSET = 2**63 - 1

starts = st.one_of(st.integers(0, 300), st.integers(0, 2**62))
lengths = st.one_of(st.integers(1, 3), st.integers(1, 300), st.integers(1, 2**40))


@st.composite
def maps(draw: st.DrawFn) -> tuple[int, OffsetRanges]:
    start = draw(starts)
    return start, runs_of(start, draw(st.lists(st.tuples(lengths, lengths), max_size=60)))


def runs_of(start: int, gaps_and_lengths: list[tuple[int, int]]) -> OffsetRanges:
    runs, last = [], start
    for gap, length in gaps_and_lengths:
        runs.append((last + gap, last + gap + length))
        last += gap + length
    return tuple(runs)


def random_map(source: random.Random) -> tuple[int, OffsetRanges]:
    """Few runs mostly, thousands at times; dense, sparse and regular ones."""
    start = source.choice((0, source.randrange(1000), source.randrange(2**62)))
    count = source.choice((0, 1, 1, 2, 3, 5, 8, 13, 21, source.randrange(50)))
    if source.random() < 0.001:
        count = source.randrange(3000)
    most = source.choice((1, 2, 10, 130, 20_000))
    lengths = (
        source.choices(range(1, most + 1), k=2 * count)
        if most < 1000
        else [source.randrange(1, most) for _ in range(2 * count)]
    )
    return start, runs_of(start, list(zip(lengths[::2], lengths[1::2], strict=True)))


def forged(start: int, method: str, content: bytes) -> str:
    """A text with a checksum that is right, whatever its content."""
    beginning = (offset_map.VERSION + method).encode() + start.to_bytes(8, "big")
    checksum = zlib.crc32(beginning + content).to_bytes(4, "big")
    return offset_map.VERSION + method + base64.b85encode(checksum + content).decode()


def deflated(content: bytes) -> bytes:
    deflating = zlib.compressobj(9, zlib.DEFLATED, -15)
    return deflating.compress(content) + deflating.flush()


class TestRoundTrip:
    @given(maps())
    @settings(max_examples=500)
    def test_decode_returns_what_was_encoded(self, given_map: tuple[int, OffsetRanges]) -> None:
        start, runs = given_map

        text, cut = offset_map.encode(start, runs)

        assert not cut
        assert offset_map.decode(start, text) == runs
        assert text.isascii()
        assert len(text) == offset_map.measure(start, runs) <= LIMIT

    def test_many_random_maps_return_as_they_were(self) -> None:
        """As many as EMBEDKQ_MAPS says."""
        source = random.Random(1)
        for number in range(MAPS):
            start, runs = random_map(source)
            text, cut = offset_map.encode(start, runs)
            decoded = offset_map.decode(start, text)
            if len(text) > LIMIT or decoded != (runs[: len(decoded)] if cut else runs):
                pytest.fail(f"map {number}: start={start}, runs={runs}, text={text!r}, cut={cut}")

    @pytest.mark.parametrize(
        ("name", "done"),
        [
            ("v", [(10_000, 1)]),
            ("v", [(1, 90), (90, 1)]),
            ("b", [(1, 1)]),
            ("b", [(gap, length) for gap in (1, 2) for length in (1, 2, 3)]),
            ("V", [(300, 7)] * 500),
            ("B", [(1, 1)] * 2000 + [(3, 1)] * 2000 + [(1, 5), (2, 1)]),
        ],
    )
    def test_each_method_is_used_where_it_is_shorter(
        self, name: str, done: list[tuple[int, int]]
    ) -> None:
        runs = runs_of(7, done)

        text, _ = offset_map.encode(7, runs)

        assert text[:2] == offset_map.VERSION + name
        assert offset_map.decode(7, text) == runs

    def test_nothing_done_is_an_empty_text(self) -> None:
        assert offset_map.encode(5, ()) == ("", False)
        assert offset_map.decode(5, "") == ()

    def test_reaches_the_ends_of_what_kafka_numbers(self) -> None:
        for start, runs in (
            (0, ((1, MOST_OFFSET),)),
            (MOST_OFFSET - 2, ((MOST_OFFSET - 1, MOST_OFFSET),)),
        ):
            assert offset_map.decode(start, offset_map.encode(start, runs).text) == runs

    def test_the_text_keeps_its_form(self) -> None:
        """Texts of this version wait in real groups: a change of the form needs a new version."""
        assert offset_map.encode(100, ((103, 104), (110, 200))).text == "1vR0w-d0ssYB"
        assert offset_map.decode(100, "1vR0w-d0ssYB") == ((103, 104), (110, 200))
        assert offset_map.decode(100, "1bCW@<31p") == ((101, 102), (103, 104))
        assert offset_map.decode(100, "1Vr%iqfV`L-_000") == runs_of(100, [(2, 2)] * 20)
        assert offset_map.decode(100, "1B=Z}A_3k}5t00") == runs_of(100, [(1, 1)] * 80)


class TestCutting:
    @given(st.integers(-1, 400), st.integers(0, 2**32))
    @settings(max_examples=200)
    def test_what_does_not_fit_is_left_out_from_the_top(self, limit: int, seed: int) -> None:
        source = random.Random(seed)
        runs = runs_of(
            9,
            [
                (source.randrange(1, 200), source.randrange(1, 200))
                for _ in range(source.randrange(300))
            ],
        )

        text, cut = offset_map.encode(9, runs, limit)
        decoded = offset_map.decode(9, text)

        assert len(text) <= max(0, limit)
        assert decoded == runs[: len(decoded)]
        assert cut == (len(decoded) < len(runs)) == (offset_map.measure(9, runs) > max(0, limit))

    def test_nearly_all_the_room_is_used(self) -> None:
        source = random.Random(2)
        runs = runs_of(
            0, [(source.randrange(1, 100), source.randrange(1, 100)) for _ in range(10_000)]
        )

        text, cut = offset_map.encode(0, runs)

        assert cut
        assert LIMIT - 20 <= len(text) <= LIMIT

    def test_more_runs_than_a_reader_takes_are_cut_however_small_their_text(self) -> None:
        runs = runs_of(0, [(1, 1)] * 100_000)

        text, cut = offset_map.encode(0, runs)

        assert cut
        assert len(offset_map.decode(0, text)) == 32_768
        assert offset_map.measure(0, runs) > LIMIT

    @given(maps())
    @settings(max_examples=300)
    def test_bound_is_never_below_the_true_size(self, given_map: tuple[int, OffsetRanges]) -> None:
        start, runs = given_map
        span = runs[-1][1] - start if runs else 0

        assert offset_map.measure(start, runs) <= offset_map.bound(len(runs), span)


class TestRefusals:
    @pytest.mark.parametrize(
        ("start", "runs"),
        [
            (5, ((5, 6),)),
            (5, ((3, 4),)),
            (5, ((7, 7),)),
            (5, ((9, 7),)),
            (5, ((7, 9), (9, 11))),
            (5, ((7, 9), (8, 11))),
            (5, ((10, 12), (7, 8))),
            (-1, ()),
            (-1, ((3, 4),)),
            (5, ((7, MOST_OFFSET + 1),)),
            (MOST_OFFSET + 1, ()),
        ],
    )
    def test_what_are_no_runs_above_the_start_is_refused(
        self, start: int, runs: OffsetRanges
    ) -> None:
        for function in (offset_map.encode, offset_map.check):
            with pytest.raises(ValueError, match=f"start={start}"):
                function(start, runs)

    def test_a_text_for_another_offset_is_refused(self) -> None:
        text, _ = offset_map.encode(100, ((102, 105),))

        for start in (99, 101, 0, MOST_OFFSET):
            with pytest.raises(ValueError, match=f"another offset than {start}"):
                offset_map.decode(start, text)

    @pytest.mark.parametrize(
        "text",
        ["hello", "{}", "0vabcde", "2v00000", "1", "1x00000", "bz5AAAF", "\x00", "ü", "1\ud800"],
    )
    def test_a_text_of_another_maker_is_refused_by_its_beginning(self, text: str) -> None:
        with pytest.raises(ValueError, match="which this version of embedkq did not write"):
            offset_map.decode(0, text)

    @given(maps(), st.data())
    @settings(max_examples=500)
    def test_one_character_changed_or_added_or_the_end_cut_off_is_noticed(
        self, given_map: tuple[int, OffsetRanges], data: st.DataObject
    ) -> None:
        start, runs = given_map
        text, _ = offset_map.encode(start, runs)
        place = data.draw(st.integers(0, len(text)))
        character = data.draw(st.sampled_from(string.printable + "ß"))
        before, after = text[:place], text[place:]
        for damaged in {before + character + after[1:], before + character + after, before} - {
            text,
            "",
        }:
            with pytest.raises(ValueError, match=r"."):
                offset_map.decode(start, damaged)

    @given(st.integers(0, 2**62), st.text(max_size=200))
    @settings(max_examples=500)
    def test_any_text_gives_runs_or_value_error(self, start: int, text: str) -> None:
        for candidate in (text, *(offset_map.VERSION + method + text for method in "vVbB")):
            self.decode_or_refuse(start, candidate)

    @given(
        st.sampled_from([0, 7, 2**62, MOST_OFFSET]),
        st.sampled_from("vVbB"),
        st.binary(max_size=300),
        st.booleans(),
    )
    @settings(max_examples=1000)
    def test_any_content_gives_runs_or_value_error(
        self, start: int, method: str, content: bytes, deflate: bool
    ) -> None:
        """Also behind a checksum that is right."""
        self.decode_or_refuse(
            start, forged(start, method, deflated(content) if deflate else content)
        )

    def decode_or_refuse(self, start: int, text: str) -> None:
        try:
            runs = offset_map.decode(start, text)
        except ValueError as error:
            assert str(error)
        else:
            offset_map.check(start, runs)
            assert offset_map.decode(start, offset_map.encode(start, runs, 40_000).text) == runs

    @pytest.mark.parametrize(
        ("method", "content", "reason"),
        [
            ("v", b"", "no ranges"),
            ("b", b"", "no ranges"),
            ("b", b"\x00\x00", "no ranges"),
            ("v", b"\x01", "pairs"),
            ("v", b"\x01\x80", "is incomplete"),
            ("v", b"\xff" * 9 + b"\x01\x01", "more than 9 bytes"),
            ("v", b"\xff" * 8 + b"\x7f\x00", "above Kafka's maximum"),
            ("V", b"\xff\xff", "inflated"),
            ("V", deflated(b"\x01\x01")[:-1], "or is incomplete"),
            ("V", deflated(b"\x01\x01") + b"x", "or is incomplete"),
            ("V", deflated(b"\x00" * 70_000), "at most 32,768"),
            ("B", deflated(b"\x55" * 10_000), "more than 32,768 ranges"),
            ("B", deflated(b"\x01" * 300_000), "more than 262,144 bytes"),
        ],
    )
    def test_senseless_content_is_refused_with_its_reason(
        self, method: str, content: bytes, reason: str
    ) -> None:
        with pytest.raises(ValueError, match=reason):
            offset_map.decode(0, forged(0, method, content))

    def test_a_hostile_text_costs_little_memory(self) -> None:
        bomb = deflated(bytes(20_000_000))
        texts = [forged(0, method, bomb) for method in "VB"]
        texts += [forged(0, "B", deflated(b"\x55" * 200_000)), "1v" + "0" * 10_000_000]

        tracemalloc.start()
        try:
            for text in texts:
                tracemalloc.reset_peak()
                with pytest.raises(ValueError, match=r"."):
                    offset_map.decode(0, text)
                assert tracemalloc.get_traced_memory()[1] < 16_000_000
        finally:
            tracemalloc.stop()


class TestMerge:
    @given(maps(), maps(), st.booleans())
    def test_holds_what_either_holds_and_no_more(
        self, one: tuple[int, OffsetRanges], other: tuple[int, OffsetRanges], near: bool
    ) -> None:
        if near:  # so that they overlap
            one, other = shrunk(*one), shrunk(*other)
        start, runs = offset_map.merge(*one, *other)

        offset_map.check(start, runs)
        edges = {
            edge
            for s, r in (one, other, (start, runs))
            for edge in (s, *(offset for run in r for offset in run))
        }
        for offset in {edge + step for edge in edges for step in (-1, 0, 1)}:
            assert is_done(offset, start, runs) == (
                is_done(offset, *one) or is_done(offset, *other)
            )


def is_done(offset: int, start: int, runs: OffsetRanges) -> bool:
    return offset < start or any(first <= offset < last for first, last in runs)


def shrunk(start: int, runs: OffsetRanges) -> tuple[int, OffsetRanges]:
    return start % 40, runs_of(start % 40, [(first % 9 + 1, last % 9 + 1) for first, last in runs])
