"""Reducers for objects that pickle refuses, or that it would copy although they belong to one
process. Pure; any thread, host and child."""

from __future__ import annotations

import copyreg
import dataclasses
import functools
import importlib
import os
import pickle
import sys
import threading
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any

from embedkq._by_value import importable, parts

LEFT_TO_DILL = (
    types.MethodType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.MappingProxyType,
    type({}.keys()),
    type({}.values()),
    type({}.items()),
    super,
    slice,
    property,
    classmethod,
    staticmethod,
    vars(typing)["_GenericAlias"],
    type(dataclasses.MISSING),
    *(
        vars(dataclasses)[name]
        for name in ("_HAS_DEFAULT_FACTORY_CLASS", "_FIELD_BASE")
        if name in vars(dataclasses)
    ),
    *(type(vars(dataclasses)[name]) for name in ("KW_ONLY",) if name in vars(dataclasses)),
)
"""Types that dill pickles well. Other types that it accepts (locks with their state, files, weak
references) are useless in another process."""

_NEW_OBJECT = vars(copyreg)["__newobj__"]
_OF_ONE_PROCESS = {
    "threading.Event",
    "threading.Semaphore",
    "threading.Barrier",
    "threading.Thread",
    "queue.Queue",
    "concurrent.futures._base.Future",
    "concurrent.futures._base.Executor",
}


class _Called:
    """A callable that is created by a call when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._reduced = function, args

    def __call__(self) -> None:
        raise TypeError("this object is only called when it is unpickled")

    def __reduce__(self) -> Any:
        return self._reduced


def reduced(value: Any, kind: type) -> Any:
    """How to rebuild the value in another process, as `__reduce__` returns it. NotImplemented if
    pickle or dill handles it well.

    Raises:
        pickle.PicklingError: a copy would be useless.
    """
    reducer = _REDUCERS.get(kind)
    if reducer is not None:
        return reducer(value)
    for name in ("stdin", "stdout", "stderr"):
        if value is getattr(sys, name):
            return getattr, (sys, name)
    if not _OF_ONE_PROCESS.isdisjoint(map(parts.name_of, kind.__mro__)):
        raise pickle.PicklingError(f"{kind.__name__!r} objects work within one process only")
    if type(kind.__new__) is types.FunctionType and not importable.is_found_by_name(kind):
        return _reduced_without_new(value, kind)
    return NotImplemented


def _reduced_without_new(value: Any, kind: type) -> Any:
    # A singleton class looks for its object in __new__, which does not exist yet while the class is
    # being rebuilt.
    how = value.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if isinstance(how, tuple) and how[0] is _NEW_OBJECT and how[1] == (kind,):
        return parts.maker_of(kind), *how[1:]
    return how


def reduced_cache(value: Any) -> Any:
    """Like `reduced`, for a function with `functools.lru_cache`. The cache's content is not
    copied."""
    maker = _Called(functools.lru_cache, *value.cache_parameters().values())
    return maker, (value.__wrapped__,), vars(value)


def _reduced_module(module: types.ModuleType) -> Any:
    if sys.modules.get(module.__name__) is not module or module.__name__ == "__main__":
        raise pickle.PicklingError(f"a child cannot import the module {module.__name__}")
    return importlib.import_module, (module.__name__,)


def _reduced_method(method: types.MethodType) -> Any:
    # random.randint is a method of a private object of its module. Pickle it by name, or every job
    # would draw the same numbers.
    module = sys.modules.get(method.__module__ or "")
    name = getattr(method, "__name__", "")
    return (
        (getattr, (module, name))
        if module and vars(module).get(name) is method and module.__name__ != "__main__"
        else NotImplemented
    )


def _reduced_environment(environment: Any) -> Any:
    return (getattr, (os, "environ")) if environment is os.environ else NotImplemented


def _by_name_or(reducer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: NotImplemented if importable.is_found_by_name(value) else reducer(value)


def _reduced_type_variable(variable: Any) -> Any:
    names = ("bound", "covariant", "contravariant", "infer_variance")
    options = {
        option: value for option in names if (value := getattr(variable, f"__{option}__", None))
    }
    if hasattr(variable, "has_default") and variable.has_default():  # Python 3.13
        options["default"] = variable.__default__
    maker: Callable[..., Any] = type(variable)
    return (
        functools.partial(
            maker, variable.__name__, *getattr(variable, "__constraints__", ()), **options
        ),
        (),
    )


def _reduced_type_alias(alias: Any) -> Any:
    maker: Callable[..., Any] = type(alias)
    return (
        functools.partial(
            maker, alias.__name__, alias.__value__, type_params=alias.__type_params__
        ),
        (),
    )


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    # A lock is created new and unlocked, as if the child had run the script.
    type(threading.Lock()): lambda _: (threading.Lock, ()),
    type(threading.RLock()): lambda _: (threading.RLock, ()),
    threading.Condition: lambda condition: (threading.Condition, (vars(condition)["_lock"],)),
    threading.local: lambda _: (threading.local, ()),
    weakref.WeakKeyDictionary: lambda mapping: (weakref.WeakKeyDictionary, (dict(mapping),)),
    weakref.WeakSet: lambda members: (weakref.WeakSet, (list(members),)),
    weakref.WeakValueDictionary: lambda mapping: (weakref.WeakValueDictionary, (dict(mapping),)),
    types.ModuleType: _reduced_module,
    types.MethodType: _reduced_method,
    type(os.environ): _reduced_environment,
    typing.NewType: _by_name_or(lambda kind: (typing.NewType, (kind.__name__, kind.__supertype__))),
    **{
        vars(typing)[name]: _by_name_or(_reduced_type_variable)
        for name in ("TypeVar", "ParamSpec", "TypeVarTuple")
        if name in vars(typing)
    },
}
if "TypeAliasType" in vars(typing):  # Python 3.12
    _REDUCERS[vars(typing)["TypeAliasType"]] = _by_name_or(_reduced_type_alias)
