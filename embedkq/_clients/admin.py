"""Describes a Kafka cluster and its consumer groups: offsets, lag, members, owners.

The only user of KafkaAdminClient. Requests never create topics.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

from kafka import errors as kafka_errors
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec

from embedkq._clients import broker_errors
from embedkq._clients.broker_errors import Asked, explaining
from embedkq._clients.cluster_info import GroupInfo, Info, MemberInfo, PartitionInfo
from embedkq._clients.partitions import commits_of, places_of
from embedkq._clients.private import Admin
from embedkq._formats.commit_metadata import TopicMark
from embedkq._formats.partition_progress import Committed, Log, count_lag, read_progress
from embedkq._partition import Partition
from embedkq.errors import EmbedkqError

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 4.5


def describe(
    hosts: str, topic: str | None = None, group: str | None = None, **client_options: Any
) -> Info:
    """Describe a cluster. Any thread.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        topic: only this topic; None for all except Kafka's internal topics.
        group: only this group; None for all groups that use the topics.
        client_options: as `Inspector`.

    Raises:
        BrokerUnavailable: no broker answered within 10 s.
        EmbedkqError: the broker refuses.
    """
    with Inspector(hosts, **client_options) as inspector:
        return inspector.describe(topic, group)


def member_ids(hosts: str, group: str, options: Mapping[str, Any]) -> frozenset[str]:
    """The ids of all members of a consumer group. Any thread.

    Raises:
        BrokerUnavailable, EmbedkqError: as `describe`.
    """
    with Inspector(hosts, **options) as inspector:
        return frozenset(member.id for member in inspector.members(group))


def is_hidden(hosts: str, topic: str, options: Mapping[str, Any]) -> bool:
    """Whether the user may not see a topic, whether it exists or not. False if the broker does not
    answer. Any thread."""
    try:
        with Inspector(hosts, **options) as inspector:
            return inspector.is_hidden(topic)
    except EmbedkqError:
        return False


def largest_batch(hosts: str, topic: str, options: Mapping[str, Any]) -> int | None:
    """The maximum size of a topic's record batches in bytes; None if the broker does not report it.
    Any thread."""
    try:
        with Inspector(hosts, **options) as inspector:
            return inspector.largest_batch(topic)
    except Exception:  # noqa: BLE001  (the user may lack the right, or the broker may not support it)
        return None


class Inspector:
    """A connection for repeated requests by one thread at a time. Connects in the constructor.

    Args:
        hosts: Kafka brokers, "host:port" or several separated by commas.
        client_options: options of any kafka-python client, such as `security_protocol`. Those that
            an admin client does not accept are ignored.

    Raises:
        BrokerUnavailable: no broker answered within 5 s, and 2 s to find the reason.
        BrokerRefused: certificates or passwords are not accepted.
    """

    def __init__(self, hosts: str, **client_options: Any) -> None:
        self.hosts = hosts
        deadline = time.monotonic() + CONNECT_SECONDS
        accepted = {
            name: value for name, value in client_options.items() if name in Admin.DEFAULT_CONFIG
        }

        def make() -> Admin:
            options = {
                "request_timeout_ms": int(REQUEST_SECONDS * 1000),
                **accepted,
                "bootstrap_timeout_ms": int((deadline - time.monotonic()) * 1000),
                "bootstrap_servers": hosts.split(","),
            }
            return Admin(**options)

        try:
            self._admin = broker_errors.connect(make, hosts, accepted, CONNECT_SECONDS)
        except ValueError as error:
            raise EmbedkqError(str(error)) from error

    def __enter__(self) -> Inspector:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._admin.close()

    def describe(self, topic: str | None = None, group: str | None = None) -> Info:
        """Describe the cluster; see the function `describe`.

        Raises:
            BrokerUnavailable: a broker did not answer within 5 s.
            EmbedkqError: the broker refuses.
        """
        with explaining(Asked(self.hosts, "DESCRIBE", topic, group)):
            groups = self._groups(group)
            committed = self._committed([found.name for found in groups])
            partitions = self._partitions(topic)
            marks = {partition: mark for partition, (led, mark) in partitions.items() if led}
            logs = self._logs(marks)
        topics_of = {found.name: _topics_of(found, committed[found.name]) for found in groups}
        topics = {partition.topic for partition in partitions}
        if group and topic:  # requested together, even if the group never read the topic
            topics_of[group].add(topic)
        elif group:
            topics &= topics_of[group]
        rows: list[PartitionInfo] = []
        for partition in partitions:
            if partition.topic in topics:
                concerned = [found for found in groups if partition.topic in topics_of[found.name]]
                rows += _rows_of(partition, logs.get(partition), concerned, committed)
        rows.sort(key=lambda row: (row.topic, row.group or "", row.partition))
        shown = [found for found in groups if group or topics & topics_of[found.name]]
        return Info(self.hosts, tuple(rows), tuple(shown))

    def members(self, group: str) -> tuple[MemberInfo, ...]:
        """The present members of a consumer group. Raises as `describe`."""
        with explaining(Asked(self.hosts, "DESCRIBE", group=group)):
            return self._groups(group)[0].members

    def largest_batch(self, topic: str) -> int | None:
        """The maximum size of a topic's record batches in bytes; None if the broker does not report
        it. Raises as `describe`."""
        with explaining(Asked(self.hosts, "DESCRIBE", topic)):
            asked = ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": None})
            configs = self._admin.describe_configs([asked], config_filter="all")
        for of_type in configs.values():
            found = of_type.get(topic, {}).get("max.message.bytes")
            if found:
                return int(found["value"])
        return None

    def is_hidden(self, topic: str) -> bool:
        """Whether the user may not see the topic, whether it exists or not. Raises as
        `describe`."""
        with explaining(Asked(self.hosts, "DESCRIBE", topic)):
            found = self._admin.describe_topics([topic])
        return any(
            each["error_code"] == kafka_errors.TopicAuthorizationFailedError.errno for each in found
        )

    def count_records(self, topic: str) -> int:
        """How many offsets the topic's partitions have given out; 0 if there is no such topic.
        Raises as `describe`."""
        with explaining(Asked(self.hosts, "DESCRIBE", topic)):
            known = self._partitions(topic)
            asked = places_of(partition for partition, (is_led, _) in known.items() if is_led)
            found = self._admin.list_partition_offsets(dict.fromkeys(asked, OffsetSpec.LATEST))
        return sum(found[place].offset for place in asked)

    def count_done(self, topic: str, group: str) -> int:
        """How many of these offsets the group is done with, or has never seen. Raises as
        `describe`."""
        rows = self.describe(topic, group).partitions
        return sum((row.last or 0) - (row.lag or 0) for row in rows)

    def create_topic(self, topic: str, partitions: int) -> None:
        """Create a topic with the cluster's default replication. Raises as `describe`."""
        with explaining(Asked(self.hosts, "CREATE", topic)):
            self._admin.create_topics({topic: {"num_partitions": partitions}})

    def delete_topic(self, topic: str) -> None:
        """Delete a topic and its records. Raises as `describe`."""
        with explaining(Asked(self.hosts, "DELETE", topic)):
            self._admin.delete_topics([topic])

    def _partitions(self, topic: str | None) -> dict[Partition, tuple[bool, TopicMark]]:
        """All partitions, each with whether it has a leader, and with its topic's mark."""
        # Request all topics, even for a single one, because some brokers create a topic that is
        # requested by name.
        return {
            Partition(found["name"], partition["partition_index"]): (
                partition["leader_id"] >= 0,
                _mark_of(found),
            )
            for found in self._admin.describe_topics()
            if (found["name"] == topic or topic is None) and not found["is_internal"]
            for partition in found["partitions"]
        }

    def _logs(self, marks: Mapping[Partition, TopicMark]) -> dict[Partition, Log]:
        if not marks:
            return {}
        places = places_of(marks)
        first = self._admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.EARLIEST))
        last = self._admin.list_partition_offsets(dict.fromkeys(places, OffsetSpec.LATEST))
        return {
            partition: Log(first[place].offset, last[place].offset, mark)
            for place, (partition, mark) in zip(places, marks.items(), strict=True)
        }

    def _groups(self, group: str | None) -> list[GroupInfo]:
        names = (
            [group]
            if group
            else sorted(
                found["group_id"]
                for found in self._admin.list_groups()
                if found["protocol_type"] in ("consumer", "")
            )
        )
        if not names:
            return []
        described = self._admin.describe_groups(names)
        return [
            GroupInfo(name, described[name]["group_state"], _members_of(described[name]))
            for name in names
        ]

    def _committed(self, groups: list[str]) -> Mapping[str, Mapping[Partition, Committed]]:
        if not groups:
            return {}
        answer = self._admin.list_group_offsets(dict.fromkeys(groups))
        return {group: commits_of(answer.get(group, {})) for group in groups}


def _rows_of(
    partition: Partition,
    log: Log | None,
    groups: list[GroupInfo],
    committed: Mapping[str, Mapping[Partition, Committed]],
) -> list[PartitionInfo]:
    first, last = (None, None) if log is None else (log.first, log.end)
    if not groups:
        return [PartitionInfo(*partition, first, last)]
    rows = []
    for group in groups:
        found = committed[group.name].get(partition)
        owner = next(
            (member.id for member in group.members if partition in member.partitions), None
        )
        row = PartitionInfo(
            *partition,
            first,
            last,
            group.name,
            found and found.offset,
            owner=owner,
        )
        if log is not None:
            progress = read_progress(found, log)
            row = replace(row, committed=progress and progress.offset, lag=count_lag(progress, log))
        rows.append(row)
    return rows


def _mark_of(found: Mapping[str, Any]) -> TopicMark:
    topic_id = found.get("topic_id")  # brokers before Kafka 2.8 have no topic ids
    return TopicMark.of(None if topic_id is None else UUID(str(topic_id)), len(found["partitions"]))


def _members_of(described: Mapping[str, Any]) -> tuple[MemberInfo, ...]:
    return tuple(
        MemberInfo(
            member["member_id"],
            member["client_id"],
            member["client_host"].lstrip("/"),
            _owned_by(member),
        )
        for member in sorted(described["members"], key=lambda member: str(member["member_id"]))
    )


def _owned_by(member: Mapping[str, Any]) -> tuple[Partition, ...]:
    assignment = member["member_assignment"]
    if not isinstance(assignment, Mapping):  # no assignment yet: the group is rebalancing
        return ()
    owned = (
        Partition(topic["topic"], number)
        for topic in assignment["assigned_partitions"]
        for number in topic["partitions"]
    )
    return tuple(sorted(owned))


def _topics_of(group: GroupInfo, committed: Mapping[Partition, Committed]) -> set[str]:
    owned = {partition.topic for member in group.members for partition in member.partitions}
    return owned | {partition.topic for partition in committed}
