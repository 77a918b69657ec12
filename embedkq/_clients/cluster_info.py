"""The state of a cluster as plain data, ready for `json.dumps`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from embedkq._partition import Partition


@dataclass(frozen=True)
class PartitionInfo:
    """A partition from the view of one consumer group.

    Attributes:
        topic: its topic.
        partition: its number.
        first: offset of the oldest record that Kafka keeps; None while the partition has no leader.
        last: offset of the next record; None while the partition has no leader.
        group: the consumer group; None if no group uses the topic.
        committed: the group's committed offset; None if it has none for this log. A commit for a
            deleted topic of the same name, or behind the log's end, does not count.
        lag: number of records that the group has not done; all kept records if `committed` is None.
            Records that are done above `committed`, according to the commit's metadata, do not
            count. None without a group.
        owner: member id of the partition's worker, or None.
    """

    topic: str
    partition: int
    first: int | None
    last: int | None
    group: str | None = None
    committed: int | None = None
    lag: int | None = None
    owner: str | None = None


@dataclass(frozen=True)
class MemberInfo:
    """A worker in a consumer group.

    Attributes:
        id: member id, assigned by the broker.
        client: the worker's client id.
        host: the worker's address.
        partitions: the partitions that it owns. The embedded development broker does not report
            them.
    """

    id: str
    client: str
    host: str
    partitions: tuple[Partition, ...]


@dataclass(frozen=True)
class GroupInfo:
    """A consumer group.

    Attributes:
        name: the group's id.
        state: the broker's name for its state: Stable, Empty, PreparingRebalance,
            CompletingRebalance, Dead.
        members: its workers.
    """

    name: str
    state: str
    members: tuple[MemberInfo, ...]


@dataclass(frozen=True)
class Info:
    """The state of a cluster. A partition appears once for each group that uses its topic.

    Attributes:
        hosts: the brokers asked.
        partitions: sorted by topic, group, partition.
        groups: sorted by name.
    """

    hosts: str
    partitions: tuple[PartitionInfo, ...]
    groups: tuple[GroupInfo, ...]

    @property
    def topics(self) -> tuple[str, ...]:
        """Names of the topics, sorted."""
        return tuple(sorted({partition.topic for partition in self.partitions}))

    @property
    def lag(self) -> int:
        """The total lag of all partitions and groups."""
        return sum(partition.lag or 0 for partition in self.partitions)

    def as_dict(self) -> dict[str, Any]:
        """The state as dicts and lists, ready for `json.dumps`."""
        return {
            "hosts": self.hosts,
            "topics": list(self.topics),
            "lag": self.lag,
            "partitions": [asdict(partition) for partition in self.partitions],
            "groups": [
                {
                    "name": group.name,
                    "state": group.state,
                    "members": [_member_as_dict(m) for m in group.members],
                }
                for group in self.groups
            ],
        }


def _member_as_dict(member: MemberInfo) -> dict[str, Any]:
    partitions = [{"topic": topic, "partition": number} for topic, number in member.partitions]
    return {"id": member.id, "client": member.client, "host": member.host, "partitions": partitions}
