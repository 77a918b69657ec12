"""What the main script's functions and classes keep on their way to a child, and what is refused
when it is enqueued."""

from __future__ import annotations

import datetime
import io
import marshal
import os
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mainscripts import HARNESS, run_main
from support import ROOT, run_script

from embedkq import codec

CLASSES = {
    "generic": """
from typing import Callable, Generic, NewType, ParamSpec, TypeVar
T, Number, P = TypeVar("T"), TypeVar("Number", int, float), ParamSpec("P")
UserId = NewType("UserId", int)
class Box(Generic[T]):
    def __init__(self, value: T) -> None: self.value = value
    def get(self) -> T: return self.value
class IntBox(Box[int]):
    def get(self): return super().get() + 1
class Both(IntBox, Generic[Number]): pass
def unbox(box): return type(box).__name__, box.get(), Box[str].__args__, Both.__parameters__ == (Number,), UserId(3), T.__name__
assert results((unbox, (IntBox(3),)), (unbox, (Box("a"),)), (Both, (1,)))[:2] == [
    ("IntBox", 4, (str,), True, 3, "T"), ("Box", "a", (str,), True, 3, "T")]
both, = results((lambda: Both(5),))
assert type(both) is Both and both.get() == 6
""",
    "metaclass": """
class Table(type):
    made = []
    def __new__(meta, name, bases, namespace, *, key):
        made = super().__new__(meta, name, bases, {**namespace, "key": key, "columns": [n for n in namespace if n[0] != "_"]})
        meta.made.append(name)
        return made
    def __init__(cls, *args, key): super().__init__(*args)
    def __getitem__(cls, number): return cls.key, number
    def __setattr__(cls, name, value): raise AttributeError("tables do not change")
class Order(metaclass=Table, key="o"):
    price = 3
    def total(self): return self.price * 2
class Large(Order, key="l"): pass
def use(order): return order.total(), type(order)[1], type(order).columns, type(type(order)).__name__, sorted(Table.made)
assert results((use, (Order(),)), (use, (Large(),))) == [
    (6, ("o", 1), ["price", "total"], "Table", ["Large", "Order"]), (6, ("l", 1), [], "Table", ["Large", "Order"])]
assert Table.made == ["Order", "Large"], Table.made
""",
    "registry of derived classes": """
class Plugin:
    registry = {}
    def __init_subclass__(cls, *, tag, **more):
        super().__init_subclass__(**more)
        cls.tag = tag
        Plugin.registry[tag] = cls
class Mail(Plugin, tag="mail"):
    def send(self): return "mailed"
class Text(Plugin, tag="text"):
    def send(self): return Plugin.registry["mail"]().send() + " and texted"
def send(tag):
    class Later(Plugin, tag="later"): pass
    return Plugin.registry[tag]().send(), sorted(Plugin.registry), Later.tag
assert results((send, ("text",))) == [("mailed and texted", ["later", "mail", "text"], "later")]
assert Plugin.registry == {"mail": Mail, "text": Text}
""",
    "named tuples and typed dicts": """
from collections import namedtuple
from typing import Generic, NamedTuple, TypedDict, TypeVar
class Size(NamedTuple):
    '''A size.'''
    width: int
    height: int = 1
    def area(self): return self.width * self.height
    @property
    def double(self): return self._replace(width=self.width * 2)
    @classmethod
    def square(cls, side): return cls(side, side)
class Point(namedtuple("Point", "x y", defaults=(0,))):
    def flipped(self): return Point(self.y, self.x)
class Options(TypedDict, total=False):
    color: str
def measure(size): return (
    size.area(), Size(4), Size.square(2).double, Size.__doc__, Size.__annotations__, size._asdict(), Size._field_defaults)
def flip(point): return point.flipped(), repr(point)
assert results((measure, (Size(2, 3),)), (Size(2, 3).area,), (flip, (Point(1),))) == [
    (6, Size(4, 1), Size(4, 2), "A size.", {"width": int, "height": int}, {"width": 2, "height": 3}, {"height": 1}),
    6, (Point(0, 1), "Point(x=1, y=0)")]
made, = results((lambda: [Size(1), Options(color="red"), Options.__total__, sorted(Options.__annotations__)],))
assert made == [Size(1), {"color": "red"}, False, ["color"]] and type(made[0]) is Size
""",
    "abstract classes and protocols": """
import abc
from typing import Protocol, runtime_checkable
class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...
class Square(Shape):
    def area(self): return 4
@Shape.register
class Foreign: pass
@runtime_checkable
class Quacks(Protocol):
    def quack(self) -> str: ...
class Duck:
    def quack(self): return "quack"
def check(duck, shape):
    try:
        Shape()
    except TypeError:
        refused = True
    kinds = isinstance(duck, Quacks), isinstance(shape, Quacks), isinstance(shape, Shape), isinstance(Foreign(), Shape)
    return *kinds, shape.area(), refused
assert results((check, (Duck(), Square()))) == [(True, False, True, True, 4, True)]
""",
    "data classes": """
import dataclasses
from typing import Optional
@dataclasses.dataclass(slots=True, frozen=True, order=True, kw_only=True)
class Item:
    price: int
    tags: list = dataclasses.field(default_factory=list, compare=False)
    next: Optional["Item"] = None
    def total(self): return self.price + len(self.tags)
@dataclasses.dataclass
class Derived:
    width: int
    scale: dataclasses.InitVar[int] = 3
    area: int = dataclasses.field(init=False)
    def __post_init__(self, scale): self.area = self.width * scale
def use(item): return (
    item.total(), Item(price=7) > item, [field.name for field in dataclasses.fields(item)], dataclasses.replace(item, price=9),
    Derived(2).area)
told, = results((use, (Item(price=1, tags=["a"]),)))
assert told == (2, True, ["price", "tags", "next"], Item(price=9), 6) and type(told[3]) is Item, told
""",
    "slots, private names and descriptors": """
import functools, threading
class Field:
    def __set_name__(self, owner, name): self.name = name
    def __get__(self, value, owner=None): return self if value is None else self.name
class Base:
    __slots__ = ("a", "__secret", "__dict__", "__weakref__")
    field, SEED = Field(), 5
    def __init__(self): self.a, self.__secret, self.free = 1, 2, 3
    def __hidden(self): return self.a, self.__secret, self.free, self.field
    def hidden(self): return self.__hidden
    def __hash__(self): return self.SEED
    def __eq__(self, other): return type(other) is type(self)
    class Inner:
        def outer(self): return Base().a
class Report:
    def __init__(self): self.lock = threading.RLock()
    @functools.cached_property
    def total(self):
        with self.lock:
            return 42
    @functools.singledispatchmethod
    def kind(self, value): return "?"
    @kind.register
    def _(self, value: int): return "int"
    part = functools.partialmethod(lambda self, a, b: (a, b), 1)
TABLE = {Base(): Base.Inner()}
def use(report): return report.total, Report().total, report.kind(1), report.kind(""), report.part(2), TABLE[Base()].outer()
assert results((Base().hidden(),), (use, (Report(),))) == [(1, 2, 3, "field"), (42, 42, "int", "?", (1, 2), 1)]
""",
    "classes that keep their only object": """
class Config:
    only = None
    def __new__(cls):
        if cls.only is None:
            cls.only = super().__new__(cls)
            cls.only.color = "red"
        return cls.only
class Lazy:
    def __new__(cls):
        if not hasattr(cls, "only"):
            cls.only = super().__new__(cls)
        return cls.only
class Once(type):
    made = {}
    def __call__(cls):
        if cls not in Once.made:
            Once.made[cls] = super().__call__()
        return Once.made[cls]
class Store(metaclass=Once):
    pass
config, lazy, store = Config(), Lazy(), Store()
def use(given): return Config() is config is given, Config.only.color, Lazy() is lazy, Store() is store
assert results((use, (config,))) == [(True, "red", True, True)]
""",
    "enums": """
import enum
class Color(enum.Enum):
    '''Colors.'''
    RED, BLUE = "r", "b"
    @classmethod
    def _missing_(cls, value): return cls.RED
    def __str__(self): return "color " + self.value
class Access(enum.IntFlag):
    READ, WRITE = 1, 2
    BOTH = READ | WRITE
def use(color): return Color("?"), str(color), Access.READ | Access.WRITE, Access(3), Color.__doc__
assert results((use, (Color.BLUE,))) == [(Color.RED, "color b", Access.BOTH, Access.BOTH, "Colors.")]
""",
    "pydantic": """
import enum
from typing import Generic, Optional, TypeVar
import pydantic
T = TypeVar("T")
class Color(enum.Enum):
    RED = "r"
class Item(pydantic.BaseModel):
    name: str
    price: float = 1.5
    sub: Optional["Item"] = None
    tags: list[str] = pydantic.Field(default_factory=list)
    _hidden: int = pydantic.PrivateAttr(default=3)
    @pydantic.field_validator("name")
    @classmethod
    def upper(cls, name): return name.upper()
    @pydantic.computed_field
    @property
    def double(self) -> float: return self.price * 2
class Special(Item):
    model_config = {"frozen": True}
    color: Color = Color.RED
class Page(pydantic.BaseModel, Generic[T]):
    data: T
def use(item):
    try:
        Item(name=3)
    except pydantic.ValidationError as error:
        kind = error.errors()[0]["type"]
    return item.sub.name, item.double, Item(name="z").model_dump(include={"name", "price"}), kind, item._hidden
def special(item): return item.color, isinstance(item, Item)
def page(value): return value.data
told, red, data, made = results(
    (use, (Item(name="a", sub=Item(name="b")),)), (special, (Special(name="s"),)), (page, (Page[int](data=3),)), (lambda: Item(name="r"),))
assert told == ("B", 3.0, {"name": "Z", "price": 1.5}, "string_type", 3) and red == (Color.RED, True) and data == 3
assert type(made) is Item and made.name == "R"
""",
}

FUNCTIONS = {
    "what is imported from within C": """
import datetime, pickle
def year(): return datetime.datetime.strptime("2024-05-06", "%Y-%m-%d").year
def day(): return datetime.date(2024, 1, 2).strftime("%d.%m.%Y")
def kept(): return pickle.loads(pickle.dumps(datetime.timedelta(1)))
assert results((year,), (day,), (kept,), (lambda: __builtins__ is not None,)) == [2024, "02.01.2024", datetime.timedelta(1), True]
""",
    "submodules": """
import concurrent.futures.thread, email.mime.text, logging.handlers, urllib.request, xml.etree.ElementTree
def host(): return urllib.request.Request("http://example.org/a").host
def tag(): return xml.etree.ElementTree.fromstring("<a/>").tag
def handler(): return logging.handlers.RotatingFileHandler.__name__
def pool():
    with concurrent.futures.thread.ThreadPoolExecutor(1) as executor: return executor.submit(lambda: 1).result()
def inner():
    import email.mime.text
    return lambda: (lambda: email.mime.text.MIMEText("x").get_payload())()
import json
assert not {"xml.etree", "email.mime"} & set(subprocess.run(
    [sys.executable, "-c", "import sys, embedkq._child.runner; print(*sys.modules)"], capture_output=True, text=True).stdout.split())
assert results((host,), (tag,), (handler,), (pool,), (inner(),)) == ["example.org", "a", "RotatingFileHandler", 1, "x"]
""",
    "all that a function is": """
import functools
class Unit: pass
def labelled(name):
    def outer(function):
        @functools.wraps(function)
        def inner(*args, **more): return name, function(*args, **more)
        return inner
    return outer
@labelled("L")
def work(a: int, b: "Unit" = 2, *, c: Unit = 4) -> str:
    "Work hard."
    return a, b, c
work.limit = 9
def told():
    from typing import get_type_hints
    inner = work.__wrapped__
    hints = {name: kind.__name__ for name, kind in get_type_hints(inner).items()}
    return (work.__doc__, work.__name__, work.limit, inner.__defaults__, inner.__kwdefaults__, hints, inner.__qualname__, inner.__module__)
assert results((work, (1,)), (told,)) == [("L", (1, 2, 4)), (
    "Work hard.", "work", 9, (2,), {"c": 4}, {"a": "int", "b": "Unit", "c": "Unit", "return": "str"}, "work", "__main__")]
""",
    "globals that functions share and change": """
count, log = 0, []
def bump():
    global count
    count += 1
    log.append(count)
def twice():
    bump(); bump()
    return count, log
def price(): return RATE * 2
RATE = 3
assert results((twice,), (twice,), (price,)) == [(2, [1, 2]), (2, [1, 2]), 6] and count == 0 and log == []
RATE = 4
assert results((price,)) == [8]
""",
    "caches and dispatch": """
import functools
@functools.lru_cache(maxsize=None)
def fib(n):
    "Fibonacci."
    return n if n < 2 else fib(n - 1) + fib(n - 2)
@functools.cache
def five(): return 5
@functools.singledispatch
def kind(value): return "object"
@kind.register
def _(value: int): return "int"
@kind.register(str)
def _(value): return "str"
def use(): return fib(10), fib.__doc__, fib.cache_parameters()["maxsize"], five(), kind(1), kind("a"), kind(1.0)
assert results((use,), (fib, (20,)), (kind, (1,))) == [(55, "Fibonacci.", None, 5, "int", "str", "object"), 6765, "int"]
((func, _, _), _), = there((fib, (5,)))
assert func is fib
""",
    "locks are free": """
import threading
LOCK, RLOCK, CONDITION, LOCAL = threading.Lock(), threading.RLock(), threading.Condition(), threading.local()
LOCK.acquire(); RLOCK.acquire(); CONDITION.acquire()
class Account:
    def __init__(self): self.lock, self.money = threading.RLock(), 1
    def pay(self):
        with self.lock, LOCK, RLOCK, CONDITION:
            CONDITION.notify_all()
            LOCAL.seen = True
            self.money += 1
        return self.money
account = Account()
account.lock.acquire()
assert results((account.pay,)) == [2]
kept, lock = results((lambda: account,), (threading.RLock,))
assert kept.lock.acquire(blocking=False) and lock.acquire(blocking=False)
""",
    "what belongs to a module goes by name": """
import random, sys
from logging import getLogger
from os import environ
from random import randint
environ["KEPT_HERE"] = "hush-hush"
log, out = getLogger("shop"), sys.stderr
def draw(): return [randint(0, 2**60) for _ in range(3)]
def use():
    import logging, os
    return environ is os.environ, log is logging.getLogger("shop"), out is sys.stderr
a, b = codec.encode_call(draw, (), {}), codec.encode_call(use, (), {})
assert len(a) < 1000 and b"hush-hush" not in b
one, two = results((draw,), (draw,))
assert one != two and results((use,)) == [(True, True, True)]
""",
    "a name that only looks like a global": """
import sqlite3
connection = sqlite3.connect(":memory:")
class Store:
    connection = None
def ask(): return Store().connection
assert results((ask,)) == [None]
""",
    "a long chain of helpers": """
exec("def f0(): return 0\\n" + "".join(f"def f{n}(): return f{n - 1}() + 1\\n" for n in range(1, 400)))
assert results((f399,)) == [399]
""",
    "contexts, coroutines and generators": """
import asyncio, contextlib
@contextlib.contextmanager
def opened(value): yield value
async def numbers():
    for number in range(3): yield number
async def gather(): return [number async for number in numbers()]
def use():
    with opened(4) as value: return value
assert results((use,), (gather,)) == [4, [0, 1, 2]]
""",
}


@pytest.mark.parametrize(
    "body", [*CLASSES.values(), *FUNCTIONS.values()], ids=[*CLASSES, *FUNCTIONS]
)
def test_nothing_of_it_is_lost(tmp_path: Path, body: str) -> None:
    run_main(tmp_path, body)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="this syntax came with Python 3.12")
def test_type_parameters_are_not_lost(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
def first[T](items: list[T]) -> T: return items[0]
class Box[T]:
    def __init__(self, value: T): self.value = value
type Names = list[str]
def use(box: Box[int]) -> Names: return [box.value, str(Names), first.__type_params__[0].__name__]
assert results((first, ([3],)), (use, (Box(2),))) == [3, [2, "Names", "T"]]
""",
    )


def test_what_a_function_defines_travels_with_its_modules_globals(tmp_path: Path) -> None:
    """A function or class of a module that is no global of it: the child imports the module."""
    (tmp_path / "shop.py").write_text("""
import threading
LOCK, COUNT = threading.Lock(), []
def make():
    class Local:
        def count(self):
            with LOCK: COUNT.append(1)
            return len(COUNT)
    return lambda: (Local().count(), Local().count())
""")
    run_main(
        tmp_path,
        """
import shop
os.environ["PYTHONPATH"] += os.pathsep + os.path.dirname(__file__)
assert results((shop.make(),), (shop.make(),)) == [(1, 2), (3, 4)] and shop.COUNT == []
""",
    )


def test_a_module_of_a_package_that_is_run_finds_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "prices.py").write_text("RATE = 3\ndef rate(): return RATE\n")
    (tmp_path / "shop" / "app.py").write_text(
        HARNESS
        + """
from .prices import rate
def price(number):
    from . import prices
    return number * rate() + prices.RATE
assert __name__ == "__main__" and results((price, (2,)), (rate,)) == [9, 3]
print("reached the end")
"""
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-m", "shop.app"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment,
        cwd=tmp_path,
    )
    assert done.stdout == "reached the end\n", done.stderr


def test_a_function_of_a_module_that_no_child_finds_travels_by_value(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "tax.py").write_text(
        "RATE = 2\nclass Price: rate = RATE\ndef tax(number): return number * Price.rate\n"
    )
    run_main(
        tmp_path,
        """
import importlib.util
spec = importlib.util.spec_from_file_location("tax", os.path.join(os.path.dirname(__file__), "plugins", "tax.py"))
sys.modules["tax"] = tax = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tax)
assert results((tax.tax, (3,))) == [6]
""",
    )


def test_annotations_that_cannot_travel_are_told_by_name(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
import threading
class Session:
    done = threading.Event()
def work(number: int, session: Session = None) -> "Session": return number
def notes(): return work.__annotations__
assert results((work, (1,)), (notes,)) == [1, {"number": "builtins.int", "session": "__main__.Session", "return": "Session"}]
""",
    )


REFUSED = {
    "threading.Event()": "'Event' objects work within one process only",
    "threading.Semaphore(0)": "'Semaphore' objects work within one process only",
    "threading.Barrier(2)": "'Barrier' objects work within one process only",
    "threading.Thread(target=len)": "'Thread' objects work within one process only",
    "queue.Queue()": "'Queue' objects work within one process only",
    "queue.SimpleQueue()": "SimpleQueue",
    "concurrent.futures.Future()": "'Future' objects work within one process only",
    "concurrent.futures.ThreadPoolExecutor(1)": "'ThreadPoolExecutor' objects work within one process only",
    "open(__file__)": "TextIOWrapper",
    "open(__file__, 'rb')": "BufferedReader",
    "socket.socket()": "socket",
    "sqlite3.connect(':memory:')": "Connection",
    "contextvars.ContextVar('var')": "ContextVar",
    "weakref.ref(Kept)": "weakref",
    "(number for number in ())": "generator",
    "sys.modules['__main__']": "a child cannot import the module __main__",
    "types.ModuleType('made_up')": "a child cannot import the module made_up",
}


@pytest.mark.parametrize("made", REFUSED)
def test_what_is_worth_nothing_elsewhere_is_refused_and_its_place_is_told(
    tmp_path: Path, made: str
) -> None:
    run_main(
        tmp_path,
        f"""
import concurrent.futures, contextvars, queue, socket, sqlite3, threading, types, weakref
from embedkq.errors import EncodeError
class Kept:
    def __init__(self, value): self.value = value
def use(argument=None): return THING
def made(value): return lambda: value
def refused(place, cure, *call):
    try:
        codec.encode_call(*call)
    except EncodeError as error:
        assert {REFUSED[made]!r} in str(error) and place in str(error) and cure in str(error), error
    else:
        raise AssertionError(place)
THING = {made}
class Held:
    things = [THING]
def uses_class(): return Held
into_module = "move the function into a module that child processes can import"
refused("(THING in __main__.use)", into_module, use, (), {{}})
refused("(its value in the variable 'value' of __main__.made.<locals>.<lambda>)", into_module, made(THING), (), {{}})
refused("(things[0] in __main__.Held)", into_module, uses_class, (), {{}})

refused("argument 1 of job builtins.len", "Pass the values that it is made from", len, (THING,), {{}})
refused("(at ['a'][1].value)", "Pass the values that it is made from", len, ({{"a": [0, Kept(THING)]}},), {{}})
os._exit(0 if print("reached the end", flush=True) is None else 1)
""",
    )


def test_what_cannot_be_rebuilt_is_refused_when_it_is_enqueued(tmp_path: Path) -> None:
    (tmp_path / "framework.py").write_text("""
class Base:
    def __init_subclass__(cls, *, table): cls.table = table
""")
    run_main(
        tmp_path,
        """
import framework
from embedkq.errors import EncodeError
class Order(framework.Base, table="orders"): pass
def use(order): return order.table
class Named:
    def __reduce__(self): return "SINGLE"
SINGLE = Named()
for call in ((use, (Order(),), {}), (len, (SINGLE,), {})):
    try:
        codec.encode_call(*call)
    except EncodeError as error:
        assert "argument 1 of job" in str(error), error
    else:
        raise AssertionError(call)
""",
    )


def test_a_future_or_lock_that_a_job_returns_hangs_nobody(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
from concurrent.futures import Future
import threading
from embedkq.errors import ResultNotPicklable
def future(): return Future()
def lock():
    lock = threading.RLock()
    lock.acquire()
    return lock
failed, lock = results((future,), (lock,))
assert isinstance(failed, ResultNotPicklable) and "'Future' objects work within one process only" in str(failed), failed
assert lock.acquire(blocking=False)
""",
    )


def test_checking_a_job_touches_nothing_of_the_script(tmp_path: Path) -> None:
    """What enqueueing unpickles to see that it can be is rebuilt beside the script's own, and
    forgotten."""
    run_main(
        tmp_path,
        """
import gc, weakref
class Base:
    kinds = []
    def __init_subclass__(cls): Base.kinds.append(cls.__name__)
class Order(Base):
    seen = 0
    def __init__(self): Order.seen += 1
def use(order): return Base.kinds
order = Order()
for _ in range(3):
    payload = codec.encode_call(use, (order,), {})
    assert codec.decode_call(payload)[0] is use and type(codec.decode_call(payload)[1][0]) is Order
assert Base.kinds == ["Order"] and Order.seen == 1
gc.collect()
assert [kind for kind in Base.__subclasses__()] == [Order]
""",
    )


def test_what_earlier_versions_have_written_is_still_loaded() -> None:
    """Version 0.1 gave each function globals of its own without __builtins__, and knew the
    functions below by these names."""

    def year() -> int:
        return 0

    code = compile(
        "def year(): return datetime.datetime.strptime('2024', '%Y').year", "app.py", "exec"
    ).co_consts[0]

    class Old(pickle._Pickler):
        def reducer_override(self, value: Any) -> Any:
            if value is year:
                return codec._new_function, (code, "year", None)
            if type(value) is types.CodeType:
                return marshal.loads, (marshal.dumps(value),)
            return NotImplemented

    buffer = io.BytesIO()
    pickler = Old(buffer, 5)
    pickler.dump((codec._fill, codec._new_enum, codec.own_or_rebuilt, codec._new_function, year))
    assert b"embedkq.codec" in buffer.getvalue() and b"by_value" not in buffer.getvalue()
    *_, rebuilt = pickle.loads(buffer.getvalue())
    codec._fill(rebuilt, {"datetime": datetime}, {"__qualname__": "year"})
    assert rebuilt() == 2024 and rebuilt.__module__ == "__main__"


def test_payloads_name_nothing_that_version_0_1_does_not_have(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
import dataclasses, enum, pickletools
from typing import Generic, NamedTuple, TypeVar
T = TypeVar("T")
class Color(enum.Enum):
    RED = 1
class Size(NamedTuple):
    width: Color = Color.RED
@dataclasses.dataclass
class Order(Generic[T]):
    size: Size
def use(order): return lambda: (order, Color)
payload = codec.encode_call(use, (Order(Size()),), {})
strings = [argument for _, argument, _ in pickletools.genops(payload) if isinstance(argument, str)]
assert "own_or_rebuilt" in strings and [name for name in strings if name.startswith("embedkq")] == ["embedkq.codec"]
""",
    )


names = st.sampled_from(["a", "b", "count", "rest"])
constants = (
    st.none() | st.integers() | st.text(max_size=5) | st.tuples(st.integers(), st.text(max_size=3))
)


@settings(max_examples=60)
@given(
    defaults=st.lists(constants, max_size=3),
    keywords=st.dictionaries(names.map(str.upper), constants, max_size=3),
    notes=st.dictionaries(names, st.sampled_from([int, "int", list[int], None])),
    doc=st.none() | st.text(max_size=10),
    attributes=st.dictionaries(names, constants, max_size=2),
    enclosed=constants,
    shared=constants,
)
def test_a_function_comes_back_with_all_that_it_is(
    defaults: list[Any],
    keywords: dict[str, Any],
    notes: dict[str, Any],
    doc: str | None,
    attributes: dict[str, Any],
    enclosed: Any,
    shared: Any,
) -> None:
    variables: dict[str, Any] = {"__name__": "__main__", "SHARED": shared, "NOT_USED": object()}
    parameters = ", ".join(
        [
            *(f"p{number}=None" for number in range(len(defaults))),
            *(["*"] if keywords else []),
            *(f"{name}=None" for name in keywords),
        ]
    )
    exec(
        f"def make(enclosed):\n def made({parameters}): return enclosed, SHARED\n return made",
        variables,
    )
    function = variables["make"](enclosed)
    function.__defaults__, function.__kwdefaults__, function.__annotations__, function.__doc__ = (
        tuple(defaults),
        keywords,
        notes,
        doc,
    )
    vars(function).update(attributes)
    again: Any = codec.decode_object(codec.encode_object(function))
    assert again is not function and again() == (enclosed, shared) and vars(again) == attributes
    for name in ("__name__", "__qualname__", "__module__", "__doc__", "__annotations__"):
        assert getattr(again, name) == getattr(function, name)
    assert (again.__defaults__ or ()) == tuple(defaults) and (
        again.__kwdefaults__ or {}
    ) == keywords


def test_the_whole_way_through_kafka_nothing_is_lost(
    hosts: str, topic: str, group: str, tmp_path: Path
) -> None:
    """Jobs of a main script, some classes of which no child can be given: each is run or refused at
    once."""
    script = tmp_path / "app.py"
    script.write_text(f"""
import datetime, functools, threading, urllib.request
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar
import pydantic
from embedkq import Queue, Worker
from embedkq.errors import EncodeError
T = TypeVar("T")
LOCK, EVENT = threading.RLock(), threading.Event()
class Box(Generic[T]):
    def __init__(self, value): self.value = value
class Order(pydantic.BaseModel):
    number: int
class Size(NamedTuple):
    width: int
    height: int = 1
    def area(self): return self.width * self.height
class Report:
    @functools.cached_property
    def total(self):
        with LOCK: return 42
def unpack(box, order): return type(box).__name__, box.value, order.number
def measure(size): return size.area(), Size(3)
def year(): return datetime.datetime.strptime("2024-05-06", "%Y-%m-%d").year
def host(): return urllib.request.Request("http://example.org/a").host
def total(): return Report().total
def future(): return Future()
def waits(): EVENT.wait()
told = {{}}
def callback(status, job, result, exception, traceback):
    told[job.func.__name__] = result if status == "success" else type(exception).__name__
with Queue(hosts={hosts!r}, topic={topic!r}) as queue:
    for call in ((unpack, Box(3), Order(number=5)), (measure, Size(2, 3)), (year,), (host,), (total,), (future,)):
        queue.enqueue(*call)
    try:
        queue.enqueue(waits)
    except EncodeError as error:
        print(error)
    with Worker(hosts={hosts!r}, topic={topic!r}, group={group!r}, callback=callback) as worker:
        assert worker.drain(60)
assert told == {{"unpack": ("Box", 3, 5), "measure": (6, (3, 1)), "year": 2024, "host": "example.org", "total": 42,
                "future": "ResultNotPicklable"}}, told
print("reached the end")
""")
    done = run_script(script)
    assert done.stdout == (
        "job __main__.waits (a 'function') cannot be pickled: 'Event' objects work within one process only (EVENT in __main__.waits). "
        "Create it inside the function, or move the function into a module that child processes can import\nreached the end\n"
    ), done.stdout + done.stderr
