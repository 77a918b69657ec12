"""Jobs that use the database, and the callback."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection, connections, transaction


def open_databases() -> list[str]:
    """The process's open files that are the database."""
    name = str(settings.DATABASES["default"]["NAME"])
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [each for each in found if each == name]


def ship(name: str) -> str:
    """Writes to the database; how many descriptors of it were open before and after."""
    from djangoshop.models import Order

    before = len(open_databases())
    Order.objects.filter(name=name).update(state="shipped")
    return f"{before} {len(open_databases())}"


async def ship_async(name: str) -> int:
    from djangoshop.models import Order

    return await Order.objects.filter(name=name).aupdate(state="shipped")


def leave_a_transaction_open() -> None:
    transaction.set_autocommit(False)


def is_clean() -> bool:
    """Whether the connection is as Django makes it."""
    return bool(connection.get_autocommit()) and not connection.in_atomic_block


def count_connections() -> int:
    return sum(connections[name].connection is not None for name in connections)


def on_end(status: str, job: Any, result: Any, exception: Any, traceback: Any) -> None:
    """The callback: uses the database of the process that called it."""
    from djangoshop.models import Order

    open_before = count_connections()
    Order.objects.create(name="told", state=f"{status} {result} {exception} {open_before}")
    if told := os.environ.get("TOLD"):
        with Path(told).open("a") as file:
            file.write(f"{status} {result} {os.getpid()}\n")


async def count_open_slowly() -> int:
    """How many connections the thread has that `async def` uses."""
    from asgiref.sync import sync_to_async

    return await sync_to_async(count_connections)()
