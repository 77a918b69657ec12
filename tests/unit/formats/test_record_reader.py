"""Records that cannot be read: each is given out with its flaw, and those around it as they were
sent. Without a broker."""

from __future__ import annotations

import gzip
import importlib.util
import struct
import sys
import types
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import kafka.codec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher
from kafka.record import MemoryRecords, util
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.structs import TopicPartition
from partitions import numbered

from embedkq._clients.private.fetcher import _PartitionRecords
from embedkq._formats import record_reader
from embedkq._formats.dead_letter import DeadLetter, Record, shrinking_forms
from embedkq._formats.record_batch import FetchedRecord, RawName
from embedkq._formats.record_reader import Holds

PLACE = TopicPartition("t", 3)
HEADER = 61


class Name(str):
    """The name of a header that goes out as these bytes."""

    def encode(self, *_: Any) -> bytes:
        return bytes.fromhex(self)


class Partition:
    """A partition as a consumer fetches it: what it held, and where it is."""

    def __init__(self) -> None:
        self.holds = Holds()
        self._subscriptions = types.SimpleNamespace(
            assignment={PLACE: types.SimpleNamespace(highwater=1000)}
        )
        self.position = 0

    def fetch(
        self, *batches: bytes, position: int = 0, most: int = 2, **options: Any
    ) -> list[FetchedRecord]:
        """All that one fetch gives out."""
        fetched = _PartitionRecords(
            self, position, PLACE, MemoryRecords(b"".join(batches)), **options
        )
        given_out: list[FetchedRecord] = []
        while fetched:
            given_out += fetched.take(most)
        self.position = fetched.next_fetch_offset
        return given_out

    @property
    def reason(self) -> str:
        held = self.holds.at({PLACE: self.position})
        return held[PLACE].reason if held else ""


def batch_of(*records: tuple[Any, ...], first: int = 0) -> bytes:
    """A batch of records, each a value and headers."""
    builder = MemoryRecordsBuilder(2, 0, 10**6)
    for value, *headers in records:
        assert builder.append(1_700_000_000_000, b"key", value, headers)
    builder.close()
    data = bytearray(builder.buffer())
    struct.pack_into(">q", data, 0, first)
    struct.pack_into(">i", data, 23, len(records) - 1)
    return sealed(data)


def sealed(data: bytes) -> bytes:
    """The batch with its length and CRC put right."""
    sealed_data = bytearray(data)
    struct.pack_into(">i", sealed_data, 8, len(data) - 12)
    struct.pack_into(">I", sealed_data, 17, util.calc_crc32c(memoryview(sealed_data)[21:]))
    return bytes(sealed_data)


def compressed(data: bytes, codec: int, body: bytes) -> bytes:
    changed = bytearray(data[:HEADER]) + body
    struct.pack_into(">h", changed, 21, codec)
    return sealed(changed)


def offsets(records: list[FetchedRecord]) -> list[int]:
    return [record.offset for record in records]


def flaws(records: list[FetchedRecord]) -> dict[int, str]:
    return {record.offset: record.flaw for record in records if record.flaw is not None}


# Sound ones.

headers_of_a_record = st.lists(
    st.tuples(st.text(max_size=20), st.none() | st.binary(max_size=300)), max_size=4
)
sound_records = st.lists(
    st.tuples(st.none() | st.binary(max_size=300), headers_of_a_record, st.integers(0, 2**62)),
    min_size=1,
    max_size=8,
)


@given(
    records=sound_records,
    compress=st.booleans(),
    position=st.integers(0, 8),
    most=st.integers(1, 10),
)
def test_sound_records_are_as_kafka_python_reads_them(
    records: Any, compress: bool, position: int, most: int
) -> None:
    builder = MemoryRecordsBuilder(2, 1 if compress else 0, 10**6)
    for value, headers, timestamp in records:
        builder.append(timestamp, value, value, headers)
    builder.close()
    data = bytes(builder.buffer())
    theirs = Fetcher.PartitionRecords(position, PLACE, MemoryRecords(data))
    expected = [
        (numbered(3, "t"), each.offset, each.timestamp, each.key, each.value, each.headers, None)
        for each in theirs.take(1000)
    ]
    partition = Partition()
    assert [tuple(each) for each in partition.fetch(data, position=position, most=most)] == expected
    assert (
        partition.position == max(position, len(records)) == max(position, theirs.next_fetch_offset)
    )


# Broken ones.


def test_a_header_whose_name_is_no_utf8_spoils_only_its_own_record() -> None:
    data = batch_of((b"a",), (b"b", ("fine", b"1"), (Name("fffe"), b"2"), ("none", None)), (b"c",))
    records = Partition().fetch(data, batch_of((b"d",), first=3))
    assert [record.value for record in records] == [b"a", b"b", b"c", b"d"]
    assert flaws(records) == {1: "a header's name is not UTF-8: b'\\xff\\xfe'"}
    assert (
        records[1].headers == [("fine", b"1"), ("\\xff\\xfe", b"2"), ("none", None)]
        and records[1].key == b"key"
    )


def test_the_dead_letter_of_such_a_record_carries_the_same_bytes() -> None:
    record = Partition().fetch(batch_of((b"b", (Name("fffe"), b"2"))))[0]
    form = next(
        shrinking_forms(
            Record(record.key, record.value, list(record.headers)),
            DeadLetter("t", 3, 0, "malformed"),
        )
    )
    assert form.headers[0][0].encode("utf-8") == b"\xff\xfe" and form.value == b"b"
    again = Partition().fetch(batch_of((form.value, form.headers[0])))[0]
    assert (again.headers, again.flaw) == (record.headers, record.flaw)
    assert isinstance(again.headers[0][0], RawName)


@pytest.mark.parametrize(
    ("place", "byte", "flaw"),
    [
        (2, 0x07, "is out of order"),  # the offset
        (3, 0x7E, "a field is longer than the record"),  # length of the key
        (7, 0x7E, "a field is longer than the record"),  # length of the value
        (7, 0x00, "a field is longer than the record"),
        (9, 0x03, "headers"),  # -2 of them
        (9, 0x02, ""),  # one, which is not there
        (9, 0x7E, ""),
    ],
)
def test_a_record_that_is_not_what_it_says_spoils_only_itself(
    place: int, byte: int, flaw: str
) -> None:
    data = bytearray(batch_of((b"a",), (b"b",), (b"c",)))
    size = (len(data) - HEADER) // 3
    start = HEADER + size + 1  # behind its length
    data[start + place] = byte
    records = Partition().fetch(sealed(data))
    assert offsets(records) == [0, 1, 2] and [records[0].value, records[2].value] == [b"a", b"c"]
    assert list(flaws(records)) == [1] and flaw in flaws(records)[1]


@pytest.mark.parametrize("claimed", [2, 1, 0])
def test_two_records_of_one_offset_are_both_there(claimed: int) -> None:
    data = bytearray(batch_of((b"a",), (b"b",), (b"c",)))
    size = (len(data) - HEADER) // 3
    for number in range(3):
        data[HEADER + number * size + 3] = 2 * claimed
    records = Partition().fetch(sealed(data), batch_of((b"d",), first=3))
    assert [(record.offset, record.value) for record in records] == [
        (0, b"a"),
        (1, b"b"),
        (2, b"c"),
        (3, b"d"),
    ]
    wrong = {0, 1, 2} - {claimed}
    assert flaws(records) == dict.fromkeys(wrong, f"its offset {claimed} is out of order")


def test_more_records_than_offsets_are_not_passed_over_in_silence() -> None:
    data = bytearray(batch_of((b"a",), (b"b",), (b"c",)))
    struct.pack_into(">i", data, 23, 1)
    records = Partition().fetch(sealed(data), batch_of((b"d",), first=2))
    assert offsets(records) == [0, 1, 2]
    assert flaws(records) == dict.fromkeys(
        (0, 1), "its batch announces 3 records and has 2 offsets"
    )


def test_a_compacted_batch_is_read_as_it_is() -> None:
    data = bytearray(batch_of((b"a",), (b"b",), (b"c",)))
    struct.pack_into(">i", data, 23, 5)
    size = (len(data) - HEADER) // 3
    for number, delta in enumerate((1, 3, 4)):
        data[HEADER + number * size + 3] = 2 * delta
    records = Partition().fetch(sealed(data), batch_of((b"d",), first=6))
    assert offsets(records) == [1, 3, 4, 6] and not flaws(records)


def test_where_a_length_is_wrong_the_rest_of_the_batch_is_told_of_and_the_next_batch_is_read() -> (
    None
):
    data = bytearray(batch_of((b"a",), (b"b",), (b"c",)))
    data[HEADER + (len(data) - HEADER) // 3] = 0x7F  # minus 64
    records = Partition().fetch(sealed(data), batch_of((b"d",), first=3))
    assert (
        offsets(records) == [0, 1, 2, 3]
        and list(flaws(records)) == [1, 2]
        and records[3].value == b"d"
    )


@pytest.mark.parametrize("count", [-5, 0, 1, 7, 2**31 - 1])
def test_a_batch_that_is_wrong_about_how_many_it_has_loses_none_without_a_word(count: int) -> None:
    data = bytearray(batch_of((b"a",), (b"b",)))
    struct.pack_into(">i", data, 57, count)
    records = Partition().fetch(sealed(data), batch_of((b"c",), first=2))
    assert offsets(records) == [0, 1, 2] and records[2].value == b"c"


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_what_does_not_decompress_is_told_of_and_the_next_batch_is_read(
    codec: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(data: bytes) -> bytes:
        raise RuntimeError("no such stream")

    name = ("gzip", "snappy", "lz4", "zstd")[codec - 1]
    monkeypatch.setattr(kafka.codec, f"has_{name}", lambda: True)
    if codec != 1:
        monkeypatch.setattr(kafka.codec, f"{name}_decode", fail)
    plain = batch_of((b"a",), (b"b",))
    records = Partition().fetch(
        compressed(plain, codec, b"\x00 no stream"), batch_of((b"c",), first=2)
    )
    assert offsets(records) == [0, 1, 2] and records[2].value == b"c"
    assert [f"decompressed with {name}" in flaw for flaw in flaws(records).values()] == [True, True]


def test_a_header_that_is_no_utf8_in_a_compressed_batch_spoils_only_its_own_record() -> None:
    plain = batch_of((b"a",), (b"b", (Name("fffe"), b"2")), (b"c",))
    records = Partition().fetch(compressed(plain, 1, gzip.compress(plain[HEADER:])))
    assert [record.value for record in records] == [b"a", b"b", b"c"] and list(flaws(records)) == [
        1
    ]


def corrupt(data: bytes, place: int = -3) -> bytes:
    changed = bytearray(data)
    changed[place] ^= 0x40
    return bytes(changed)


def test_a_corrupt_batch_is_fetched_again_before_its_records_are_given_up() -> None:
    partition = Partition()
    before, after = batch_of((b"a",)), batch_of((b"d",), first=3)
    bad = corrupt(batch_of((b"b",), (b"c",), first=1))
    assert offsets(partition.fetch(before, bad, after)) == [0] and partition.position == 1
    for _ in range(record_reader.CORRUPT_TIMES - 1):
        assert "corrupt batch" in partition.reason
        assert partition.fetch(bad, after, position=1) == [] and partition.position == 1
    records = partition.fetch(bad, after, position=1)
    assert offsets(records) == [1, 2] and set(flaws(records).values()) == {
        "its batch is corrupt: the CRC is wrong"
    }
    assert partition.position == 3, "what follows is fetched anew"
    assert offsets(partition.fetch(after, position=3)) == [3] and not partition.reason


def test_a_corrupt_batch_that_arrives_whole_the_next_time_is_nothing_lost() -> None:
    partition = Partition()
    good = batch_of((b"b",), (b"c",))
    assert partition.fetch(corrupt(good)) == [] and partition.reason
    assert [record.value for record in partition.fetch(good)] == [
        b"b",
        b"c",
    ] and not partition.reason
    assert not flaws(partition.fetch(good))


@pytest.mark.parametrize("last", [-7, 5_000, 2**31 - 1])
def test_a_corrupt_batch_that_is_wrong_about_its_end_takes_no_others_with_it(last: int) -> None:
    partition = Partition()
    bad = bytearray(corrupt(batch_of((b"a",), (b"b",))))
    struct.pack_into(">i", bad, 23, last)
    for _ in range(record_reader.CORRUPT_TIMES):
        assert partition.fetch(bad) == []
    assert offsets(partition.fetch(bad)) == [0] and partition.position == 1, (
        "one at a time, until Kafka gives out another batch"
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:8] + struct.pack(">i", 3) + data[12:15],  # smaller than any
        lambda data: data[:16] + b"\x03" + data[17:],  # a format that is to come
        lambda data: data[:16] + b"\x01" + data[17:30],  # an old one, cut
    ],
)
def test_what_is_no_batch_at_all_holds_the_partition(change: Callable[[bytes], bytes]) -> None:
    partition = Partition()
    odd = bytearray(change(batch_of((b"b",), first=1)))
    struct.pack_into(">i", odd, 8, max(3, len(odd) - 12))
    assert offsets(partition.fetch(batch_of((b"a",)), bytes(odd))) == [0]
    assert partition.position == 1 and partition.reason


def test_a_batch_that_is_cut_off_is_left_to_the_next_fetch() -> None:
    partition = Partition()
    assert offsets(partition.fetch(batch_of((b"a",)), batch_of((b"b",), first=1)[:-1])) == [0]
    assert partition.position == 1 and not partition.reason


# Codecs.


@pytest.mark.parametrize(
    ("codec", "cure"),
    [
        (
            2,
            "compressed with snappy, which needs a package that is missing here: pip install python-snappy",
        ),
        (3, "compressed with lz4, which needs a package that is missing here: pip install lz4"),
        (
            4,
            "compressed with zstd, which needs a package that is missing here: pip install zstandard",
        ),
        (5, "compressed with codec 5, which kafka-python 3.0.12 does not support"),
        (7, "compressed with codec 7, which kafka-python 3.0.12 does not support"),
    ],
)
def test_a_missing_codec_holds_the_partition_and_names_the_cure(
    codec: int, cure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch)
    partition = Partition()
    records = partition.fetch(
        batch_of((b"a",), (b"b",)),
        compressed(batch_of((b"c",), (b"d",), first=2), codec, b"\x04\x22"),
    )
    assert offsets(records) == [0, 1] and partition.position == 2
    assert partition.reason == f"are {cure}"
    assert not partition.holds.allows(PLACE, 0) and partition.holds.allows(PLACE, 2**60)
    assert (
        partition.fetch(compressed(batch_of((b"c",), (b"d",), first=2), codec, b""), position=3)
        == []
    )
    assert partition.position == 3, "in the middle of a batch: not moved back"


def hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the libraries of codecs be missing, be they installed or not."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("snappy", "lz4", "zstd"):
        monkeypatch.setattr(kafka.codec, f"has_{name}", lambda: False)


@pytest.fixture
def late_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Callable[[], None]]:
    """Makes a library for lz4 that can be imported from now on; zlib in disguise."""
    for name in ("lz4", "lz4.frame"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(kafka.codec, "has_lz4", lambda: False)
    monkeypatch.setitem(sys.modules, "lz4", None)  # as long as it is not there
    monkeypatch.syspath_prepend(str(tmp_path))

    def install() -> None:
        (tmp_path / "lz4").mkdir()
        (tmp_path / "lz4" / "__init__.py").touch()
        (tmp_path / "lz4" / "frame.py").write_text("from zlib import compress, decompress")
        monkeypatch.delitem(sys.modules, "lz4")

    yield install
    monkeypatch.undo()
    importlib.reload(kafka.codec)


def test_a_library_that_is_installed_meanwhile_is_used(late_library: Callable[[], None]) -> None:
    partition = Partition()
    plain = batch_of((b"a",), (b"b",))
    data = compressed(plain, 3, zlib.compress(plain[HEADER:]))
    assert partition.fetch(data) == [] and "lz4" in partition.reason
    late_library()
    assert [record.value for record in partition.fetch(data)] == [
        b"a",
        b"b",
    ] and not partition.reason


def test_a_library_that_fails_is_no_fault_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka.codec, "has_snappy", lambda: True)
    monkeypatch.setattr(kafka.codec, "snappy_decode", lambda data: data.no_such_function())
    partition = Partition()
    assert partition.fetch(compressed(batch_of((b"a",)), 2, b"x")) == []
    assert "compressed with snappy, which fails here: AttributeError" in partition.reason


# Formats before Kafka 0.11.


def legacy(magic: int, codec: int, *values: bytes, first: int = 0) -> bytearray:
    builder = LegacyRecordBatchBuilder(magic, codec, 10**6)
    for number, value in enumerate(values):
        builder.append(first + number, None, b"key", value)
    return bytearray(builder.build())


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", [0, 1])
def test_old_formats_are_read(magic: int, codec: int) -> None:
    records = Partition().fetch(bytes(legacy(magic, codec, b"a", b"b", b"c")))
    assert [record.value for record in records] == [b"a", b"b", b"c"] and offsets(records) == [
        0,
        1,
        2,
    ]
    assert not flaws(records) and all(isinstance(record.timestamp, int) for record in records)


@pytest.mark.parametrize("magic", [0, 1])
def test_an_old_batch_with_odd_content_is_told_of(magic: int) -> None:
    odd = legacy(magic, 1, b"a", b"b", b"c")
    odd[-20] ^= 0x55  # in the compressed part
    struct.pack_into(">I", odd, 12, zlib.crc32(odd[16:]))
    records = Partition().fetch(
        bytes(odd), bytes(legacy(1, 0, b"d", first=int.from_bytes(odd[:8], "big") + 1))
    )
    assert records[-1].value == b"d" and records[-1].flaw is None
    assert flaws(records) and all(record.flaw for record in records[:-1])


def test_an_old_batch_that_is_compressed_twice_is_told_of() -> None:
    inner = bytes(legacy(1, 1, b"a"))
    outer = legacy(1, 0, b"x")
    builder = LegacyRecordBatchBuilder(1, 0, 10**6)
    builder.append(0, None, None, gzip.compress(inner))
    outer = bytearray(builder.build())
    outer[17] |= 1
    struct.pack_into(">I", outer, 12, zlib.crc32(outer[16:]))
    assert list(flaws(Partition().fetch(bytes(outer)))) == [0]


def test_an_old_record_whose_crc_is_wrong_is_told_of_at_last() -> None:
    partition, bad = Partition(), legacy(1, 0, b"a", b"b")
    bad[-1] ^= 1
    assert offsets(partition.fetch(bytes(bad))) == [0]
    for _ in range(record_reader.CORRUPT_TIMES - 1):
        assert partition.fetch(bytes(bad), position=1) == []
    assert list(flaws(partition.fetch(bytes(bad), position=1))) == [1]


# Anything.


@settings(max_examples=300)
@given(data=st.data(), compress=st.booleans())
def test_no_bytes_at_all_raise_or_lose_an_offset_in_silence(data: Any, compress: bool) -> None:
    plain = batch_of((b"a" * 20, ("name", b"x")), (b"b" * 20,), (b"c" * 20, ("another", None)))
    whole = compressed(plain, 1, gzip.compress(plain[HEADER:])) if compress else plain
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(23 if data.draw(st.booleans()) else HEADER, len(changed) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    struct.pack_into(">i", changed, 23, 2)
    partition = Partition()
    came = offsets(partition.fetch(sealed(changed), batch_of((b"d",), first=3)))
    assert came == sorted(set(came)) and came[-1] == 3
    assert compress or came == [0, 1, 2, 3]
