"""Payloads of records of KQ, made without KQ."""

from __future__ import annotations

import copyreg
import pickle
import sys
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import workerjobs


class KQJob:
    """As a pickle: KQ's class by its name, with values (a namedtuple) or names (a dataclass)."""

    def __new__(cls, *values: Any, **named: Any) -> KQJob:
        made = super().__new__(cls)
        made.__dict__.update(named)
        made.__getnewargs__ = lambda: values  # type: ignore[attr-defined]
        return made

    def __reduce_ex__(self, protocol: int) -> Any:
        state = {name: value for name, value in vars(self).items() if name in FIELDS}
        return copyreg.__newobj__, (KQJob, *self.__getnewargs__()), state or None  # type: ignore[attr-defined]


KQJob.__module__, KQJob.__qualname__ = "kq.job", "Job"


def as_kq(*values: Any, **named: Any) -> bytes:
    """The payload of a record of KQ, made without KQ."""
    with mock.patch.dict(
        sys.modules, {"kq": ModuleType("kq"), "kq.job": SimpleNamespace(Job=KQJob)}
    ):  # type: ignore[dict-item]
        return pickle.dumps(KQJob(*values, **named), 4)


FIELDS = {
    "id": "an id",
    "timestamp": 5_000,
    "topic": "t",
    "func": workerjobs.echo,
    "args": [1],
    "kwargs": {"x": 2},
    "timeout": 0,
    "key": None,
    "partition": 3,
}
