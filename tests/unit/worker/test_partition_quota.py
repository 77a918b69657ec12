"""Of which partitions enough is held: by number, by bytes, and by the bytes of all together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from partitions import P0, P1, P2, P3, P4, P7
from unitjobs import repeatable

from embedkq._partition import Partition
from embedkq.worker.between_threads.partition_quota import PartitionQuota


def test_a_partition_is_full_from_so_many_records_on() -> None:
    quota = PartitionQuota(2, 100, 1000)
    quota.add(P0, 1)
    assert quota.full == set()
    quota.add(P1, 1)
    quota.add(P0, 1)
    assert quota.full == {P0}
    quota.remove(P0, 1)
    assert quota.full == set()
    quota.add(P0, 1)
    assert quota.full == {P0}, "one that was removed counts once"


def test_a_partition_is_full_from_so_many_bytes_on() -> None:
    quota = PartitionQuota(9, 100, 1000)
    quota.add(P0, 99)
    assert quota.full == set()
    quota.add(P0, 1)
    assert quota.full == {P0}
    quota.remove(P0, 1)
    assert quota.full == set()


def test_a_record_without_bytes_counts_as_one() -> None:
    quota = PartitionQuota(1, 100, 1000)
    quota.add(P0, 0)
    assert quota.full == {P0}
    quota.remove(P0, 0)
    assert quota.full == set()


def test_with_too_many_bytes_in_all_each_partition_that_holds_any_is_full() -> None:
    quota = PartitionQuota(9, 60, 100)
    assert quota.over is False
    quota.add(P0, 50)
    quota.add(P1, 49)
    quota.add(P3, 0)
    assert quota.full == set() and not quota.over
    quota.add(P2, 1)
    assert quota.full == {P0, P1, P2, P3} and quota.over
    quota.add(P4, 0)
    assert quota.full == {P0, P1, P2, P3, P4}, "one that comes later too"
    quota.remove(P4, 0)
    assert quota.full == {P0, P1, P2, P3}, "and one of which nothing is left does not"


def test_too_many_bytes_in_all_are_so_until_a_quarter_is_gone() -> None:
    """Else the partitions would be full in turns."""
    quota = PartitionQuota(99, 100, 100)
    for _ in range(10):
        quota.add(P0, 10)
    quota.remove(P0, 10)
    quota.remove(P0, 10)
    assert quota.over and quota.full == {P0}
    quota.remove(P0, 5)
    assert quota.over and quota.full == {P0}
    quota.remove(P0, 1)
    assert not quota.over and quota.full == set()
    quota.add(P1, 25)
    assert not quota.over, "it takes the whole again"
    quota.add(P1, 1)
    assert quota.over and quota.full == {P0, P1}


def test_a_partition_full_by_itself_stays_so_when_all_together_are_not() -> None:
    quota = PartitionQuota(99, 50, 100)
    quota.add(P0, 60)
    quota.add(P1, 40)
    assert quota.full == {P0, P1}
    quota.remove(P1, 40)
    assert not quota.over and quota.full == {P0}


def test_of_a_partition_that_is_forgotten_nothing_counts() -> None:
    quota = PartitionQuota(2, 100, 100)
    quota.add(P0, 60)
    quota.add(P0, 10)
    quota.add(P1, 30)
    assert quota.over and quota.full == {P0, P1}
    quota.forget(P0)
    assert not quota.over and quota.full == set()
    quota.forget(P0)
    quota.forget(P7)
    quota.add(P7, 0)
    assert quota.full == set()
    quota.add(P7, 0)
    assert quota.full == {P7}
    quota.forget(P7)
    quota.add(P0, 69)
    assert not quota.over and quota.full == set()
    quota.add(P0, 1)
    assert quota.over


@repeatable
@given(st.lists(st.tuples(st.sampled_from([P0, P1, P2]), st.integers(0, 40)), max_size=40))
def test_what_is_removed_again_leaves_nothing(added: list[tuple[Partition, int]]) -> None:
    quota = PartitionQuota(5, 50, 100)
    for partition, size in added:
        quota.add(partition, size)
    for partition, size in added:
        quota.remove(partition, size)
    assert quota.full == set() and not quota.over
