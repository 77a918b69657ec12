"""Decides which modules, functions and classes a child can import. Any thread; host and child."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

_can_be_imported: set[str] = set()


def can_be_imported(name: str) -> bool:
    """Whether a child can import a module by name. Modules that a plugin loader loaded from a file
    may not be importable.

    A module without information about its origin counts as importable.
    """
    if name in _can_be_imported:
        return True
    if name == "__main__":
        return False
    spec = getattr(sys.modules.get(name), "__spec__", None)
    if spec is None or not spec.has_location or _is_found(name):
        _can_be_imported.add(name)
        return True
    return False


def _is_found(name: str) -> bool:
    parent = name.rpartition(".")[0]
    try:
        path = sys.modules[parent].__path__ if parent else None
        return any(
            finder.find_spec(name, path) for finder in sys.meta_path if hasattr(finder, "find_spec")
        )
    except Exception:  # noqa: BLE001  (finders may be any code)
        return True


def is_found_by_name(thing: Any) -> bool:
    """Whether a child can import a function or class by its module and name."""
    module = getattr(thing, "__module__", None)
    if not isinstance(module, str) or module not in sys.modules or not can_be_imported(module):
        return False
    found: Any = sys.modules[module]
    for part in (getattr(thing, "__qualname__", None) or thing.__name__).split("."):
        found = getattr(found, part, None)
    return found is thing


def is_of_a_module(variables: Mapping[str, Any]) -> bool:
    """Whether these are the global variables of a module that a child can import."""
    name = variables.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    known = (
        module is not None
        and vars(module) is variables
        and getattr(module, "__spec__", None) is not None
    )
    return known and can_be_imported(str(name))
