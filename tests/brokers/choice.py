"""Which broker the tests of this session run on."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import pytest

from .base import Broker, Unavailable
from .containers import DockerKafka
from .embedded import Embedded
from .existing import ExistingHosts
from .jars import KafkaJars

#: In the order in which they are asked.
KINDS: dict[str, type[Broker]] = {
    kind.kind: kind for kind in (ExistingHosts, DockerKafka, KafkaJars, Embedded)
}

#: Server properties for a group that gives up a dead member soon: Kafka's own least is 6 s.
QUICK_SESSIONS = {"group.min.session.timeout.ms": "100"}


def in_ci() -> bool:
    """Whether CI=true: then nothing is skipped for want of a broker."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def choose() -> type[Broker]:
    """The first kind that answers, or the one that EMBEDKQ_TEST_BROKER names; in CI Docker, unless
    another is named.

    Raises:
        Unavailable: none, or not the one that is asked for; the text has the reason of each.
        ValueError: EMBEDKQ_TEST_BROKER is no kind.
    """
    named = os.environ.get("EMBEDKQ_TEST_BROKER") or ("docker" if in_ci() else "")
    if named and named not in KINDS:
        raise ValueError(f"EMBEDKQ_TEST_BROKER={named!r}: must be one of {', '.join(KINDS)}")
    reasons = []
    for kind in [KINDS[named]] if named else KINDS.values():
        try:
            kind.prepare()
        except Unavailable as error:
            reasons.append(f"{kind.kind}: {error}")
        else:
            return kind
    raise Unavailable("no broker for the tests. " + "; ".join(reasons))


def require(kind: type[Broker], abilities: Collection[str]) -> None:
    """Skip the test that runs now if this kind of broker lacks one of these abilities.

    In CI that is a failure, except on the development broker: CI runs there, a second time, what it
    can do.
    """
    missing = set(abilities) - kind.capabilities
    if missing:
        refuse = pytest.fail if in_ci() and kind is not Embedded else pytest.skip
        refuse(f"{kind.kind} cannot: {', '.join(sorted(missing))}")


def make(
    kind: type[Broker],
    properties: Mapping[str, str] | None = None,
    *,
    listeners: Mapping[str, str] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> Broker:
    """A broker of this kind, not started; server properties and listeners for those that take
    them."""
    if issubclass(kind, DockerKafka | KafkaJars):
        return kind(properties, listeners=listeners, files=files)
    if kind is Embedded and properties == QUICK_SESSIONS:  # as it is without
        properties = None
    if properties or listeners or files:
        raise Unavailable(f"{kind.kind} takes no server properties, listeners or files")
    return kind()
