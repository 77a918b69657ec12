"""What is found in a cluster, as plain data that `json.dumps` takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class PartitionInfo:
    """One partition, as one consumer group sees it.

    Attributes:
        topic: its topic.
        partition: its number.
        first: offset of the oldest record kept; None while the partition has no leader.
        last: offset that the next record will get; None while the partition has no leader.
        group: the consumer group; None where no group has to do with the topic.
        committed: offset up to which the group is done; None if it has committed none of this log.
            What was committed of a topic of the same name that was deleted since, or lies behind
            the log's end, does not count.
        lag: records that the group has still to do: all that are kept if `committed` is None; what
            is done above `committed`, as the commit's metadata says, does not count. None without a
            group.
        owner: member id of the worker that has the partition now; None if nobody has.
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
    """One worker in a consumer group.

    Attributes:
        id: member id, given by the broker.
        client: client id that the worker told.
        host: address that it is connected from.
        partitions: topic and partition of all that it owns. The embedded development broker does
            not tell.
    """

    id: str
    client: str
    host: str
    partitions: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class GroupInfo:
    """One consumer group.

    Attributes:
        name: its id.
        state: as the broker calls it: Stable, Empty, PreparingRebalance, CompletingRebalance, Dead.
        members: workers in it.
    """

    name: str
    state: str
    members: tuple[MemberInfo, ...]


@dataclass(frozen=True)
class Info:
    """What was found. A partition appears once for each group that has to do with its topic.

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
        """Names of the topics found, sorted."""
        return tuple(sorted({partition.topic for partition in self.partitions}))

    @property
    def lag(self) -> int:
        """Records still to be done, over all partitions and groups."""
        return sum(partition.lag or 0 for partition in self.partitions)

    def as_dict(self) -> dict[str, Any]:
        """The same in dicts, lists, strings and numbers, ready for `json.dumps`."""
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
