"""What is fuzzed in one process: each target makes an input from a `Random`, and tells whether its
reader took it or refused it.

A reader that raises anything but its own refusals has failed, and so has one that takes what its
oracle says it must not.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import math
import os
import pickle
import signal
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import workerjobs
from click.testing import CliRunner
from rich.console import Console
from support import OUR_LOGGERS, kept_loggers

from embedkq import codec
from embedkq._child import process
from embedkq._child.runner import BEGUN, ENDED, ENDED_PRINTING, LOGGED, REPLY_HEADER
from embedkq._formats import (
    commit_metadata,
    dead_letter,
    headers,
    kq_record,
    offset_map,
    user_headers,
)
from embedkq._formats.commit_metadata import CommitMetadata
from embedkq._formats.outcome import Outcome
from embedkq._formats.signing import Signer
from embedkq._ipc import channel
from embedkq._ipc.progress_page import Phase, ProgressPage
from embedkq._partition import Partition
from embedkq.cli import callback_file, kq
from embedkq.cli.dlq import render
from embedkq.dlq import letters
from embedkq.errors import DecodeError
from embedkq.job import Job
from embedkq.worker.between_threads.host_cpu import HostCpu
from embedkq.worker.between_threads.other_runs import KQJobRun
from embedkq.worker.between_threads.task import Task
from embedkq.worker.consumer_thread.validator import RecordValidator
from embedkq.worker.pool import job_output
from embedkq.worker.pool.child_handle import Child
from embedkq.worker.pool.pool import JobPool
from embedkq.worker.pool.prefetch import Prefetch

from . import json_jobs, plain_records
from .mutate import changed, changed_headers, changed_text

TOPIC, SECRET = "fuzz", "a secret of the fuzzer, long enough"
PARTITION = Partition(TOPIC, 0)


class Target(NamedTuple):
    """One reader.

    Attributes:
        name: for the table.
        make: an input.
        read: whether the reader took it; raises if it failed.
        share: of all inputs, in parts; slow readers get less.
        lasts: a worker's process reads with it as long as it runs, so it must keep nothing.
    """

    name: str
    make: Callable[[Random], Any]
    read: Callable[[Any], bool]
    share: float
    lasts: bool = True


class Attack:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = str(mark)

    def __reduce__(self) -> Any:
        return workerjobs.note, (self._mark, "unpickled")


class KQJob:
    """Pickles as a job of KQ does."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


KQJob.__module__, KQJob.__qualname__ = "kq.job", "Job"


def kq_payload(**fields: Any) -> bytes:
    """What a Queue of KQ writes."""
    told = {
        "id": "an id",
        "timestamp": 5,
        "topic": TOPIC,
        "func": workerjobs.echo,
        "args": (1,),
        "kwargs": {},
        "timeout": 0,
        "key": None,
    }
    with mock.patch.dict(
        sys.modules, {"kq": ModuleType("kq"), "kq.job": SimpleNamespace(Job=KQJob)}
    ):  # type: ignore[dict-item]
        return pickle.dumps(KQJob(**{**told, **fields}), 4)


def record_of(value: bytes | None, record_headers: Any, key: bytes | None = None) -> Any:
    return SimpleNamespace(
        offset=0, key=key, value=value, headers=record_headers, timestamp=1, flaw=None
    )


@contextmanager
def targets(folder: Path, mark: Path) -> Iterator[list[Target]]:
    """All of them; the folder is for their files, the mark is what no attack may make."""
    with ExitStack() as stack:
        calls = [
            codec.encode_call(workerjobs.echo, (1, "two"), {"x": b"3"}),
            codec.encode_object((Attack(mark), (), {})),
        ]
        texts = _texts()
        yield [
            *_of_records(calls, mark),
            Target("commit metadata", lambda chance: _metadata(chance, texts), _read_metadata, 8),
            Target(
                "outcome",
                lambda chance: changed(chance, chance.choice(_OUTCOMES), _OUTCOMES),
                _read_outcome,
                8,
            ),
            *stack.enter_context(_of_channel()),
            Target("log record of a child", _log_record, stack.enter_context(_relay()), 6),
            Target("page", lambda chance: chance.randbytes(16), stack.enter_context(_page()), 6),
            Target(
                "registration",
                lambda chance: changed(chance, chance.choice(_REGISTRATIONS)),
                _read_registration,
                6,
            ),
            Target("JSON job", json_jobs.make, json_jobs.read, 8),
            Target("JSON job, in a child", json_jobs.make, json_jobs.decode, 4, lasts=False),
            Target("plain record, to its handler", plain_records.make, plain_records.handle, 8),
            Target(
                "arguments that a child tells",
                lambda chance: changed(chance, b"\x03\x00\x00\x00abctext", (b"\xff\xff\xff\xff",)),
                plain_records.told,
                2,
            ),
            Target("dead letter", lambda chance: _letter(chance, calls), _read_letter, 8),
            Target(
                "dead letter, shown",
                lambda chance: _letter(chance, calls),
                _show_letter,
                0.3,
                lasts=False,
            ),
            Target(
                "callback file",
                lambda chance: _callback(chance),
                stack.enter_context(_callback_loader(folder)),
                1,
                lasts=False,
            ),
            Target(
                "command line",
                _arguments,
                stack.enter_context(_command_line(folder)),
                0.3,
                lasts=False,
            ),
        ]


# Records.


def changed_record(
    chance: Random, topic: str, signer: Signer | None, good: list[bytes], attacks: list[bytes]
) -> tuple[Any, Any]:
    """A record on which somebody without the secret has laid hands, and key, value and headers as
    they were before."""
    value: bytes | None = chance.choice(good)
    key = chance.choice((None, None, b"", b"k", good[0]))
    job_id, own = (
        str(uuid.UUID(int=chance.getrandbits(128))),
        chance.choice(((None, None, None), (4.5, None, None), (4.5, 2, 0.5))),
    )
    plain = headers.headers_of(job_id, 1_700_000_000_000, *own)
    plain += user_headers.encode(chance.choice((None, None, {"tenant": "a"}, {"a": "1", "b": ""})))
    made = list(plain)
    if signer is not None and chance.random() < 0.8:
        made = signer.sign(topic, key, plain, value or b"")
    elif attacks:
        value = chance.choice(attacks)
    original, payloads = (key, value, made), [*good, *attacks]
    if chance.random() < 0.5:
        value = chance.choice(
            (
                None,
                b"",
                *attacks,
                changed(chance, value or b"", payloads),
                changed(chance, value or b"", payloads),
            )
        )
    if chance.random() < 0.2:
        key = chance.choice((None, b"", changed(chance, key or b"")))
    if chance.random() < 0.1:
        return record_of(value, [], key), original
    return record_of(
        value, changed_headers(chance, made, payloads) if chance.random() < 0.8 else made, key
    ), original


def _of_records(calls: list[bytes], mark: Path) -> list[Target]:
    signer = Signer(SECRET)
    good, attacks = (
        [calls[0], kq_payload(), b"", b"{}"],
        [calls[1], kq_payload(args=(Attack(mark),))],
    )
    payloads = [*good, *attacks]

    def make(chance: Random) -> Any:
        return changed_record(chance, TOPIC, signer, good, attacks)

    gates = {
        "record, no secret": RecordValidator(),
        "record, secret": RecordValidator(signer=signer),
        "record, allow and max_age": RecordValidator(max_age=10.0**12, allow=["workerjobs.*"]),
    }

    def reader(gate: RecordValidator, has_secret: bool) -> Callable[[Any], bool]:
        def read(made: Any) -> bool:
            record, (key, value, sent) = made
            run = gate.validate(PARTITION, 0, record)
            if run.refusal is not None:
                return False
            for seconds in (run.limit, run.backoff):
                assert seconds is None or (seconds > 0 and math.isfinite(seconds)), seconds
            assert run.retries is None or run.retries >= 0, run.retries
            assert run.job_id and len(run.parts()) == 2
            if has_secret:
                assert (record.key, record.value, _ours(record.headers)) == (
                    key,
                    value,
                    _ours(sent),
                ), "altered, and let in"
                assert (run.headers or {}) == user_headers.decode(sent), "headers altered"
            return True

        return read

    def make_kq(chance: Random) -> bytes:
        return changed(chance, chance.choice(payloads), payloads)

    def read_kq(payload: bytes) -> bool:
        name = kq_record.function_name(payload)
        assert name is None or kq_record.is_job(payload)
        return name is not None

    told = [
        kq_record.pack_told(Job(id=job_id, timeout=timeout)) + b"text"
        for job_id in ("x", "y" * 300)
        for timeout in (None, 2.5)
    ]

    def read_told(content: bytes) -> bool:
        run = KQJobRun(PARTITION, 0, record_of(b"", []), has_own_limit=True)
        run.limit = 30.0
        run.begun(content)
        assert run.limit is None or (run.limit > 0 and math.isfinite(run.limit))
        return run.job_id.isascii()

    shares = {"record, no secret": 15, "record, secret": 20, "record, allow and max_age": 10}
    return [
        *(
            Target(name, make, reader(gate, name == "record, secret"), shares[name])
            for name, gate in gates.items()
        ),
        Target("payload of KQ", make_kq, read_kq, 10),
        Target(
            "what a job of KQ tells",
            lambda chance: changed(chance, chance.choice(told), told),
            read_told,
            4,
        ),
    ]


def _ours(record_headers: Any) -> list[tuple[str, bytes]]:
    return sorted(
        (name, value or b"") for name, value in record_headers if headers.has_ours([(name, value)])
    )


# Commit metadata.

_RUNS: list[list[tuple[int, int]]] = [
    [(101, 102)],
    [(102, 110), (111, 115), (900, 901)],
    [(101 + 2 * n, 102 + 2 * n) for n in range(400)],
    [(101 + 37 * n * n, 103 + 37 * n * n) for n in range(60)],
    [(2**40, 2**41)],
]


def _texts() -> list[str]:
    hosts = ("web-1", "web-2", "w" * 64)
    noted = [
        commit_metadata.NOTHING,
        CommitMetadata(3, 101, {101: 2}, {}, hosts),
        CommitMetadata(0, None, {}, {120 + 7 * n: n for n in range(1, 200)}),
    ]
    return [commit_metadata.encode(100, runs, each) for runs in ([], *_RUNS) for each in noted]


def _metadata(chance: Random, texts: list[str]) -> tuple[int, str]:
    start = chance.choice((100, 100, 0, 2**62, 2**63 - 2))
    kind = chance.randrange(3)
    if kind == 0:
        return start, changed_text(chance, chance.choice(texts), texts)
    # With a checksum that fits: what is behind it must be sound, too.
    method, content = chance.choice("vVbB"), changed(chance, chance.randbytes(chance.randrange(40)))
    if kind == 1:
        if method.isupper():
            content = zlib.compress(content, wbits=-15)
        return start, offset_map.VERSION + method + base64.b85encode(
            offset_map._checksum(start, method, content) + content
        ).decode()
    if chance.random() < 0.7:
        content = offset_map.write_varints(
            [
                chance.choice((0, 0, 1, 2, 3, 100, 2**31, 2**62))
                for _ in range(chance.randrange(3, 12))
            ]
        )
    return start, chance.choice(texts).partition(" ")[0] + " " + base64.b85encode(
        commit_metadata._checksum(start, content) + content
    ).decode()


def _read_metadata(made: tuple[int, str]) -> bool:
    start, text = made
    try:
        runs, noted = commit_metadata.decode(start, text)
    except ValueError:
        return False
    offset_map.check(start, runs)
    # What a worker that goes on from here would commit.
    assert (
        len(
            commit_metadata.encode(
                start, runs, noted.with_crash().begun().suspecting(start, "host")
            )
        )
        <= offset_map.LIMIT
    )
    assert (
        len(commit_metadata.encode(start, runs, noted.given_up().without(start)))
        <= offset_map.LIMIT
    )
    return True


# What comes from a child.

_OUTCOMES = [
    Outcome("success", pickle.dumps([1, 2])).pack(), Outcome("failure", b"\x80", "a.B", "text", "Traceback").pack(),
    Outcome("timeout").pack(), Outcome("undecodable", message="no", text="ü" * 30).pack(),
]  # fmt: skip
_REGISTRATIONS = [b"starting 123 ", b"ready 123 1", b"failed 123 Traceback\nValueError: x"]


def _read_outcome(data: bytes) -> bool:
    try:
        outcome = Outcome.unpack(data)
    except DecodeError:
        return False
    assert len(outcome.pack()) <= 4 * len(data) + 64
    return True


def _read_registration(message: bytes) -> bool:
    kind, pid, detail = process.parts_of(message)
    assert kind != process.READY or int(detail) >= 0
    return bool(kind) and pid >= 0


@contextmanager
def _of_channel() -> Iterator[list[Target]]:
    """Replies, and claims that are taken back, through real sockets."""
    end, child_end = channel.pair()
    writer, claims = channel.claims_pair()
    page, stack = channel.anonymous_file("fuzz-page"), channel.anonymous_file("fuzz-stack")
    ProgressPage.size(page)
    output, printed = os.pipe()
    given = [each.detach() for each in (end, writer, claims)]
    jobs, replies = channel.message_file(), channel.message_file()
    child_channel = channel.Channel(child_end, os.dup(replies), os.dup(jobs))
    child: Child[Task] = Child(
        0, 0, None, job_output.Output(output, b"\0mark\n"), [*given, jobs, replies, page, stack]
    )
    pool: Any = object.__new__(JobPool)
    pool._ended, pool._begun, pool._pace = [], [], Prefetch(HostCpu())
    pool._supervisor = SimpleNamespace(stop_hard=lambda child: None)

    def renew() -> None:
        task = Task("fuzz", b"")
        task.number = 1
        child.tasks.clear()
        child.tasks.append(task)

    def make(chance: Random) -> tuple[bytes, int]:
        kind = chance.choice((BEGUN, ENDED, ENDED_PRINTING, LOGGED, 0, 77))
        body = chance.choice(
            (chance.choice(_OUTCOMES), b"{}", b"", kq_record.pack_told(Job(id="x", timeout=2.0)))
        )
        message = REPLY_HEADER.pack(kind, chance.choice((1, 1, 1, 2, 2**63))) + body
        return changed(chance, message) if chance.random() < 0.7 else message, chance.randrange(20)

    def read_reply(made: tuple[bytes, int]) -> bool:
        message, how = made
        renew()
        if how == 0:  # more than fits goes by a file
            child_channel.send(message + bytes(channel.INLINE_BYTES))
        elif how == 1:
            channel.send_descriptors(child_end, message or b"x", [output, stack])
        else:
            child_end.send(message or b"x")
        pool._read_replies(child)
        took = bool(pool._ended or pool._begun)
        pool._ended.clear()
        pool._begun.clear()
        while channel.wait_readable(
            child.end.fileno(), 0
        ):  # one too short, or without a file behind it, ends a reading
            pool._read_replies(child)
        return took

    def make_claims(chance: Random) -> bytes:
        numbers = b"".join(
            chance.choice((1, 2, 2**64 - 1)).to_bytes(8, sys.byteorder)
            for _ in range(chance.randrange(1, 4))
        )
        return changed(chance, numbers) or b"x"

    def take_back(numbers: bytes) -> bool:
        renew()
        child._claims_writer.send(numbers)
        return bool(child.take_back())

    try:
        yield [
            Target("reply of a child", make, read_reply, 8),
            Target("claims taken back", make_claims, take_back, 4),
        ]
    finally:
        child.close()
        child_channel.close()
        os.close(printed)


def _log_record(chance: Random) -> bytes:
    fields: dict[str, Any] = {
        "name": "shop.till",
        "levelno": 30,
        "levelname": "WARNING",
        "msg": "no change",
        "created": 1.0,
        "pathname": "/x",
        "lineno": 3,
        "exc_text": None,
        "stack_info": None,
        "process": 1,
        "threadName": "MainThread",
    }
    for _ in range(chance.randrange(3)):
        name = chance.choice([*fields, "exc_info", "args", "filename", chance.randbytes(3).hex()])
        fields[name] = chance.choice(
            (
                None,
                0,
                -1,
                "",
                "\ud800",
                [],
                {},
                [1, 2, 3],
                10**30,
                1e400,
                "x" * 100,
                True,
                {"a": [None]},
            )
        )
    data = json.dumps(fields).encode()
    return changed(chance, data) if chance.random() < 0.6 else data


@contextmanager
def _relay() -> Iterator[Callable[[bytes], bool]]:
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        logging.Formatter(
            "%(asctime)s %(levelname)s %(name)s %(threadName)s %(message)s %(job_id)s"
        )
    )
    root = logging.getLogger()

    def read(content: bytes) -> bool:
        stream.seek(0)
        stream.truncate()
        # pytest's own handlers would bring texts that are none into its reports, and a handler's
        # complaints come on stderr.
        old, root.handlers[:], logging.raiseExceptions = root.handlers[:], [handler], False
        try:
            job_output.relay(content, "fuzz")
        finally:
            root.handlers[:], logging.raiseExceptions = old, True
        return stream.tell() > 0

    yield read


@contextmanager
def _page() -> Iterator[Callable[[bytes], bool]]:
    descriptor = channel.anonymous_file("fuzz-page")
    ProgressPage.size(descriptor)
    page = ProgressPage(descriptor)

    def read(data: bytes) -> bool:
        os.pwrite(descriptor, data, 0)
        found = page.read()
        assert isinstance(found.phase, Phase) and 0 <= found.number < 2**64
        return True

    yield read
    page.close()
    os.close(descriptor)


# Dead letters.

_LETTER = dead_letter.DeadLetter(
    "jobs", 3, 17, "failure", "ValueError: x", "Traceback", 2, "host", 1_700_000_000_000
)


def _letter(chance: Random, calls: list[bytes]) -> Any:
    record = dead_letter.Record(
        b"k", calls[0], headers.put_back(headers.headers_of(str(uuid.UUID(int=7)), 1, None))
    )
    buried = dead_letter.as_dead_letter(record, _LETTER._replace(pointer=chance.random() < 0.2))
    return buried._replace(headers=changed_headers(chance, buried.headers, calls))


def _read_letter(record: dead_letter.Record) -> bool:
    try:
        letter, stripped = dead_letter.read(record.headers), dead_letter.strip(record.headers)
    except DecodeError:
        return False
    back = headers.put_back(stripped, 5)
    assert all(isinstance(value, bytes) for _, value in back) and headers.read_rounds(back) >= 0
    again = dead_letter.as_dead_letter(record._replace(headers=stripped), letter)
    assert dead_letter.strip(again.headers) == stripped
    assert all(
        form.size <= again.size or form is not None
        for form in dead_letter.shrinking_forms(record, letter)
    )
    return True


def _show_letter(record: dead_letter.Record) -> bool:
    given = SimpleNamespace(
        key=record.key,
        value=record.value,
        headers=record.headers,
        partition=Partition("topic", 0),
        offset=1,
        timestamp=2,
    )
    letter = letters.read_letter(given, resolved=False)
    assert json.dumps(letter.as_full_dict())
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    console.print(render.table([letter], with_state=True))
    console.print(render.details(letter))
    assert not set(stream.getvalue()) & set("\x1b\x07\x08\r"), "what steers a terminal"
    return letter.dead is not None


# The command line.

_SOURCES = [
    "def callback(status, job, result, exception, traceback):\n    pass\n",
    "callback = print\n",
    "x = 5\n",
    "import json\n\nclass C:\n    def __call__(self, *told):\n        return 1\n\ncallback = C()\n",
    "async def callback(a, b, c, d, e): ...\n",
]
_WHERES = [
    "{folder}/callback.py",
    "{folder}/callback",
    "{folder}",
    "~/x.py",
    "~nobody/x.py",
    "nowhere.to.be.found",
    "./a/b",
    "a b",
    ".",
    "",
]


def _callback(chance: Random) -> tuple[str, bytes]:
    sources = [source.encode() for source in _SOURCES]
    source = chance.choice(sources)
    where = (
        chance.choice(_WHERES[:2])
        if chance.random() < 0.6
        else changed_text(chance, chance.choice(_WHERES), _WHERES)
    )
    return where, changed(chance, source, sources) if chance.random() < 0.8 else source


@contextmanager
def _callback_loader(folder: Path) -> Iterator[Callable[[Any], bool]]:
    old = list(sys.path), sys.dont_write_bytecode

    def read(made: tuple[str, bytes]) -> bool:
        where, source = made
        for name in ("callback.py", "callback"):
            (folder / name).write_bytes(source)
        try:
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(io.StringIO()),
            ):
                function = callback_file.load(where.replace("{folder}", str(folder)))
        except callback_file.CallbackRefused as error:
            assert "\n" not in str(error), "more than one line"
            return False
        finally:
            sys.modules.pop("embedkq_callback", None)
        assert callable(function)
        return True

    sys.dont_write_bytecode = True
    try:
        yield read
    finally:
        sys.path[:], sys.dont_write_bytecode = old


_ARGUMENTS = [
    ["worker", "--burst", "--verbose"], ["worker", "--hosts=localhost:1", "--topic=x", "--timeout=5", "--processes=2"],
    ["worker", "--job-size=100", "--proc-ttl=0", "--offset=latest", "--max-jobs=3", "--group=g"], ["info", "--json", "--topic=x"],
    ["info", "--watch", "--interval=1"], ["demo", "--jobs=5", "--json"], ["broker", "--port=0", "--host=127.0.0.1"],
    ["--version"], ["--help"],
    ["worker", "--secret-file={folder}/kafka.json", "--kafka-file={folder}/kafka.json", "--callback={folder}/good.py"],
    ["worker", "--cafile={folder}/kafka.json", "--dead-letter-topic=dead"],
    ["worker", "--retries=2", "--retry-on=OSError", "--max-crashes=0", "--max-age=60", "--allow=shop.*"],
    ["dlq", "list", "--dead-letter-topic=dead", "--reason=timeout", "--limit=5"], ["dlq", "show", "0:17", "--dead-letter-topic=dead"],
    ["dlq", "retry", "0:17", "--dead-letter-topic=dead", "--yes"], ["dlq", "drop", "--all", "--yes", "--dead-letter-topic=dead"],
]  # fmt: skip


def _arguments(chance: Random) -> tuple[list[str], bytes]:
    arguments = list(chance.choice(_ARGUMENTS))
    flat = [argument for listed in _ARGUMENTS for argument in listed]
    for _ in range(chance.randrange(3)):
        kind, place = chance.randrange(4), chance.randrange(len(arguments) + 1)
        if kind == 0:
            del arguments[place : place + 1]
        elif kind == 1:
            arguments.insert(place, chance.choice(flat))
        elif place < len(arguments):
            arguments[place] = changed_text(chance, arguments[place], flat).replace(
                "\0", ""
            )  # which no system passes to a process
    return arguments, changed(
        chance, b'{"sasl_mechanism": "PLAIN", "client_id": "x", "security_protocol": "SASL_SSL"}'
    )


@contextmanager
def _command_line(folder: Path) -> Iterator[Callable[[Any], bool]]:
    """Every verb up to where it would connect."""
    (folder / "good.py").write_text(_SOURCES[0])
    runner = CliRunner()

    def read(made: tuple[list[str], bytes]) -> bool:
        arguments, options = made
        (folder / "kafka.json").write_bytes(options)
        with kept_loggers("", *OUR_LOGGERS):
            done = runner.invoke(
                kq, [argument.replace("{folder}", str(folder)) for argument in arguments]
            )
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code in (0, 1, 2), done.exit_code
        return done.exit_code == 0

    old = list(sys.path)
    with ExitStack() as stack:
        for name in ("embedkq.Worker.start", "embedkq.cli.worker.set_up_logging"):
            stack.enter_context(mock.patch(name))
        for name in (
            "embedkq._clients.admin.Inspector",
            "embedkq._clients.admin.describe",
            "embedkq.broker.EmbeddedBroker",
            "embedkq.dlq.DeadLetters",
        ):
            stack.enter_context(mock.patch(name, side_effect=lambda *args, **options: sys.exit(0)))
        terminate = signal.getsignal(signal.SIGTERM)
        yield read
        signal.signal(signal.SIGTERM, terminate)
    sys.path[:] = old
