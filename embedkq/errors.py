"""Every exception that embedkq raises or passes to a callback.

::

    EmbedkqError
    ├── BrokerUnavailable (ConnectionError)   the brokers do not answer in time
    ├── BrokerRefused                         the broker answers and refuses
    ├── EnqueueFailed                         enqueue_many: some jobs were not acknowledged
    ├── QueueIncomplete                       an unpickled queue lacks its secret or options
    ├── EncodeError (ValueError)              a function or an argument cannot be pickled
    ├── DecodeError (ValueError)              bytes are not a valid call or outcome
    ├── JobTooLarge (ValueError)              larger than job_size, or than the broker accepts
    ├── RecordRefused                         a worker refuses a record; only logged
    │   ├── SignatureRefused                  not signed, altered, from another topic, or too old
    │   │   └── SecretUnknown                 signed with a secret that the worker does not have
    │   ├── OtherGroup                        retried for another consumer group
    │   ├── FunctionRefused                   `allow` does not include the function
    │   └── LetterRefused                     `kq dlq retry` keeps this dead letter
    ├── WorkerError (RuntimeError)
    │   ├── WrongThread                       an owner's method called on another thread
    │   ├── InsideCallback                    an owner's method called inside a callback
    │   ├── WorkerFailed                      the worker ended by itself; see __cause__
    │   ├── ChildStartFailed                  child processes cannot start
    │   └── Closed                            a closed queue or mailbox is used
    └── JobError                              passed to callbacks, beside the job's own exceptions
        ├── JobCrashed                        the child process died while the job ran
        ├── HostCrashed                       the host process died several times over the job
        ├── JobExited                         the job raised SystemExit, KeyboardInterrupt, ...
        ├── JobFailed                         the job's exception cannot be pickled or rebuilt
        ├── ResultNotPicklable                the job's result cannot be pickled or rebuilt
        └── ResultTooLarge                    the job's result is larger than a worker accepts
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from embedkq.job import Job


class EmbedkqError(Exception):
    """Base of all exceptions of embedkq."""


class BrokerUnavailable(EmbedkqError, ConnectionError):
    """The Kafka brokers did not answer in time.

    Attributes:
        hosts: the hosts, separated by commas.
        maybe_sent: True if the job may have reached the broker anyway. If you enqueue it again, it
            may run twice.
    """

    def __init__(self, hosts: str, reason: str, *, maybe_sent: bool = False) -> None:
        super().__init__(hosts, reason, maybe_sent)
        self.hosts = hosts
        self.reason = reason
        self.maybe_sent = maybe_sent

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_broker_unavailable, (self.hosts, self.reason, self.maybe_sent), vars(self)

    def __str__(self) -> str:
        sent = (
            " The job may have been sent: if you enqueue it again, it may run twice."
            if self.maybe_sent
            else ""
        )
        return (
            f"no Kafka broker at {self.hosts}: {self.reason}. Check the address, and that the"
            f" broker is running.{sent}"
        )


def _rebuild_broker_unavailable(hosts: str, reason: str, maybe_sent: bool) -> BrokerUnavailable:
    return BrokerUnavailable(hosts, reason, maybe_sent=maybe_sent)


class BrokerRefused(EmbedkqError):
    """The Kafka broker answers and refuses: wrong credentials, a missing right, or a topic that
    does not exist. Retrying does not help."""


class EnqueueFailed(EmbedkqError):
    """The broker did not acknowledge some jobs of `enqueue_many`. `__cause__` is the first reason.

    Attributes:
        acknowledged: the jobs that all replicas have.
        failed: the other jobs. Some of them may have reached the broker.
    """

    def __init__(self, acknowledged: Sequence[Job], failed: Sequence[Job]) -> None:
        super().__init__(acknowledged, failed)
        self.acknowledged = list(acknowledged)
        self.failed = list(failed)

    def __str__(self) -> str:
        total = len(self.acknowledged) + len(self.failed)
        reason = f": {self.__cause__}" if self.__cause__ else ""
        return f"{len(self.failed)} of {total} jobs were not acknowledged{reason}"


class QueueIncomplete(EmbedkqError):
    """An unpickled queue cannot enqueue, because pickles never contain its secret and passwords."""


class EncodeError(EmbedkqError, ValueError):
    """A function or an argument cannot be pickled, or cannot be rebuilt in a child process. The
    message names it and says what to do."""


class DecodeError(EmbedkqError, ValueError):
    """Bytes cannot be decoded as a call or an outcome: they are damaged, or a module or function is
    missing."""


class JobTooLarge(EmbedkqError, ValueError):
    """The encoded job is larger than allowed.

    Attributes:
        size: bytes of payload, key and headers together.
        limit: the allowed number of bytes; None if the broker refused without naming its limit.
    """

    def __init__(self, size: int, limit: int | None, limited_by: str = "job_size") -> None:
        super().__init__(size, limit, limited_by)
        self.size = size
        self.limit = limit
        self.limited_by = limited_by

    def __str__(self) -> str:
        allowed = "" if self.limit is None else f" ({self.limit:,} bytes)"
        return (
            f"the job takes {self.size:,} bytes, more than {self.limited_by} allows{allowed}."
            " Pass a reference (a path, a key) instead of the data, or raise the limit on Queue,"
            " Worker and topic."
        )


class RecordRefused(EmbedkqError):
    """A worker refuses to run a record."""


class SignatureRefused(RecordRefused):
    """A record is not signed, was altered, was copied from another topic, or is too old."""


class SecretUnknown(SignatureRefused):
    """A record is signed with a secret that this worker does not have.

    Attributes:
        name: the secret's name, a digest of it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"it is signed with a secret that this worker does not have, named {self.name}"


class FunctionRefused(RecordRefused):
    """`allow` does not include the function that a record calls."""


class OtherGroup(RecordRefused):
    """A record was retried for another consumer group, where its job failed. This group has done it
    before."""


class LetterRefused(RecordRefused):
    """A dead letter cannot be retried."""


class WorkerError(EmbedkqError, RuntimeError):
    """A worker was used in a way that cannot work, or cannot continue."""


class WrongThread(WorkerError):
    """A method for the worker's owner was called on another thread."""


class InsideCallback(WorkerError):
    """A method for the worker's owner was called inside a callback."""


class WorkerFailed(WorkerError):
    """The worker ended by itself. `__cause__` and `worker.error` have the reason."""


class ChildStartFailed(WorkerError):
    """Child processes cannot start: the initializer raises, an import fails, or they die before
    their first job."""


class Closed(WorkerError):
    """A closed queue or mailbox was used."""


class JobError(EmbedkqError):
    """Base of the exceptions that a callback may receive beside the job's own exceptions."""


class JobCrashed(JobError):
    """The child process died while the job ran.

    Attributes:
        exitcode: the exit status, or minus the signal's number, as in `multiprocessing`; None if
            unknown.
    """

    def __init__(self, exitcode: int | None = None) -> None:
        super().__init__(exitcode)
        self.exitcode = exitcode

    @property
    def signal(self) -> int | None:
        """Number of the signal that killed the process, or None if the process exited."""
        return -self.exitcode if self.exitcode is not None and self.exitcode < 0 else None

    def __str__(self) -> str:
        if self.exitcode is None:
            return "the job's process died"
        if self.signal is None:
            return f"the job's process exited with status {self.exitcode}"
        try:
            name = signal.Signals(self.signal).name
        except ValueError:
            name = f"signal {self.signal}"
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"the job's process was killed by {name}{hint}"


class HostCrashed(JobError):
    """The worker's own process died so often while it ran only this job that the job will not run
    again.

    Attributes:
        count: the number of times.
        hosts: names of the hosts, as far as they are known.
    """

    def __init__(self, count: int, hosts: Sequence[str] = ()) -> None:
        super().__init__(count, hosts)
        self.count = count
        self.hosts = tuple(hosts)

    def __str__(self) -> str:
        where = f" (on {', '.join(self.hosts)})" if self.hosts else ""
        return (
            f"the worker's own process died {self.count} times{where} while it ran only this job,"
            " so the job will not run again"
        )


class JobExited(JobError):
    """The job raised an exception that is not an `Exception`: SystemExit, KeyboardInterrupt,
    GeneratorExit, or its own subclass of BaseException.

    Attributes:
        type_name: qualified name of the exception's type.
        exit_args: its arguments. Arguments that are not simple values are replaced by their repr.
    """

    def __init__(self, type_name: str, exit_args: tuple[Any, ...] = ()) -> None:
        super().__init__(type_name, exit_args)
        self.type_name = type_name
        self.exit_args = exit_args

    def __str__(self) -> str:
        return f"the job raised {self.type_name}({', '.join(map(repr, self.exit_args))})"


class JobFailed(JobError):
    """Replaces a job's exception that cannot be pickled or rebuilt here.

    Attributes:
        type_name: qualified name of the job's exception.
        message: its text.
    """

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name = type_name
        self.message = message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}"


class ResultNotPicklable(JobFailed):
    """The job's result cannot be pickled or rebuilt.

    Attributes:
        type_name: qualified name of the result's type.
        message: why it could not be pickled or rebuilt.
    """

    def __str__(self) -> str:
        return f"the job's result of type {self.type_name} cannot be sent back: {self.message}"


class ResultTooLarge(JobError):
    """The job's result is larger than a worker accepts.

    Attributes:
        size: bytes of the pickled result.
        limit: the allowed number of bytes.
    """

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(size, limit)
        self.size = size
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"the job's result takes {self.size:,} bytes, more than {self.limit:,}. "
            "Store it and return a reference (a path, a key) instead."
        )


def type_name(kind: type) -> str:
    """A type's qualified name, as used in messages and in `type_name`; without the module for
    builtins."""
    module = getattr(kind, "__module__", None)
    return kind.__qualname__ if module in (None, "builtins") else f"{module}.{kind.__qualname__}"
