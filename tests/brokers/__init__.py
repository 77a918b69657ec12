"""Brokers for tests behind one interface: see base.py for the kinds, choice.py for which one a
session runs on."""

from __future__ import annotations

from .base import ABILITIES, Broker, Cannot, Unavailable, is_open
from .choice import KINDS, QUICK_SESSIONS, choose, in_ci, make, require
from .cluster import Cluster
from .containers import DockerKafka
from .embedded import Embedded
from .existing import ExistingHosts
from .jars import KafkaJars

__all__ = [
    "ABILITIES",
    "KINDS",
    "QUICK_SESSIONS",
    "Broker",
    "Cannot",
    "Cluster",
    "DockerKafka",
    "Embedded",
    "ExistingHosts",
    "KafkaJars",
    "Unavailable",
    "choose",
    "in_ci",
    "is_open",
    "make",
    "require",
]
