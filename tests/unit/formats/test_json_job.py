"""Jobs as JSON: what is written comes back, and only functions under their own names are found."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
import workerjobs
from hypothesis import given
from hypothesis import strategies as st

from embedkq._formats import json_job
from embedkq.errors import DecodeError, EncodeError

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a package with a module `jobs`, which no process has imported yet."""
    name = f"shop_{abs(hash(tmp_path))}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("from .jobs import resize\n")
    (folder / "jobs.py").write_text(
        textwrap.dedent(
            """
            import os
            WIDTH = 3
            def resize(path, width=80, *, mode="fit"): return path, width, mode
            alias = resize
            class Batch:
                @staticmethod
                def run(*paths): return paths
            """
        )
    )
    (folder / "broken.py").write_text("raise LookupError('no settings')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def value_of(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def refusal(payload: bytes) -> DecodeError:
    with pytest.raises(DecodeError) as caught:
        json_job.decode(payload)
    return caught.value


@given(
    args=st.lists(values, max_size=3),
    kwargs=st.dictionaries(st.from_regex(r"k[a-z]{1,5}", fullmatch=True), values, max_size=2),
)
def test_a_call_comes_back_as_it_was(args: list[Any], kwargs: dict[str, Any]) -> None:
    payload = json_job.encode(workerjobs.echo, tuple(args), kwargs)
    assert json_job.decode(payload) == (workerjobs.echo, tuple(args), kwargs)


@given(st.binary(max_size=60) | values.map(lambda value: json.dumps(value).encode()))
def test_whatever_else_it_is_it_is_refused_in_words(payload: bytes) -> None:
    try:
        call = json_job.read(payload)
    except DecodeError as error:
        assert error.__cause__ is None and str(error)
    else:
        assert set(json.loads(payload)) <= {"func", "args", "kwargs"} and "." in call.name


def test_a_tuple_arrives_as_a_list() -> None:
    payload = json_job.encode(workerjobs.echo, ((1, ("a",)),), {})
    assert json_job.decode(payload)[1] == ([1, ["a"]],)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"func": "a.b", "args": [NaN]}', "NaN is not a number of JSON"),
        (b"[]", "not an object but list"),
        (value_of(function="a.b"), "has no 'function': its fields are func, args, kwargs"),
        (value_of(), "func=None of a JSON job is not a dotted name"),
        (value_of(func="resize"), "func='resize' of a JSON job is not a dotted name"),
        (value_of(func="a.b()"), "func='a.b()' of a JSON job is not a dotted name"),
        (value_of(func="a.b", args={}), "args of a.b is not a list but dict"),
        (value_of(func="a.b", kwargs=[]), "kwargs of a.b is not an object but list"),
    ],
)
def test_what_is_no_call_is_malformed(payload: bytes, said: str) -> None:
    error = refusal(payload)
    assert said in str(error) and error.__cause__ is None


@pytest.mark.parametrize(
    ("args", "kwargs", "fault"),
    [
        ([], {}, "missing a required argument: 'path'"),
        (["a", 1, 2], {}, "too many positional arguments"),
        (["a"], {"widht": 3}, "got an unexpected keyword argument 'widht'"),
    ],
)
def test_arguments_that_do_not_fit_are_malformed(
    shop: str, args: list[Any], kwargs: dict[str, Any], fault: str
) -> None:
    error = refusal(value_of(func=f"{shop}.jobs.resize", args=args, kwargs=kwargs))
    shown = f"{shop}.jobs.resize(path, width=80, *, mode='fit')"
    assert str(error) == f"the arguments do not fit {shown}: {fault}"
    assert error.__cause__ is None


def test_functions_and_static_methods_are_found_under_their_own_names(shop: str) -> None:
    found, args, _ = json_job.decode(value_of(func=f"{shop}.jobs.resize", args=["a"]))
    assert found(*args) == ("a", 80, "fit")
    found, args, _ = json_job.decode(value_of(func=f"{shop}.jobs.Batch.run", args=["a", "b"]))
    assert found(*args) == ("a", "b")


@pytest.mark.parametrize(
    "name",
    [
        "jobs.os.system",
        "jobs.os.path.join",
        "jobs.alias",
        "resize",
        "jobs.resize.__call__",
        "jobs.resize.__globals__.clear",
    ],
)
def test_another_name_of_a_function_is_refused(shop: str, name: str) -> None:
    """Else a pattern of `allow` such as `shop.jobs.*` would let in what the module imports."""
    error = refusal(value_of(func=f"{shop}.{name}", args=["true"]))
    assert error.__cause__ is None
    assert str(error).startswith(f"{shop}.{name} is defined as ")


def test_what_is_no_function_is_refused(shop: str) -> None:
    error = refusal(value_of(func=f"{shop}.jobs.WIDTH"))
    assert str(error) == f"{shop}.jobs.WIDTH is not a function but int"


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("SHOP.jobs.rezise", AttributeError),
        ("SHOP.nothing.resize", AttributeError),
        ("SHOP.broken.resize", LookupError),
        ("no_such_package_at_all.jobs.resize", ModuleNotFoundError),
    ],
)
def test_what_this_process_cannot_import_another_one_may(
    shop: str, name: str, cause: type[Exception]
) -> None:
    error = refusal(value_of(func=name.replace("SHOP", shop)))
    assert isinstance(error.__cause__, cause)


def test_reading_imports_nothing(shop: str) -> None:
    payload = value_of(func=f"{shop}.jobs.resize", args=["a"])
    assert json_job.read(payload).name == json_job.name_in(payload) == f"{shop}.jobs.resize"
    assert shop not in sys.modules


class Size(IntEnum):
    SMALL = 1


circle: list[Any] = []
circle.append(circle)


@pytest.mark.parametrize(
    "value",
    [
        {1: "a"},
        {"a": {None: 1}},
        float("nan"),
        float("inf"),
        b"bytes",
        {1, 2},
        object(),
        Size.SMALL,
        "\ud800",
        circle,
        10**5000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_json_lacks_is_refused_by_its_place(value: Any) -> None:
    for args, kwargs, place in (((1, value), {}, "2"), ((), {"size": value}, "'size'")):
        with pytest.raises(EncodeError) as caught:
            json_job.encode(workerjobs.echo, args, kwargs)
        said = f"argument {place} of job workerjobs.echo cannot be written as JSON: "
        assert str(caught.value).startswith(said) and 'serializer="pickle"' in str(caught.value)


def local() -> Callable[..., Any]:
    def inner() -> None: ...

    return inner


@pytest.mark.parametrize(
    "function", [lambda: None, local(), [].append, __import__("functools").partial(print)]
)
def test_a_function_without_a_name_to_import_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(EncodeError, match="cannot be written as JSON"):
        json_job.encode(function, (), {})


def test_arguments_that_do_not_fit_are_refused_at_the_call() -> None:
    with pytest.raises(EncodeError, match=r"do not fit workerjobs\.note\(.*missing a required"):
        json_job.encode(workerjobs.note, (), {})
