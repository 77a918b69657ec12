"""What an option is, and where users can set it. Pure.

An option has five doors: the constructor (or method) that takes it, the command line, the
environment, Flask's configuration, and the guide. It stands at each of them, or says why not
(`Absent`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from embedkq._options.checks import check_count

PREFIX = "EMBEDKQ_"

QUEUE, WORKER = "Queue", "Worker"
START = "start"
"""`Worker.start`: how one run ends, and whether Kafka has to be there."""
COMMAND = "kq worker"
EXTENSION = "EmbedKQ"
"""The Flask extension, of which an app's configuration sets more than its queue and worker."""

BOTH = (QUEUE, WORKER)


class Absent(NamedTuple):
    """Why a door does not have an option."""

    because: str


class Option(NamedTuple):
    """One option of those that take it.

    An option that means different things to `Queue` and to `Worker` is declared once for each.

    Attributes:
        name: of the parameter.
        takers: which of `QUEUE`, `WORKER`, `START`, `COMMAND` and `EXTENSION`.
        type: the parameter's annotation.
        default: the parameter's.
        help: one line, without a full stop.
        unit: of a number; the command line's help shows it in place of the value.
        none: what None means; empty where None is not a value.
        check: takes value and name, returns the accepted value or raises. None: the taker checks
            the option itself, together with others or by making something of it.
        command_line: its spelling, where it differs from the name.
        metavar: what the command line's help shows in place of the value, if not the unit.
        repeated: the command line accepts it several times.
        command_line_default: where it differs from `default`.
        setting: Flask's general key, where it differs from the name.
        is_secret: it may hold a password or a key. It is never printed or pickled, and the command
            line accepts only a file of it, since all users of a machine see arguments. `variable`
            names that file, too; `value_variables` hold the value itself.
    """

    name: str
    takers: tuple[str, ...]
    type: str
    default: Any
    help: str
    unit: str = ""
    none: str = ""
    check: Callable[[Any, str], Any] | None = None
    command_line: str | Absent = ""
    metavar: str = ""
    repeated: bool = False
    command_line_default: Any = None
    setting: str | Absent = ""
    is_secret: bool = False

    def checked(self, value: Any) -> Any:
        """The accepted value. Where None is not a value, a check may still pass it for the default.

        Raises:
            TypeError, ValueError: it cannot work; the message names the option.
        """
        if self.check is None or (value is None and self.none):
            return value
        accepted = self.check(value, self.name)
        return self.default if accepted is None and not self.none else accepted

    @property
    def spelling(self) -> str | None:
        """Its name on the command line, such as "--job-size"; None if it is not there."""
        if isinstance(self.command_line, Absent):
            return None
        return self.command_line or f"--{self.name.replace('_', '-')}"

    @property
    def value_name(self) -> str:
        """The name that click makes from the spelling."""
        return (self.spelling or "").lstrip("-").replace("-", "_")

    @property
    def variable(self) -> str | None:
        """Environment variable that the command line's help names; None if it is not there."""
        return None if self.spelling is None else f"{PREFIX}{self.value_name.upper()}"

    @property
    def value_variables(self) -> tuple[str, ...]:
        """All variables from which the command line reads the value, the one that wins first. Among
        them are Flask's names: an environment may serve an app and a `kq worker`."""
        if self.spelling is None:
            return ()
        keys = self.keys_for(WORKER) if WORKER in self.takers else ()
        own = () if self.is_secret or self.variable is None else (self.variable,)
        return tuple(dict.fromkeys((*keys[1:], *own, *keys[:1])))

    @property
    def zero_means_none(self) -> bool:
        """Whether 0 on the command line means None, which has no other spelling there."""
        return bool(self.none) and isinstance(self.default, (int, float))

    def keys_for(self, taker: str) -> tuple[str, ...]:
        """Flask's keys for one of its takers, the general one first: the last one given wins."""
        if isinstance(self.setting, Absent):
            return ()
        general = self.setting or PREFIX + self.name.upper()
        if taker not in BOTH:
            return (general,)
        return tuple(dict.fromkeys((general, f"{PREFIX}{taker}_{self.name}".upper())))


def plain(check: Callable[[Any], Any]) -> Callable[[Any, str], Any]:
    """For the check of one option, which knows its name."""
    return lambda value, name: check(value)


def count(minimum: int) -> Callable[[Any, str], int]:
    """The check of a whole number."""
    return lambda value, name: check_count(name, value, minimum)
