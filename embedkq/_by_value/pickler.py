"""Pickles objects together with the functions and classes that a child cannot import. The only user
of dill. Any thread; host and child.

Objects that a module has under their own names are pickled by name. Functions and classes of the
host's `__main__`, lambdas, and functions and classes defined inside a function travel by value.
Each one is created empty and memoized before it is filled, so cycles end. The pickle calls only
functions that version 0.1 has too (the standard library, dill, `embedkq.codec`), so that version
0.1 can load it.
"""

from __future__ import annotations

import abc
import builtins
import enum
import io
import marshal
import pickle
import types
from collections import deque
from collections.abc import Mapping
from typing import Any

import dill

from embedkq._by_value import importable, parts, rebuild, reducers
from embedkq._by_value.rebuild import fingerprint, own_or_rebuilt

_PROTOCOL = 5
_PythonPickler: Any = (
    pickle._Pickler
)  # the Python implementation, whose methods can be overridden; mypy knows little about it
_FILL, _NEW_ENUM = vars(rebuild)["_fill"], vars(rebuild)["_new_enum"]
_LOAD_TYPE, _NAMES_OF_TYPES = dill._dill._load_type, dill._dill._typemap


def dumps(value: Any, with_notes: bool = True) -> bytes:
    """Pickle an object.

    Args:
        with_notes: functions keep their annotations. Otherwise annotations are replaced by their
            names.

    Raises:
        pickle.PicklingError: a part of the object cannot be pickled; the message says which.
            Exceptions from the object's own code are raised too.
    """
    buffer = io.BytesIO()
    pickler = _ByValuePickler(buffer, with_notes)
    try:
        pickler.dump(value)
    except RecursionError:
        raise
    except Exception as error:
        where = parts.path_of(pickler.trail, pickler.owners)
        if not where:
            raise
        raise pickle.PicklingError(f"{error} ({where})") from error
    return buffer.getvalue()


def check_loads(payload: bytes) -> None:
    """Unpickle as a child would, without this process's `__main__`. Raises what unpickling
    raises."""
    _UnpicklerOfChild(io.BytesIO(payload)).load()


class _UnpicklerOfChild(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "__main__":
            raise AttributeError(
                f"the pickle refers to {name} of the main script by name, and a child does not"
                " import the main script"
            )
        found = super().find_class(module, name)
        return _take_rebuilt if found is own_or_rebuilt else found


def _take_rebuilt(qualname: str, digest: str, rebuilt: Any) -> Any:
    return rebuilt


class _Raw:
    """A function or class to pickle by value. In the pickle, `own_or_rebuilt` of it stands for the
    original object."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class _ModuleGlobals:
    """The global variables of a module that a child can import."""

    __slots__ = ("module",)

    def __init__(self, module: str) -> None:
        self.module = module


class _ByValuePickler(_PythonPickler):  # type: ignore[misc]
    """Pickles one object. Empty functions and classes are filled in three steps, because loading
    runs code in between (for example `__hash__` of a key): methods of classes, then what functions
    refer to, then the other attributes of classes. The bases of a class come first."""

    # Undo the changes that dill makes for the whole process.
    dispatch = {
        **{
            kind: save
            for kind, save in _PythonPickler.dispatch.items()
            if save.__module__ == "pickle"
        },
        dict: _PythonPickler.save_dict,
        type: _PythonPickler.save_type,
        types.FunctionType: _PythonPickler.save_global,
    }

    def __init__(self, buffer: io.BytesIO, with_notes: bool) -> None:
        super().__init__(buffer, _PROTOCOL)
        self._with_notes = with_notes
        self.trail: list[Any] = []
        """After a failure: the objects that were being saved, innermost first."""
        self.owners: dict[int, str] = {}
        """The names of the owners of the content that is being saved, by id, for messages."""
        self._raws: dict[int, _Raw] = {}
        self._globals: dict[int, dict[str, Any] | _ModuleGlobals] = {}
        self._open_classes = 0
        self._draining = False
        self._methods: deque[_Raw] = deque()
        self._references: deque[Any] = deque()
        self._attributes: deque[_Raw] = deque()
        self._last: list[tuple[_Raw, dict[str, Any]]] = []

    def dump(self, value: Any) -> None:
        self.write(pickle.PROTO + bytes([_PROTOCOL]))
        self.framer.start_framing()
        self.save(value)
        # Fill hooks last. Otherwise complete base classes would treat the empty classes here as
        # subclasses of the user.
        for raw, hooks in self._last:
            self._fill(raw, {}, hooks)
        self._drain()
        self.write(pickle.STOP)
        self.framer.end_framing()

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        try:
            super().save(value, save_persistent_id)
        except Exception:
            self.trail.append(value)
            raise

    def save_reduce(self, func: Any, args: Any, *rest: Any, **more: Any) -> None:
        if type(func) is types.FunctionType and not importable.is_found_by_name(
            func
        ):  # the pickle calls it next, so it must be complete
            self.save(func)
            self.write(pickle.POP)
            self._drain()
        super().save_reduce(func, args, *rest, **more)

    def reducer_override(self, value: Any) -> Any:
        """The base class calls this first for every object that it has not saved yet."""
        kind = type(value)
        if kind is types.FunctionType or kind is parts.LRU_CACHE or issubclass(kind, type):
            if importable.is_found_by_name(value) or value in (
                type(None),
                type(...),
                type(NotImplemented),
            ):
                return NotImplemented
            if value in _NAMES_OF_TYPES:
                return _LOAD_TYPE, (_NAMES_OF_TYPES[value],)
            return own_or_rebuilt, (value.__qualname__, fingerprint(value), self._raw(value))
        if kind in self.dispatch and kind is not types.MethodType:
            return NotImplemented
        return reducers.reduced(value, kind)

    def _raw(self, value: Any) -> _Raw:
        return self._raws.setdefault(id(value), _Raw(value))

    def _save_raw(self, raw: _Raw) -> None:
        if isinstance(raw.value, types.FunctionType):
            self._save_function(raw)
        elif isinstance(raw.value, type):
            self._save_class(raw)
        else:
            self.save_reduce(*reducers.reduced_cache(raw.value), obj=raw)

    # Creating empty objects.

    def _save_function(self, raw: _Raw) -> None:
        function = raw.value
        for name, cell in zip(
            function.__code__.co_freevars, function.__closure__ or (), strict=True
        ):
            if id(cell) not in self.memo:
                self.owners[id(cell)] = f"the variable {name!r} of {parts.name_of(function)}"
                self.save_reduce(types.CellType, (), obj=cell)
                self.write(pickle.POP)
                self._references.append(cell)
        code, variables = function.__code__, self._globals_of(function)
        self.save_reduce(
            types.FunctionType,
            (code, variables, function.__name__, None, function.__closure__),
            obj=raw,
        )
        self._references.append(raw)
        if not self._draining:
            self._drain()

    def _globals_of(self, function: types.FunctionType) -> dict[str, Any] | _ModuleGlobals:
        # Functions that share global variables get the same dict, because they may assign to them.
        own = function.__globals__
        if id(own) not in self._globals:
            name = own.get("__name__", "__main__")
            known = {key: own[key] for key in ("__package__",) if own.get(key)}
            variables = {"__name__": name, "__builtins__": builtins, **known}
            self._globals[id(own)] = (
                _ModuleGlobals(name) if importable.is_of_a_module(own) else variables
            )
        return self._globals[id(own)]

    def _save_class(self, raw: _Raw) -> None:
        kind = raw.value
        self._open_classes += 1
        try:
            if isinstance(kind, enum.EnumMeta):
                self.save_reduce(_NEW_ENUM, parts.parts_of_enum(kind), obj=raw)
            else:
                maker, (metaclass, name, bases, namespace) = parts.skeleton_of(kind)
                # Use the bases from the pickle. The host's own bases would register a class that is
                # created only for comparison.
                bases = bases if "<" in kind.__qualname__ else tuple(map(self._rawly, bases))
                self.save_reduce(
                    maker,
                    (*(() if maker is type else (metaclass,)), name, bases, namespace),
                    obj=raw,
                )
        finally:
            self._open_classes -= 1
        self._methods.append(raw)
        self._attributes.append(raw)
        self._drain()

    def _rawly(self, base: type) -> Any:
        return base if importable.is_found_by_name(base) else self._raw(base)

    # Filling them.

    def _drain(self) -> None:
        if self._open_classes:
            return
        was_draining, self._draining = self._draining, True
        while self._methods or self._references or self._attributes:
            if self._methods:
                self._fill_methods(self._methods.popleft())
            elif self._references:
                self._fill_references(self._references.pop())
            else:
                self._fill_attributes(self._attributes.popleft())
        self._draining = was_draining

    def _fill_methods(self, raw: _Raw) -> None:
        if isinstance(raw.value, enum.EnumMeta):
            self._fill(raw, *parts.content_of_enum(raw.value))
            return
        methods, _, hooks = parts.content_of_class(raw.value)
        self._fill(raw, {}, methods)
        if hooks:
            self._last.append((raw, hooks))

    def _fill_references(self, part: Any) -> None:
        if isinstance(part, types.CellType):
            self._fill(part, {}, parts.content_of_cell(part))
            return
        function = part.value
        variables = (
            {}
            if isinstance(self._globals_of(function), _ModuleGlobals)
            else parts.variables_of(function, self._with_notes)
        )
        for module in parts.submodules_of(function, variables):
            self.save(module)
            self.write(pickle.POP)
        self._fill(part, variables, parts.attributes_of(function, self._with_notes))

    def _fill_attributes(self, raw: _Raw) -> None:
        if isinstance(raw.value, enum.EnumMeta):
            return
        self._fill(raw, {}, parts.content_of_class(raw.value)[1])
        for registered in parts.registered_with(raw.value):
            self.save_reduce(abc.ABCMeta.register, (raw, registered))
            self.write(pickle.POP)

    def _fill(self, part: Any, variables: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        if not variables and not attributes:
            return
        content = (part, variables, attributes)
        self.owners[id(content)] = self.owners.get(id(part)) or parts.name_of(part.value)
        self.save_reduce(_FILL, content)
        self.write(pickle.POP)

    # Types that the base class does not support.

    def _save_module_globals(self, variables: _ModuleGlobals) -> None:
        self.save(variables.module)
        self.save("__dict__")
        self.write(pickle.STACK_GLOBAL)
        self.memoize(variables)

    def _save_code(self, code: types.CodeType) -> None:
        self.save_reduce(marshal.loads, (marshal.dumps(code),), obj=code)


_ByValuePickler.dispatch.update(
    {
        kind: dill.Pickler.dispatch[kind]
        for kind in reducers.LEFT_TO_DILL
        if kind in dill.Pickler.dispatch
    }
)
_ByValuePickler.dispatch[_Raw] = _ByValuePickler._save_raw
_ByValuePickler.dispatch[_ModuleGlobals] = _ByValuePickler._save_module_globals
_ByValuePickler.dispatch[types.CodeType] = _ByValuePickler._save_code
