"""Where the nodes of an Apache Kafka cluster listen, and the server properties that follow from
it."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

CLUSTER_ID = "ZW1iZWRrcS10ZXN0cy0wMQ"

#: Ports are picked below every system's ephemeral range. A port within it may be given to an outgoing connection while
#: its broker is down, even to a client's own attempt to reach the broker, which then talks to itself for ever.
PORTS = range(20_000, 32_000)

_picked: set[int] = set()


def free_port() -> int:
    """A loopback port that nothing uses now and that this process has not picked before."""
    for port in random.Random().sample(PORTS, 1000):
        if port in _picked:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _picked.add(port)
        return port
    raise RuntimeError(f"no free port from {PORTS.start} to {PORTS.stop} in 1000 tries")


@dataclass(frozen=True)
class Place:
    """One node: `name` is how the other nodes reach it, `ports` has a port for each listener."""

    node_id: int
    name: str
    ports: Mapping[str, int]

    @property
    def hosts(self) -> str:
        """What a client on this machine is given."""
        return f"127.0.0.1:{self.ports['PLAINTEXT']}"


@dataclass(frozen=True)
class Layout:
    """All nodes of one cluster, each of them broker and controller.

    With `bridged` the nodes live in network namespaces of their own: they listen on every address
    there, and talk to each other by name through the listener INTERNAL. Without it everything is on
    the loopback interface.
    """

    places: tuple[Place, ...]
    bridged: bool = False
    #: Further listeners: name to protocol (SSL, SASL_SSL, SASL_PLAINTEXT).
    listeners: Mapping[str, str] = field(default_factory=dict)
    #: Server properties that come on top; `{folder}` in a value is where the broker finds its `files`.
    properties: Mapping[str, str] = field(default_factory=dict)

    def server_properties(self, node_id: int, *, data: str, folder: str) -> str:
        """The file that node `node_id` is started with."""
        size = len(self.places)
        place = self.places[node_id - 1]
        values = {
            "process.roles": "broker,controller",
            "node.id": str(node_id),
            "controller.quorum.voters": ",".join(
                f"{p.node_id}@{p.name}:{p.ports['CONTROLLER']}" for p in self.places
            ),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INTERNAL" if "INTERNAL" in place.ports else "PLAINTEXT",
            **self._listener_properties(place),
            "log.dirs": data,
            **_SMALL_AND_QUICK,
            "offsets.topic.replication.factor": str(size),
            "transaction.state.log.replication.factor": str(size),
            "transaction.state.log.min.isr": str(min(size, 2)),
            "share.coordinator.state.topic.replication.factor": str(size),
            "share.coordinator.state.topic.min.isr": str(min(size, 2)),
            "default.replication.factor": str(size),
            "min.insync.replicas": str(min(size, 2)),
            **self.properties,
        }
        return "".join(
            f"{key}={value.replace('{folder}', folder)}\n" for key, value in values.items()
        )

    def _listener_properties(self, place: Place) -> dict[str, str]:
        bind = "0.0.0.0" if self.bridged else "127.0.0.1"
        protocols = {
            "CONTROLLER": "PLAINTEXT",
            "PLAINTEXT": "PLAINTEXT",
            "INTERNAL": "PLAINTEXT",
            **self.listeners,
        }
        advertised = {
            name: f"{place.name if name == 'INTERNAL' else '127.0.0.1'}:{port}"
            for name, port in place.ports.items()
            if name != "CONTROLLER"
        }
        return {
            "listeners": ",".join(f"{name}://{bind}:{port}" for name, port in place.ports.items()),
            "advertised.listeners": ",".join(
                f"{name}://{address}" for name, address in advertised.items()
            ),
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}" for name, protocol in protocols.items()
            ),
        }


_SMALL_AND_QUICK = {
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    "auto.create.topics.enable": "true",
    "num.partitions": "4",
    # The defaults (50) cost a start about a second, and 10 MiB of index file for each of hundreds
    # of test topics.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    "log.index.size.max.bytes": "65536",
    # A node that was killed cannot register again before its old session has ended (9 s by
    # default).
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "200",
}


def make_layout(
    size: int = 1,
    *,
    bridged: bool = False,
    names: tuple[str, ...] = (),
    listeners: Mapping[str, str] | None = None,
    properties: Mapping[str, str] | None = None,
) -> Layout:
    """A layout with ports that are free now; `names` are the nodes' names on a bridged network."""
    wanted = [
        "PLAINTEXT",
        "CONTROLLER",
        *(["INTERNAL"] if bridged and size > 1 else []),
        *(listeners or {}),
    ]
    places = tuple(
        Place(
            node_id,
            names[node_id - 1] if names else "127.0.0.1",
            {name: free_port() for name in wanted},
        )
        for node_id in range(1, size + 1)
    )
    return Layout(places, bridged, dict(listeners or {}), dict(properties or {}))
