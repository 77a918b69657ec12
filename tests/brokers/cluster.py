"""Several nodes that act as one Apache Kafka cluster."""

from __future__ import annotations

from collections.abc import Mapping

from .base import READY_TIMEOUT, Cannot, wait_until_answers
from .containers import DockerKafka, has_bridge, node_names
from .jars import KafkaJars
from .layout import make_layout


class Cluster:
    """`nodes[0]` to `nodes[size - 1]`, each a `Broker` and voter; topics get a replica on each
    node, min ISR 2 of 3.

    Closes with the with-block. A node that is started while the majority is down needs
    `start(wait=False)`.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        kind: type[DockerKafka] | type[KafkaJars] = KafkaJars,
        properties: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        if "cluster" not in kind.capabilities:
            raise Cannot(f"{kind.kind} cannot make a cluster")
        bridged = kind is DockerKafka and has_bridge()
        layout = make_layout(
            size,
            bridged=bridged,
            names=node_names(size) if bridged else (),
            listeners=listeners,
            properties=properties,
        )
        self.nodes = [
            kind(files=files, layout=layout, node_id=node_id) for node_id in range(1, size + 1)
        ]
        self.hosts = ",".join(node.hosts for node in self.nodes)

    def start(self) -> None:
        """Start the nodes that do not run, all at once; returns when each of them takes part."""
        for node in self.nodes:
            node.start(wait=False)
        self.wait_ready()

    def wait_ready(self, timeout: float = READY_TIMEOUT) -> None:
        """Return once every node takes part."""
        wait_until_answers(self.hosts, self._check_alive, timeout)

    def stop(self) -> None:
        """Stop every node in turn.

        The last ones have no majority left to hand over to, so Kafka's own orderly end would wait:
        they are killed.
        """
        for left, node in zip(reversed(range(len(self.nodes))), self.nodes):
            if left > len(self.nodes) // 2:
                node.stop()
            else:
                node.kill()

    def kill(self) -> None:
        """SIGKILL every node."""
        for node in self.nodes:
            node.kill()

    def close(self) -> None:
        """End all nodes for good and remove what they left."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_alive(self) -> None:
        for node in self.nodes:
            node._check_alive()
