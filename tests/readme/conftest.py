"""The programs of README and guide, with a broker and topics of the test's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guidepages import SNIPPETS
from programs import Programs


@pytest.fixture
def topics() -> dict[str, str]:
    """Topics that stand for those of the snippets, by name there."""
    return {}


@pytest.fixture
def programs(
    hosts: str, topics: dict[str, str], make_topic: Any, tmp_path: Path
) -> Iterator[Programs]:
    """Runs the programs in a folder that holds all snippets but Gunicorn's settings, with a broker
    and topics of the test's own."""

    def fresh(found: re.Match[str]) -> str:
        if found.group(2) not in topics:
            topics[found.group(2)] = make_topic(4)
        return f'{found.group(1)}"{topics[found.group(2)]}"'

    for name, snippet in SNIPPETS.items():
        if name != "gunicorn.conf.py":
            text = re.sub(
                r'((?:topic|TOPIC) ?= ?)"([a-z]+)"', fresh, snippet.replace("localhost:9092", hosts)
            )
            (tmp_path / name).write_text(text)
    for name in ("ca.pem", "client.pem", "client.key"):
        (tmp_path / name).touch()
    with Programs(
        tmp_path, {"EMBEDKQ_HOSTS": hosts, "EMBEDKQ_TOPIC": topics["default"]}
    ) as programs:
        yield programs
