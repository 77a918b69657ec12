"""Calls, results and exceptions to bytes and back; what belongs to `__main__` by value, in scripts
that are really run."""

from __future__ import annotations

import functools
import importlib
import operator
import os
import pickle
import pickletools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from mainscripts import HARNESS, run_main
from support import ROOT, run_script

from embedkq import codec
from embedkq.errors import DecodeError, EncodeError

# By name.


def globals_named(payload: bytes) -> set[str]:
    """What a pickle looks up by name, as "module name"."""
    strings: list[str] = []
    found = set()
    for opcode, argument, _ in pickletools.genops(payload):
        if opcode.name == "STACK_GLOBAL":
            found.add(" ".join(strings[-2:]))
        elif isinstance(argument, str):
            strings.append(argument)
    return found


def test_what_can_be_imported_is_pickled_by_name_and_as_pickle_does() -> None:
    payload = codec.encode_call(workerjobs.echo, (1, "two"), {"three": [3.0]})
    assert payload == pickle.dumps((workerjobs.echo, (1, "two"), {"three": [3.0]}), 5)
    assert globals_named(payload) == {"workerjobs echo"}


def test_the_way_by_name_does_without_dill() -> None:
    code = (
        "import sys, workerjobs\nfrom embedkq import codec\n"
        "payload = codec.encode_call(workerjobs.echo, ([1, 2],), {'a': {3}})\n"
        "assert codec.decode_call(payload) == (workerjobs.echo, ([1, 2],), {'a': {3}})\n"
        "assert 'dill' not in sys.modules\n"
        "codec.encode_call(lambda: 1, (), {})\n"
        "assert 'dill' in sys.modules\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, env=environment)


@pytest.mark.parametrize(
    ("func", "args", "kwargs"),
    [
        (len, ("abc",), {}),
        (os.path.join, ("a", "b"), {}),
        (dict.fromkeys, ("ab",), {}),
        ("a-b".split, ("-",), {}),
        (operator.itemgetter(1), ("ab",), {}),
        (int, ("12",), {"base": 16}),
        (functools.partial(int, base=2), ("101",), {}),
        (workerjobs.echo, (), {"self": 1, "func": 2, "args": 3}),
    ],
)
def test_any_kind_of_callable_goes_there_and_back(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    decoded = codec.decode_call(codec.encode_call(func, args, kwargs))
    assert decoded[1:] == (args, kwargs)
    assert decoded[0](*decoded[1], **decoded[2]) == func(*args, **kwargs)


def test_what_pickle_refuses_and_dill_takes_goes_by_value() -> None:
    offset = 40

    def inner(number: int) -> int:
        return number + offset

    func, args, _ = codec.decode_call(codec.encode_call(inner, (lambda: 2,), {}))
    assert func(args[0]()) == 42


def test_a_string_that_says_main_is_only_a_string() -> None:
    words = ["__main__", b"__main__", {"__main__": "__main__"}]
    assert codec.decode_call(codec.encode_call(workerjobs.echo, (words,), {})) == (
        workerjobs.echo,
        (words,),
        {},
    )


def test_a_memoryview_of_a_larger_message_is_decoded_in_place() -> None:
    payload = codec.encode_call(workerjobs.echo, (b"x" * 1000,), {})
    assert codec.decode_call(memoryview(b"head" + payload)[4:])[1] == (b"x" * 1000,)


# By value: __main__ in a script that is really run.


def test_functions_of_main_take_along_what_they_use(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
import functools, math, asyncio
from math import floor as down

RATE, TABLE = 1.5, {"a": [1, 2]}

def helper(number): return number * RATE
def plain(a, b=2, *rest, c, d=4, **more): return a, b, rest, c, d, more
def uses_helper(number): return helper(number) + math.sqrt(down(4.9)) + len(TABLE["a"])
def fact(number): return 1 if number < 2 else number * fact(number - 1)
def even(number): return True if number == 0 else odd(number - 1)
def odd(number): return False if number == 0 else even(number - 1)
def nested(numbers): return [(lambda x: helper(x) + x)(number) for number in numbers]
def via_table(name): return STEPS[name](3)
STEPS = {"half": lambda number: number / 2, "helper": helper}

def counter(start):
    step = 10
    def count(number):
        nonlocal start
        start += number * step
        return start
    return count

def adder(number):
    def add(other): return fact(number) + other
    return add

def announced(func):
    @functools.wraps(func)
    def wrapper(*args): return "announced", func(*args)
    return wrapper

@announced
def decorated(number): return helper(number)

async def later(number):
    await asyncio.sleep(0)
    return helper(number)

def generator(count): yield from range(count)
def sum_of(count): return sum(generator(count))

def with_attribute(): return with_attribute.limit
with_attribute.limit = 7
def lazily():
    import json
    return json.dumps(TABLE)
def late_main():
    import __main__
    return hasattr(__main__, "RATE")

assert results(
    (plain, (1,), {"c": 3, "e": 5}), (uses_helper, (2,)), (fact, (5,)), (even, (10,)), (odd, (10,)), (nested, ([2],)),
    (via_table, ("half",)), (via_table, ("helper",)), (counter(5), (1,)), (adder(3), (1,)), (decorated, (2,)), (later, (2,)),
    (sum_of, (4,)), (with_attribute,), (lazily,), (late_main,), (functools.partial(plain, 1, c=3), (9,)),
    (lambda number: helper(number), (4,)), (STEPS["half"], (8,)), (functools.reduce, (lambda a, b: helper(a) + b, [1, 2, 3])),
) == [
    (1, 2, (), 3, 4, {"e": 5}), 7.0, 120, True, False, [5.0], 1.5, 4.5, 15, 7, ("announced", 3.0), 3.0, 6, 7, '{"a": [1, 2]}', False,
    (1, 9, (), 3, 4, {}), 6.0, 4.0, 8.25,
]
((func, args, kwargs), result), = there((even, (6,)))
assert func is even and args == (6,) and kwargs == {} and result is True
((func, _, _), _), = there((decorated, (6,)))
assert func is decorated
((func, _, _), _), = there((counter(0), (1,)))
assert func.__qualname__ == "counter.<locals>.count" and func(2) == 20
""",
    )


def test_classes_of_main_go_there_and_the_host_gets_its_own_back(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
import abc, collections, dataclasses, enum, typing

class Point:
    origin = (0, 0)
    __slots__ = ("x", "y")
    def __init__(self, x, y): self.x, self.y = x, y
    def __eq__(self, other): return type(other) is type(self) and (other.x, other.y) == (self.x, self.y)
    def __hash__(self): return hash((self.x, self.y))
    def moved(self, by): return type(self)(self.x + by, self.y + by)
    def twin(self): return Point(*self.origin)
    @classmethod
    def diagonal(cls, number): return cls(number, number)
    @staticmethod
    def helped(number): return helper(number)
    @property
    def sum(self): return self.x + self.y

class Named(Point):
    __slots__ = ("name",)
    def __init__(self, x, y, name="?"):
        super().__init__(x, y)
        self.name = name
    def moved(self, by): return super().moved(by)

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

class Square(Shape):
    def __init__(self, side): self.side = side
    def area(self): return helper(self.side) * self.side
    class Corner:
        def __init__(self, number): self.number = number

@dataclasses.dataclass
class Order:
    item: str
    tags: list = dataclasses.field(default_factory=list)
    parent: "Order | None" = None
    def total(self): return len(self.tags) + helper(1)

@dataclasses.dataclass(frozen=True, order=True)
class Version:
    major: int
    minor: int = 0
    def next(self): return dataclasses.replace(self, minor=self.minor + 1)

class Pair(typing.NamedTuple):
    left: int
    right: int = 2
    def swapped(self): return Pair(self.right, self.left)

Old = collections.namedtuple("Old", "a b")

class Callme:
    def __init__(self, number): self.number = number
    def __call__(self, other): return self.number + helper(other)

class Tree(dict):
    def __missing__(self, key):
        self[key] = Tree()
        return self[key]

def helper(number): return number + 100
def move(point, by=1): return point.moved(by)
def kinds(*values): return [type(value).__name__ for value in values], values
def make(): return [Point(1, 2), {"named": Named(3, 4, "n")}, Order("x", ["t"], Order("p")), Version(1), Pair(1), Old(1, 2), Square(2)]
def area(shape): return isinstance(shape, Shape), shape.area()
def grow(): tree = Tree(); tree["a"]["b"] = 1; return tree
def corner(): return Square.Corner(3)

moved, named, order = results(
    (move, (Point(1, 2), 5)), (move, (Named(1, 2), 5)), (kinds, (Order("a"), Version(2), Pair(1), Old(1, 2), Square)))
assert type(moved) is Point and moved == Point(6, 7) and moved.twin() == Point(0, 0)
assert type(named) is Named and (named.x, named.name) == (6, "?")
names, values = order
assert names == ["Order", "Version", "Pair", "Old", "ABCMeta"] and values == (Order("a"), Version(2), Pair(1), Old(1, 2), Square)
assert [type(value) for value in values[:4]] == [Order, Version, Pair, Old] and values[4] is Square

made, = results((make,))
assert made[:2] == [Point(1, 2), {"named": Named(3, 4)}] or (type(made[1]["named"]) is Named and made[1]["named"].name == "n")
assert made[2:6] == [Order("x", ["t"], Order("p")), Version(1), Pair(1), Old(1, 2)] and isinstance(made[6], Shape)
assert results(
    (Point, (1, 2)), (Point(1, 2).moved, (3,)), (Point.diagonal, (4,)), (Named.diagonal, (4,)), (Point.helped, (1,)), (Callme(1), (2,)),
    (area, (Square(2),)), (Order("x", ["a"]).total,), (Version(1).next,), (Pair(1, 5).swapped,), (grow,), (getattr, (Point(1, 2), "sum")),
)[:2] == [Point(1, 2), Point(4, 5)]
rest = results((Named.diagonal, (4,)), (Callme(1), (2,)), (area, (Square(2),)), (Order("x", ["a"]).total,), (Version(1).next,),
               (Pair(1, 5).swapped,), (grow,), (getattr, (Point(1, 2), "sum")), (corner,), (isinstance, (Point(1, 2), Point)))
assert type(rest[0]) is Named and rest[1:6] == [103, (True, 204), 102, Version(1, 1), Pair(5, 1)] and rest[6:8] == [{"a": {"b": 1}}, 3]
assert type(rest[6]) is Tree and type(rest[6]["a"]) is Tree and type(rest[8]) is Square.Corner and rest[9] is True
((func, args, _), _), = there((Point(1, 2).moved, (3,)))
assert func.__func__ is Point.moved and type(func.__self__) is Point
((func, args, _), _), = there((Point, (1, 2)))
assert func is Point
""",
    )


def test_enums_of_main_stay_the_hosts_own_members(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
import enum

class Color(enum.Enum):
    RED = 1
    GREEN = "g"
    CRIMSON = 1
    def loud(self): return self.name.upper() + helper()
    @classmethod
    def first(cls): return cls(1)
    @property
    def shout(self): return self.loud() + "!"

class Level(enum.IntEnum):
    LOW = 1
    HIGH = 10

class Mode(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()

class Planet(enum.Enum):
    EARTH = (5.9, 6.3)
    MARS = (0.6, 3.3)
    def __init__(self, mass, radius): self.mass, self.radius = mass, radius

class Word(str, enum.Enum):
    YES = "yes"

SCALE = 2
def helper(): return "~"

class Coin(enum.Enum):
    CENT = (1, "c")
    EURO = (100,)
    def __init__(self, worth, sign="e"): self.worth, self.sign, self.text = worth * SCALE, sign, helper()
    def bigger(self): return Coin.EURO

class Code(enum.Enum):
    OK = (200, "fine")
    GONE = (410, "gone")
    def __new__(cls, number, label):
        member = object.__new__(cls)
        member._value_, member.label = number, label
        return member

def coins(coin): return coin.worth, coin.sign, coin.text, coin.bigger().worth, Code(410).label, Code.OK.value, Coin((100,)) is Coin.EURO
def other(color): return Color.GREEN if color is Color.RED else Color.RED
def pass_on(*values): return [value.name for value in values], values
def of(color): return color.loud(), color.shout, color.first() is Color.CRIMSON, [member.name for member in Color]
def both(): return Mode.READ | Mode.WRITE
def planet(planet): return planet.radius, Planet.EARTH

assert results((coins, (Coin.CENT,))) == [(2, "c", "~", 200, "gone", 200, True)]
assert results((other, (Coin.CENT,)), (lambda: [Code.OK, Coin.EURO, Coin.CENT],))[1] == [Code.OK, Coin.EURO, Coin.CENT]
assert Coin.CENT.worth == 2 and Coin.EURO.text == "~"
green, passed, told, mode, (radius, earth), kind = results(
    (other, (Color.RED,)), (pass_on, (Color.RED, Level.HIGH, Mode.WRITE, Planet.MARS, Word.YES)), (of, (Color.RED,)), (both,),
    (planet, (Planet.MARS,)), (lambda: Color,))
assert green is Color.GREEN and kind is Color
assert passed[0] == ["RED", "HIGH", "WRITE", "MARS", "YES"]
assert all(a is b for a, b in zip(passed[1], (Color.RED, Level.HIGH, Mode.WRITE, Planet.MARS, Word.YES)))
assert told == ("RED~", "RED~!", True, ["RED", "GREEN"]), told
assert mode == Mode.READ | Mode.WRITE and type(mode) is Mode and radius == 3.3 and earth is Planet.EARTH
""",
    )


def test_exceptions_of_main_arrive_as_what_they_are(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
class ShopError(Exception):
    code = 40

class SoldOut(ShopError):
    def __init__(self, item, left=0):
        super().__init__(f"no {item}")
        self.item, self.left = item, left
    def __reduce__(self): return SoldOut, (self.item, self.left)

class Plain(ShopError): pass

def buy(item): raise SoldOut(item, 3)
def plain():
    error = Plain("one", 2)
    error.note = "kept"
    raise error
def chained():
    try:
        buy("tea")
    except ShopError as error:
        raise Plain("later") from error
def give(): return SoldOut("x", 1)

sold, told, chain, given = results((buy, ("tea",)), (plain,), (chained,), (give,))
assert type(sold) is SoldOut and (sold.item, sold.left, sold.code, str(sold)) == ("tea", 3, 40, "no tea")
assert type(told) is Plain and told.args == ("one", 2) and told.note == "kept" and isinstance(told, ShopError)
assert type(chain) is Plain and type(given) is SoldOut
try:
    raise sold
except ShopError as error:
    assert error is sold
""",
    )


def test_what_refers_to_itself_in_circles_comes_to_an_end(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
class Node:
    def __init__(self, name): self.name, self.others = name, []
    def link(self, other):
        self.others.append(other)
        other.others.append(self)
        return build(self.name)
    def again(self): return Leaf(self.name).up()

class Leaf(Node):
    def up(self): return Node(self.name + "^")

def build(name): return Node(name + "'") if name else Leaf("leaf")
def ping(depth): return ("ping", depth) if not depth else pong(depth - 1)
def pong(depth): return ("pong", depth) if not depth else pang(depth - 1)
def pang(depth): return ("pang", depth) if not depth else ping(depth - 1)
def through_class(): return User().use()
class User:
    def use(self): return through_instance(self)
def through_instance(user): return type(user).__name__, through_class.__name__
def make_pair():
    def left(number): return number and right(number - 1)
    def right(number): return number and left(number - 1)
    return left
def make_count(start):
    def down(number, step=1): return [number] + down(number - step) if number else []
    return down
def make_sharing():
    total = 0
    def add(number):
        nonlocal total
        total += number
    def tell(): return total, never_set if False else None
    if False: never_set = 1
    return add, tell
def use_sharing(add, tell):
    add(5)
    return tell()
def with_helper_as_default(number, then=ping): return then(number)
REGISTRY = {}
def register(func):
    REGISTRY[func.__name__] = func
    return func
@register
def one(): return sorted(REGISTRY)
@register
def two(): return one()

a, b = Node("a"), Node("b")
a.link(b)
loop = [a]
loop.append(loop)
back, linked, pinged, classed, paired, listed, again = results(
    (lambda node: node, (a,)), (a.link, (b,)), (ping, (4,)), (through_class,), (make_pair(), (5,)), (two,), (a.again,))
assert type(back) is Node and back.others[0].others[0] is back and back.others[0].name == "b"
assert type(linked) is Node and linked.name == "a'" and type(again) is Node and again.name == "a^"
assert pinged == ("pong", 0) and classed == ("User", "through_class") and paired == 0 and listed == ["one", "two"]
assert results((make_count(0), (3,)), (use_sharing, make_sharing()), (with_helper_as_default, (4,))) == [[3, 2, 1], (5, None), ("pong", 0)]
many, = results((lambda values: values, ([[Node("x"), Node, build] for _ in range(5)],)))
assert all(type(node) is Node and kind is Node and func is build for node, kind, func in many)
kinds, = results((lambda values: [(isinstance(node, kind), type(node) is kind) for node, kind, func in values], (many,)))
assert kinds == [(True, True)] * 5
(_, result), = there((lambda values: values, (loop,)))
assert result[1] is result and type(result[0]) is Node
""",
    )


def test_a_function_of_main_that_uses_a_queue_takes_no_secret_along(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
from embedkq import Queue
queue = Queue(hosts="127.0.0.1:1", topic="orders", timeout=3, kafka={
    "sasl_plain_username": "anna", "sasl_plain_password": "hush-hush", "sasl_mechanism": "PLAIN", "security_protocol": "SASL_PLAINTEXT"})
def follow_up():
    return queue.hosts, queue.topic, queue.timeout, hasattr(more, "delay")
@queue.job(timeout=9)
def more(): return follow_up()
payload = codec.encode_call(more, (), {})
assert b"hush-hush" not in payload and b"anna" not in payload and b"orders" in payload
assert results((more,), (follow_up,)) == [("127.0.0.1:1", "orders", 3, True)] * 2
((func, _, _), _), = there((more,))
assert func is more
""",
    )


def test_another_script_of_the_same_names_keeps_to_the_senders_functions(tmp_path: Path) -> None:
    """What was sent is what runs: the receiver's own function of that name is another one."""
    sender = tmp_path / "sender.py"
    sender.write_text("""
import sys
from embedkq import codec
def price(count, point): return count * 2, point.sum()
class Point:
    def sum(self): return 1
sys.stdout.buffer.write(codec.encode_call(price, (4, Point()), {}))
""")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    payload = subprocess.run(
        [sys.executable, str(sender)], capture_output=True, check=True, env=environment, timeout=60
    ).stdout
    run_main(
        tmp_path,
        f"""
def price(count, point): return count * 1000, point.sum()
class Point:
    def sum(self): return 1000
func, args, kwargs = codec.decode_call({payload!r})
assert func is not price and type(args[1]) is not Point
assert (func(*args), price(*args)) == ((8, 1), (4000, 1))
""",
    )


def test_a_script_that_is_run_with_m_or_from_a_string_is_main_all_the_same(tmp_path: Path) -> None:
    body = (
        HARNESS
        + """
class Point:
    def __init__(self, x): self.x = x
def shifted(point): return Point(point.x + 1)
(call, result), = there((shifted, (Point(1),)))
assert type(result) is Point and result.x == 2 and call[0] is shifted
print("reached the end")
"""
    )
    (tmp_path / "shop.py").write_text(body)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for arguments, text in ((["-m", "shop"], ""), (["-c", body], ""), (["-"], body)):
        done = subprocess.run(
            [sys.executable, *arguments],
            input=text,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=60,
            check=False,
        )
        assert done.stdout == "reached the end\n", done.stderr


@pytest.mark.parametrize("start", ["with worker:", "if worker.start_background():"])
def test_the_whole_way_through_kafka_with_jobs_of_main(
    hosts: str, topic: str, group: str, tmp_path: Path, start: str
) -> None:
    """An unguarded script: its body runs once, and its callback gets the script's own objects."""
    script = tmp_path / "app.py"
    script.write_text(f"""
import dataclasses, enum, os, sys
from embedkq import Queue, Worker
print("body runs")
class Size(enum.Enum):
    SMALL, LARGE = 1, 2
@dataclasses.dataclass
class Shirt:
    size: Size
    price: int = 10
class SoldOut(Exception): pass
def discount(price): return price // 2
def sell(shirt):
    if shirt.size is Size.LARGE:
        raise SoldOut(shirt)
    return Shirt(shirt.size, discount(shirt.price))
told = []
def callback(status, job, result, exception, traceback):
    assert job.func is sell and type(job.args[0]) is Shirt
    told.append(result or exception)
queue = Queue(hosts={hosts!r}, topic={topic!r})
queue.using(key="a").enqueue_many([(sell, (Shirt(Size.SMALL),)), (sell, (Shirt(Size.LARGE),))])
worker = Worker(hosts={hosts!r}, topic={topic!r}, group={group!r}, callback=callback)
{start}
    while len(told) < 2:
        worker.run_callbacks(0.1)
    worker.stop()
shirt, error = told
assert shirt == Shirt(Size.SMALL, 5) and type(shirt) is Shirt and shirt.size is Size.SMALL
assert type(error) is SoldOut and error.args == (Shirt(Size.LARGE),) and error.args[0].size is Size.LARGE
print("reached the end")
""")
    done = run_script(script)
    assert done.stdout == "body runs\nreached the end\n", done.stdout + done.stderr


# What cannot be pickled.


class Stubborn:
    def __reduce__(self) -> Any:
        raise RuntimeError("stays here")


@pytest.mark.parametrize(
    ("args", "kwargs", "told"),
    [
        (
            (1, Stubborn()),
            {},
            "argument 2 of job workerjobs.echo (a 'Stubborn') cannot be pickled: stays here",
        ),
        (
            (1, 2),
            {"color": Stubborn()},
            "argument 'color' of job workerjobs.echo (a 'Stubborn') cannot be pickled: stays here",
        ),
        ((Stubborn(), Stubborn()), {"x": 1}, "argument 1 of job workerjobs.echo"),
        (
            ({"deep": [Stubborn()]},),
            {},
            "argument 1 of job workerjobs.echo (a 'dict') cannot be pickled",
        ),
        (
            (),
            {"rows": (number for number in ())},
            "argument 'rows' of job workerjobs.echo (a 'generator') cannot be pickled",
        ),
        ((sys._getframe(),), {}, "argument 1 of job workerjobs.echo (a 'frame') cannot be pickled"),
    ],
)
def test_an_argument_that_cannot_be_pickled_is_named(
    args: tuple[Any, ...], kwargs: dict[str, Any], told: str
) -> None:
    with pytest.raises(EncodeError) as caught:
        codec.encode_call(workerjobs.echo, args, kwargs)
    assert str(caught.value).startswith(told)
    assert caught.value.__cause__ is not None and isinstance(caught.value, ValueError)


def test_a_function_that_cannot_be_pickled_is_named() -> None:
    with pytest.raises(
        EncodeError,
        match=r"^job .*Stubborn\.__reduce__ \(a 'method'\) cannot be pickled: stays here",
    ):
        codec.encode_call(Stubborn().__reduce__, (), {})
    rows = (number for number in ())

    def job() -> Any:
        return rows

    with pytest.raises(
        EncodeError, match=r"^job test_codec\..*<locals>\.job \(a 'function'\) cannot be pickled"
    ):
        codec.encode_call(job, (), {})


def test_a_value_that_nests_too_deep_is_an_encode_error() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(EncodeError, match=r"argument 1 of job workerjobs\.echo"):
        codec.encode_call(workerjobs.echo, (deep,), {})


def test_in_main_the_argument_is_named_as_well(tmp_path: Path) -> None:
    run_main(
        tmp_path,
        """
from embedkq.errors import EncodeError
rows = (number for number in ())
def job(first, second): pass
def holds(): return rows
class Stubborn:
    def __reduce__(self): raise RuntimeError("stays here")
for call, told in (
    ((job, (1, rows), {}), "argument 2 of job __main__.job (a 'generator') cannot be pickled"),
    ((job, (1,), {"second": Stubborn()}), "argument 'second' of job __main__.job (a 'Stubborn') cannot be pickled: stays here"),
    ((holds, (), {}), "job __main__.holds (a 'function') cannot be pickled"),
):
    try:
        codec.encode_call(*call)
    except EncodeError as error:
        assert str(error).startswith(told), error
    else:
        raise AssertionError(told)
""",
    )


# Properties.


numbers = st.integers() | st.floats(allow_nan=False) | st.complex_numbers(allow_nan=False)
scalars = st.none() | st.booleans() | numbers | st.text() | st.binary()
hashable = st.recursive(
    scalars, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5
)
values = st.recursive(
    scalars
    | st.datetimes()
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.fractions()
    | st.timedeltas(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.sets(hashable, max_size=4)
    ),
    max_leaves=12,
)
functions = st.sampled_from(
    [workerjobs.echo, len, os.path.join, operator.add, int, functools.partial(int, base=7)]
)


@given(
    func=functions,
    args=st.lists(values, max_size=4).map(tuple),
    kwargs=st.dictionaries(st.text(), values, max_size=3),
)
def test_every_call_comes_back_as_it_was(
    func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    decoded, *rest = codec.decode_call(codec.encode_call(func, args, kwargs))
    assert rest == [args, kwargs]
    if isinstance(func, functools.partial):
        assert (decoded.func, decoded.args, decoded.keywords) == (
            func.func,
            func.args,
            func.keywords,
        )
    else:
        assert decoded == func


@given(value=values)
@example(value="__main__")
@example(value={"__main__": [b"__main__"]})
def test_every_object_comes_back_as_it_was(value: Any) -> None:
    again = codec.decode_object(codec.encode_object(value))
    assert again == value and type(again) is type(value)


@given(value=values, text=st.sampled_from(["__main__", "\x93__main__"]))
@settings(max_examples=30)
def test_by_value_comes_back_as_by_name(value: Any, text: str) -> None:
    """What merely mentions `__main__` takes dill's way: that must lose nothing either."""
    assert codec.decode_object(codec.encode_object((text, value))) == (text, value)


# Bytes of somebody else.


LONG_BINPUT = b"r"
"""Has the C unpickler make room for as many objects as the next four bytes say: gigabytes. Only a
child ever decodes such bytes."""


@given(payload=st.binary(max_size=200).filter(lambda payload: LONG_BINPUT not in payload))
@example(payload=b"")
@example(payload=b".")
@example(payload=b"\x80\x05.")
@example(payload=b"\x80\x05K\x01.")
@example(payload=b"\x80\xff.")
@example(payload=pickle.dumps(12))
def test_bytes_that_are_no_call_are_a_decode_error(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode_call(payload)


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=150)
def test_a_damaged_call_decodes_to_a_call_or_a_decode_error(data: st.DataObject) -> None:
    payload = bytearray(codec.encode_call(len, ("a text", 12, [1.5, None]), {"key": b"bytes"}))
    kind = data.draw(st.sampled_from(["cut", "flip", "insert"]))
    place = data.draw(st.integers(0, len(payload) - 1))
    if kind == "cut":
        del payload[place:]
    elif kind == "flip":
        payload[place] = data.draw(st.integers(0, 255))
    else:
        payload[place:place] = data.draw(st.binary(min_size=1, max_size=4))
    assume(LONG_BINPUT not in payload)
    try:
        func, args, kwargs = codec.decode_call(bytes(payload))
    except DecodeError as error:
        assert str(error).startswith("the payload ")
    else:
        assert callable(func) and isinstance(args, tuple) and isinstance(kwargs, dict)


@pytest.mark.parametrize(
    "value",
    [
        None,
        1,
        (),
        (len,),
        (len, ()),
        (len, (), {}, 1),
        ("len", (), {}),
        (len, [1], {}),
        (len, (), []),
        (len, {}, ()),
        (None, (), {}),
        [len, 1],
    ],
)
def test_a_sound_pickle_that_is_no_call_is_a_decode_error(value: Any) -> None:
    with pytest.raises(DecodeError, match=r"^the payload "):
        codec.decode_call(pickle.dumps(value))


class Raising:
    def __init__(self, kind: type[Exception]) -> None:
        self.kind = kind

    def __reduce__(self) -> Any:
        return raise_it, (self.kind,)


def raise_it(kind: type[Exception]) -> None:
    raise kind("in unpickling")


@pytest.mark.parametrize(
    "kind",
    [
        ValueError,
        RecursionError,
        MemoryError,
        ImportError,
        AttributeError,
        StopIteration,
        EOFError,
        OSError,
    ],
)
def test_whatever_unpickling_raises_is_a_decode_error_that_keeps_the_reason(
    kind: type[Exception],
) -> None:
    with pytest.raises(DecodeError, match=f"{kind.__name__}: in unpickling") as caught:
        codec.decode_call(codec.encode_call(workerjobs.echo, (Raising(kind),), {}))
    assert type(caught.value.__cause__) is kind


def test_a_function_whose_module_is_gone_is_a_decode_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "passing_module.py").write_text("def job(): pass\ndef renamed(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("passing_module")
    payload, other = (codec.encode_call(func, (), {}) for func in (module.job, module.renamed))
    del module.renamed
    with pytest.raises(DecodeError, match="renamed"):
        codec.decode_call(other)
    (tmp_path / "passing_module.py").unlink()
    del sys.modules["passing_module"]
    importlib.invalidate_caches()
    with pytest.raises(DecodeError, match="passing_module"):
        codec.decode_call(payload)


# Fingerprints and threads.


def versions() -> list[Callable[..., Any]]:
    sources = [
        "def f(a): return a",
        "def f(a): return a + 1",
        "def f(a): return a + 2",
        "def f(b): return b",
        "def f(a, b=1): return a",
        "def f(a): return g(a)",
        "def f(a): return a in {1, 2}",
        "def f(a): return a in {1, 3}",
        "def f(a): return lambda: a",
        "def f(a): return lambda: (a, 1)",
        "async def f(a): return a",
    ]
    made = []
    for source in sources:
        namespace: dict[str, Any] = {"__name__": "__main__"}
        exec(source, namespace)
        made.append(namespace["f"])
    return made


def test_functions_that_differ_have_different_fingerprints_and_equal_ones_the_same() -> None:
    told = [codec.fingerprint(func) for func in versions()]
    assert len(set(told)) == len(told) and told == [codec.fingerprint(func) for func in versions()]


def test_a_fingerprint_does_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    script = tmp_path / "seeded.py"
    script.write_text(
        "from embedkq import codec\n"
        "class Kind:\n    a = 1\n    def m(self): return self in {'x', 'y', 'z', 'w'}\n"
        "def f(a): return a in {'one', 'two', 'three', 'four'}\n"
        "print(codec.fingerprint(f), codec.fingerprint(Kind))\n"
    )
    told = set()
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        told.add(
            subprocess.run(
                [sys.executable, str(script)],
                capture_output=True,
                check=True,
                env=environment,
                timeout=60,
            ).stdout
        )
    assert len(told) == 1


def test_threads_can_encode_at_once() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for count in range(20):
            func, args, _ = codec.decode_call(
                codec.encode_call(lambda add: number * 1000 + add, (count,), {})
            )
            if func(*args) != number * 1000 + count:
                wrong.append((number, count))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
