"""The project of the tests with a database and a topic of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from djangoshop import MANAGE
from programs import Programs


@pytest.fixture
def programs(hosts: str, topic: str, tmp_path: Path) -> Iterator[Programs]:
    """Runs programs of the project."""
    environment = {
        "DJANGO_SETTINGS_MODULE": "djangoshop.settings",
        "DATABASE": str(tmp_path / "shop.sqlite3"),
        "HOSTS": hosts,
        "TOPIC": topic,
        "TOLD": str(tmp_path / "told"),
    }
    with Programs(tmp_path, environment) as made:
        made.run(*MANAGE, "migrate", "--run-syncdb", "--verbosity=0")
        yield made


@pytest.fixture
def in_project(programs: Programs) -> Callable[[str], str]:
    """Runs Python code inside the project, in a process of its own; what it printed."""
    head = "import django; django.setup()\nfrom djangoshop import jobs\n"
    head += "from djangoshop.models import Order\nfrom embedkq.django import queue\n"

    def run(code: str) -> str:
        return programs.run(sys.executable, "-c", head + code)

    return run


@pytest.fixture
def states(in_project: Callable[[str], str]) -> Callable[[], Any]:
    """Name and state of all orders in the database."""

    def read() -> Any:
        return eval(
            in_project("print(list(Order.objects.order_by('id').values_list('name', 'state')))")
        )

    return read
