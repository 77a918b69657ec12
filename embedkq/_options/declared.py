"""Every option, declared once. Pure; imports nothing that `kq --help` does not need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from embedkq._formats.allowlist import check_patterns
from embedkq._options import checks
from embedkq._options.option import BOTH, COMMAND, EXTENSION, QUEUE, START, WORKER, Absent, Option

_NO_COMMAND = Absent("`kq enqueue` has it for one job")
_NO_APP = Absent("only a Flask app has it")
_NO_END = Absent("a server's worker runs as long as the server; `flask kq worker` has it")


def _plain(check: Callable[[Any], Any]) -> Callable[[Any, str], Any]:
    """For the check of one option, which knows its name."""
    return lambda value, name: check(value)


def _count(minimum: int) -> Callable[[Any, str], int]:
    return lambda value, name: checks.check_count(name, value, minimum)


OPTIONS: tuple[Option, ...] = (
    Option(
        "hosts",
        BOTH,
        "str",
        "localhost:9092",
        "Kafka brokers, separated by commas",
        check=_plain(checks.check_hosts),
        metavar="HOST:PORT,...",
    ),
    Option("topic", BOTH, "str", "default", "Topic of the jobs", check=checks.check_topic),
    Option(
        "timeout",
        (QUEUE,),
        "float | None",
        None,
        "Limit of each job",
        unit="seconds",
        none="no limit",
        check=checks.check_timeout,
        command_line=_NO_COMMAND,
    ),
    Option(
        "timeout",
        (WORKER,),
        "float | None",
        None,
        "Limit of every job, in place of the job's own",
        unit="seconds",
        none="the job's own",
        check=checks.check_timeout,
        setting="EMBEDKQ_WORKER_TIMEOUT",
    ),
    Option(
        "callback",
        (WORKER,),
        "Callback | None",
        None,
        "Python file or module with a function named `callback`",
        none="no callback",
        check=_plain(checks.check_callback),
        metavar="FILE|MODULE",
        setting=Absent("`EmbedKQ(callback=...)` or `@kq.callback`"),
    ),
    Option(
        "job_size",
        BOTH,
        "int",
        1_000_000,
        "Largest record, key and headers included",
        unit="bytes",
        check=_count(1),
    ),
    Option(
        "cafile",
        BOTH,
        "str | None",
        None,
        "Certificates of trusted authorities, PEM. Any of these files means TLS",
        none="the system's certificates",
    ),
    Option("certfile", BOTH, "str | None", None, "The client's certificate, PEM", none="none"),
    Option("keyfile", BOTH, "str | None", None, "The client's private key, PEM", none="none"),
    Option("crlfile", BOTH, "str | None", None, "Certificate revocation list, PEM", none="none"),
    Option(
        "proc_ttl",
        (WORKER,),
        "int | None",
        5000,
        "Jobs after which a child process is replaced",
        unit="jobs",
        none="never",
        check=lambda value, name: checks.check_count(name, value, 0) or None,
    ),
    Option(
        "offset_policy",
        (WORKER,),
        "str",
        "earliest",
        "Where a group without a committed offset starts",
        check=_plain(checks.check_offset_policy),
        command_line="--offset",
        metavar="earliest|latest",
    ),
    Option(
        "group",
        (WORKER,),
        "str | None",
        None,
        "Consumer group",
        none="the topic",
        check=_plain(checks.check_group),
    ),
    Option("processes", (WORKER,), "int", 1, "How many jobs run at the same time", check=_count(1)),
    Option(
        "handoff",
        (WORKER,),
        "Callable[[Callable[[], None]], Any] | None",
        None,
        "Makes the owner run another function soon",
        none="the owner calls `run_callbacks`",
        check=_plain(checks.check_handoff),
        command_line=Absent("`kq worker` owns its worker itself"),
        setting=Absent("the extension owns its worker itself"),
    ),
    Option(
        "initializer",
        (WORKER,),
        "Callable[..., Any] | None",
        None,
        "Called in each child process before its first job, such as django:setup. With --callback"
        " also called in this process, which unpickles jobs for the callback",
        none="none",
        check=_plain(checks.check_initializer),
        metavar="MODULE:FUNCTION",
    ),
    Option(
        "initargs",
        (WORKER,),
        "Iterable[Any]",
        (),
        "Arguments of the initializer",
        check=_plain(checks.check_initargs),
        command_line=Absent("MODULE:FUNCTION is called without arguments"),
        setting=Absent("EMBEDKQ_INITIALIZER may be a functools.partial"),
    ),
    Option(
        "decode_timeout",
        (WORKER,),
        "float | None",
        300.0,
        "Limit for unpickling a job, imports included",
        unit="seconds",
        none="no limit",
        check=checks.check_timeout,
    ),
    Option(
        "stop_timeout",
        (WORKER,),
        "float | None",
        30.0,
        "Running jobs get this long after SIGTERM or Ctrl-C, are then killed, and run again later",
        unit="seconds",
        none="no limit",
        check=checks.check_timeout,
        command_line_default=25.0,
    ),
    Option(
        "revoke_timeout",
        (WORKER,),
        "float",
        10.0,
        "Running jobs get this long when their partition moves to another worker",
        unit="seconds",
        check=checks.check_timeout,
    ),
    Option(
        "dead_letter_topic",
        (WORKER,),
        "str | None",
        None,
        "Topic for records that cannot be run, and for jobs that failed",
        none="they are logged and skipped",
        check=checks.check_topic,
        metavar="TOPIC",
    ),
    Option(
        "retries",
        (QUEUE,),
        "int | None",
        None,
        "How often a job that failed runs again",
        unit="times",
        none="the worker decides",
        check=_count(0),
        command_line=_NO_COMMAND,
        setting="EMBEDKQ_QUEUE_RETRIES",
    ),
    Option(
        "retries",
        (WORKER,),
        "int",
        0,
        "How often a job that failed runs again",
        unit="times",
        check=_count(0),
    ),
    Option(
        "backoff",
        (QUEUE,),
        "float | None",
        None,
        "Delay before the first retry; it doubles with each further one",
        unit="seconds",
        none="the worker decides",
        check=checks.check_timeout,
        command_line=_NO_COMMAND,
        setting="EMBEDKQ_QUEUE_BACKOFF",
    ),
    Option(
        "backoff",
        (WORKER,),
        "float",
        1.0,
        "Delay before the first retry; it doubles with each further one",
        unit="seconds",
        check=checks.check_timeout,
    ),
    Option(
        "retry_on",
        (WORKER,),
        "Iterable[type[BaseException] | str] | None",
        None,
        "Retry only after this exception, such as OSError or requests.Timeout, which is imported",
        none="all exceptions",
        check=_plain(checks.check_retry_on),
        metavar="EXCEPTION",
        repeated=True,
    ),
    Option(
        "serializer",
        (QUEUE,),
        "str",
        "pickle",
        "How calls are written: pickle, or json, which other programs can read and write too",
        check=_plain(checks.check_serializer),
        command_line=_NO_COMMAND,
        metavar="pickle|json",
    ),
    Option(
        "max_crashes",
        (WORKER,),
        "int | None",
        3,
        "How often hosts may crash over one job",
        unit="times",
        none="no limit",
        check=_count(1),
    ),
    Option(
        "secret",
        BOTH,
        "Secret | Sequence[Secret] | None",
        None,
        "Accept only jobs that are signed with the secret in this file. The variable EMBEDKQ_SECRET"
        " holds the secret itself",
        none="jobs need no signature",
        check=_plain(checks.check_secret),
        command_line="--secret-file",
        repeated=True,
        is_secret=True,
    ),
    Option(
        "max_age",
        (WORKER,),
        "float | None",
        None,
        "Refuse jobs that were enqueued longer ago",
        unit="seconds",
        none="no limit",
        check=checks.check_timeout,
    ),
    Option(
        "allow",
        (WORKER,),
        "Sequence[str] | None",
        None,
        "Run only functions that match this pattern, such as 'shop.jobs.*'",
        none="all functions",
        check=_plain(check_patterns),
        metavar="PATTERN",
        repeated=True,
    ),
    Option(
        "kafka",
        BOTH,
        "Mapping[str, Any] | None",
        None,
        "JSON file with further options of kafka-python, such as passwords",
        none="none",
        command_line="--kafka-file",
        is_secret=True,
    ),
    Option(
        "eager",
        (QUEUE,),
        "bool",
        False,
        "Run each job at once in the process that enqueues it, without Kafka",
        check=checks.check_flag,
        command_line=_NO_COMMAND,
    ),
    Option(
        "burst",
        (START,),
        "bool",
        False,
        "End when everything that the topic held at the start is done",
        setting=_NO_END,
    ),
    Option(
        "max_jobs",
        (START,),
        "int | None",
        None,
        "End after this many jobs",
        unit="jobs",
        none="no end",
        check=_count(1),
        setting=_NO_END,
    ),
    Option(
        "wait",
        (START,),
        "bool",
        True,
        "If Kafka is away at the start, wait for it",
        command_line="--keep-trying",
        setting=Absent("the extension always keeps trying"),
    ),
    Option(
        "verbose",
        (COMMAND,),
        "bool",
        False,
        "Log normal events too, not only problems",
        setting=Absent("the app sets up its logging"),
    ),
    Option(
        "worker",
        (EXTENSION,),
        "bool",
        True,
        "Whether the app runs jobs; False: it only enqueues",
        command_line=_NO_APP,
    ),
    Option(
        "app",
        (EXTENSION,),
        "str | None",
        None,
        'Where a child process finds the app, such as "shop:create_app"',
        none="jobs run outside the app's context",
        check=checks.check_text,
        command_line=_NO_APP,
    ),
    Option(
        "health_url",
        (EXTENSION,),
        "str | None",
        None,
        'Path of the health page, such as "/health/jobs"',
        none="no health page",
        check=checks.check_text,
        command_line=_NO_APP,
    ),
)


def options_of(*takers: str) -> tuple[Option, ...]:
    """Those that any of these take."""
    return tuple(option for option in OPTIONS if not set(takers).isdisjoint(option.takers))


def checked(taker: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What is accepted for the arguments of a taker, by name; `arguments` may hold more.

    Raises:
        TypeError, ValueError: one cannot work; the message names it.
    """
    return {option.name: option.checked(arguments[option.name]) for option in _TAKEN[taker]}


_TAKEN = {taker: options_of(taker) for taker in (QUEUE, WORKER, START, EXTENSION)}
