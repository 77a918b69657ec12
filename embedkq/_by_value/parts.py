"""Takes functions and classes apart for the pickler, and locates objects for error messages. Pure;
any thread, host and child."""

from __future__ import annotations

import abc
import dis
import enum
import functools
import re
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from embedkq._by_value.rebuild import underlying_function

_PATH_CHARACTERS = 160
LRU_CACHE = type(functools.lru_cache(len))

_READING_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_NAME = re.compile(r"\b[^\W\d]\w*")
_ATTRIBUTES = ("__defaults__", "__kwdefaults__", "__annotations__", "__type_params__")
_IN_SKELETON = ("__module__", "__qualname__", "__slots__", "__orig_bases__", "__doc__")
_NEVER_COPIED = {"__dict__", "__weakref__", "_abc_impl", *_IN_SKELETON}
_COME_FIRST = (
    types.FunctionType,
    classmethod,
    staticmethod,
    property,
    str,
    bytes,
    int,
    float,
    type(None),
)
_MAKE_MEMBERS = ("__init__", "__new__", "_new_member_", "__new_member__")
_OF_EVERY_MEMBER = ("_value_", "_name_", "__objclass__", "_sort_order_")


def name_of(thing: Any) -> str:
    """Dotted name of a function or class, or of any other object's type. For messages."""
    name = getattr(thing, "__qualname__", None) or type(thing).__qualname__
    module = getattr(thing, "__module__", None)
    return f"{module}.{name}" if module else str(name)


# Functions.


def variables_of(function: types.FunctionType, with_notes: bool) -> dict[str, Any]:
    """The global variables that a function reads, with their present values.

    Args:
        with_notes: include variables that occur in string annotations.
    """
    names = _read_in(function.__code__)
    notes = [note for note in function.__annotations__.values() if isinstance(note, str)]
    names = names.union(*map(_NAME.findall, notes)) if notes and with_notes else names
    own = function.__globals__
    return {
        name: own[name]
        for name in names
        if name in own and name not in ("__name__", "__builtins__")
    }


@functools.lru_cache(maxsize=4096)
def _read_in(code: types.CodeType) -> frozenset[str]:
    names = {step.argval for step in dis.get_instructions(code) if step.opname in _READING_GLOBALS}
    return frozenset(names.union(*map(_read_in, _nested_in(code))))


@functools.lru_cache(maxsize=4096)
def _names_in(code: types.CodeType) -> frozenset[str]:
    return frozenset(code.co_names).union(*map(_names_in, _nested_in(code)))


def _nested_in(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def submodules_of(
    function: types.FunctionType, variables: Mapping[str, Any]
) -> Iterator[types.ModuleType]:
    """Modules that a function uses as attributes of their packages. In each process, `import
    package.module` must run once to set them."""
    enclosed = (content_of_cell(cell).get("cell_contents") for cell in function.__closure__ or ())
    waiting = [
        value for value in (*variables.values(), *enclosed) if isinstance(value, types.ModuleType)
    ]
    names = _names_in(function.__code__) if waiting else frozenset()
    while waiting:
        package = waiting.pop()
        for name in names:
            module = sys.modules.get(f"{package.__name__}.{name}")
            if module is not None:
                waiting.append(module)
                yield module


def attributes_of(function: types.FunctionType, with_notes: bool) -> dict[str, Any]:
    """All attributes of a function except those that its constructor takes.

    Args:
        with_notes: keep annotations unchanged. Otherwise replace them by their names.
    """
    attributes = {name: value for name in _ATTRIBUTES if (value := getattr(function, name, None))}
    if not with_notes and "__annotations__" in attributes:
        attributes["__annotations__"] = {
            name: note if isinstance(note, str) else name_of(note)
            for name, note in attributes["__annotations__"].items()
        }
    return {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        **attributes,
        **vars(function),
    }


def content_of_cell(cell: types.CellType) -> dict[str, Any]:
    """The content of a cell; empty if the variable is unassigned."""
    try:
        return {"cell_contents": cell.cell_contents}
    except ValueError:
        return {}


# Classes.


def skeleton_of(
    kind: type,
) -> tuple[Callable[..., type], tuple[type, str, tuple[type, ...], dict[str, Any]]]:
    """How to create an empty class: the callable, and metaclass, name, bases and namespace.

    The metaclass's own code ran when the class was defined. It does not run again, because what it
    needs may be missing.
    """
    own = vars(kind)
    namespace = {name: own[name] for name in _IN_SKELETON if own.get(name) is not None}
    return _maker_of(type(kind)), (
        type(kind),
        kind.__name__,
        kind.__bases__,
        {"__qualname__": kind.__qualname__, **namespace},
    )


def _maker_of(metaclass: type) -> Callable[..., type]:
    if metaclass is type:
        return type
    return abc.ABCMeta.__new__ if issubclass(metaclass, abc.ABCMeta) else maker_of(metaclass)


def maker_of(kind: type) -> Callable[..., Any]:
    """The interpreter's `__new__` that a class inherits, which runs no user code."""
    made_in_c = (
        base
        for base in kind.__mro__
        if "__new__" in vars(base) and not underlying_function(vars(base)["__new__"])
    )
    return next(made_in_c).__new__


def content_of_class(kind: type) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The content of a class: methods and plain values, other attributes, and hooks for
    subclasses."""
    methods: dict[str, Any] = {}
    others: dict[str, Any] = {}
    hooks: dict[str, Any] = {}
    for name, value in vars(kind).items():
        if name in _NEVER_COPIED or (
            isinstance(value, types.MemberDescriptorType) and value.__objclass__ is kind
        ):
            continue
        group = (
            hooks
            if name == "__init_subclass__"
            else methods
            if isinstance(value, _COME_FIRST)
            else others
        )
        group[name] = value
    return methods, others, hooks


def registered_with(kind: type) -> list[type]:
    """The classes that were registered with an abstract class (`register`)."""
    if "_abc_impl" not in vars(kind):
        return []
    get_dump: Any = vars(abc).get("_get_dump")
    return (
        [found for reference in get_dump(kind)[0] if (found := reference()) is not None]
        if get_dump
        else []
    )


# Enums.


def parts_of_enum(kind: enum.EnumMeta) -> tuple[Any, ...]:
    """The arguments to rebuild an Enum. An empty Enum cannot be created.

    Methods that create members are left out: they ran in the sender, what they use may not exist
    yet, and the members' attributes are set later.
    """
    members: dict[str, Any] = {
        name: member.value for name, member in vars(kind)["_member_map_"].items()
    }
    own = {name: value for name, value in _own_functions(kind).items() if name not in _MAKE_MEMBERS}
    return (
        type(kind),
        kind.__name__,
        kind.__qualname__,
        kind.__bases__,
        members,
        {**own, "__module__": kind.__module__},
    )


def content_of_enum(kind: enum.EnumMeta) -> tuple[dict[str, Any], dict[str, Any]]:
    """The attributes of an Enum's members by name, and those of the Enum."""
    members: dict[str, Any] = {
        name: vars(member) for name, member in vars(kind)["_member_map_"].items()
    }
    own = {
        name: {key: own[key] for key in own if key not in _OF_EVERY_MEMBER}
        for name, own in members.items()
    }
    functions = _own_functions(kind)
    attributes = {name: value for name, value in functions.items() if name in _MAKE_MEMBERS}
    for name, value in vars(kind).items():
        plain = not name.startswith("_") or name in ("__doc__", "__annotations__", "_boundary_")
        if plain and name not in members and name not in functions:
            attributes[name] = value
    return own, attributes


def _own_functions(kind: type) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(kind).items()
        if getattr(underlying_function(value), "__module__", None) == kind.__module__
    }


# Paths for messages.


def path_of(trail: Sequence[Any], owners: Mapping[int, str]) -> str:
    """The path from an object to the innermost object of the trail, for messages; empty if both are
    the same.

    Args:
        trail: the innermost object, followed by the objects that contain it.
        owners: names of the functions and classes whose content is in the trail, by the content's
            id.
    """
    end = next((number for number, value in enumerate(trail) if id(value) in owners), None)
    steps = list(reversed(trail if end is None else trail[:end]))
    path = "".join(
        _step(outer, inner, before)
        for before, outer, inner in zip([None, *steps], steps, steps[1:], strict=False)
    )
    path = (
        path
        if len(path) <= _PATH_CHARACTERS
        else f"{path[: _PATH_CHARACTERS // 2]}...{path[-_PATH_CHARACTERS // 2 :]}"
    )
    if end is None:
        return f"at {path}" if path else ""
    variable, closed, rest = path.partition(
        "]"
    )  # the first step is a name in the function's or class's variables
    name = variable[2:-1].replace("cell_contents", "its value")
    return f"{name}{rest} in {owners[id(trail[end])]}" if closed else f"in {owners[id(trail[end])]}"


def _step(outer: Any, inner: Any, before: Any) -> str:
    if isinstance(outer, dict):
        key = next((key for key, value in outer.items() if value is inner), None)
        return (
            ""
            if key is None
            else f".{key}"
            if getattr(before, "__dict__", None) is outer
            else f"[{key!r}]"
        )
    if isinstance(outer, (list, tuple)):
        return next((f"[{number}]" for number, value in enumerate(outer) if value is inner), "")
    return ""
