"""Every exception that embedkq raises or hands to a callback.

::

    EmbedkqError
    ├── BrokerUnavailable (ConnectionError)  hosts do not answer, or not in time
    ├── BrokerRefused                        the broker answers, and does not allow it
    ├── EnqueueFailed                        enqueue_many: some jobs were not acknowledged
    ├── QueueIncomplete                      unpickled, without its secret or options
    ├── EncodeError (ValueError)             a function or an argument cannot be pickled
    ├── DecodeError (ValueError)             bytes that are no call and no outcome
    ├── JobTooLarge (ValueError)             larger than job_size, or than the broker takes
    ├── RecordRefused                        a record that may not run here; only logged
    │   ├── SignatureRefused                 not signed, altered, moved, too old
    │   │   └── SecretUnknown                signed with a secret that is unknown here
    │   ├── OtherGroup                       put back for another consumer group
    │   ├── FunctionRefused                  a function that `allow` does not name
    │   └── LetterRefused                    a dead letter that may not be put back
    ├── WorkerError                          (RuntimeError)
    │   ├── WrongThread                      an owner's method called on another thread
    │   ├── InsideCallback                   an owner's method called from within a callback
    │   ├── WorkerFailed                     the worker ended by itself; __cause__ tells why
    │   ├── ChildStartFailed                 child processes cannot start
    │   └── Closed                           a mailbox or a queue that was closed is used
    └── JobError                             what a callback gets beside the job's own
        ├── JobCrashed                       the child process died while the job ran
        ├── HostCrashed                      hosts went down over the job
        ├── JobExited                        the job raised SystemExit or the like
        ├── JobFailed                        the job's exception could not be pickled or rebuilt
        ├── ResultNotPicklable               the job's result could not be pickled or rebuilt
        └── ResultTooLarge                   the job's result is above what a worker takes
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
    """The Kafka hosts did not answer in time.

    Attributes:
        hosts: the hosts that were tried, comma separated.
        maybe_sent: True if the job may have reached the broker all the same; sending it again could
            run it twice.
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
            " The job may have been sent: enqueueing it again could run it twice."
            if self.maybe_sent
            else ""
        )
        return (
            f"no Kafka broker at {self.hosts}: {self.reason}. Check the address and that the broker"
            f" runs.{sent}"
        )


def _rebuild_broker_unavailable(hosts: str, reason: str, maybe_sent: bool) -> BrokerUnavailable:
    return BrokerUnavailable(hosts, reason, maybe_sent=maybe_sent)


class BrokerRefused(EmbedkqError):
    """The Kafka broker answers, and refuses for good: authentication, authorization, a topic that
    does not exist."""


class EnqueueFailed(EmbedkqError):
    """Some jobs of `enqueue_many` were not acknowledged; `__cause__` is the first reason.

    Attributes:
        acknowledged: the jobs that all replicas have.
        failed: the jobs of which that is not known.
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
    """A queue came out of a pickle, where secrets and passwords never go, and so cannot enqueue as
    the original would."""


class EncodeError(EmbedkqError, ValueError):
    """A function or an argument cannot be pickled, or not be rebuilt in a child process; the
    message names it, and what to do."""


class DecodeError(EmbedkqError, ValueError):
    """Bytes that cannot be turned back into a function call or an outcome: damaged, or a module or
    function that they name is missing."""


class JobTooLarge(EmbedkqError, ValueError):
    """The encoded job is larger than allowed.

    Attributes:
        size: bytes of payload, key and headers together.
        limit: bytes that are allowed; None where the broker refused without telling its limit.
    """

    def __init__(self, size: int, limit: int | None, limited_by: str = "job_size") -> None:
        super().__init__(size, limit, limited_by)
        self.size = size
        self.limit = limit
        self.limited_by = limited_by

    def __str__(self) -> str:
        allowed = "what it takes" if self.limit is None else f"{self.limit:,} bytes"
        return (
            f"the job takes {self.size:,} bytes, more than {self.limited_by} allows ({allowed})."
            " Pass a reference (a path, a key) instead of the data, or raise the limit on Queue,"
            " Worker and topic."
        )


class RecordRefused(EmbedkqError):
    """A record may not run here."""


class SignatureRefused(RecordRefused):
    """A record is not signed, was altered, comes from another topic, or is too old."""


class SecretUnknown(SignatureRefused):
    """A record is signed with a secret that this worker does not have.

    Attributes:
        name: of that secret, a digest of it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"it is signed with a secret that this worker does not know, named {self.name}"


class FunctionRefused(RecordRefused):
    """A record calls a function that `allow` does not name."""


class OtherGroup(RecordRefused):
    """A record that was put back for another consumer group, whose own job had failed; this one has
    dealt with it before."""


class LetterRefused(RecordRefused):
    """A dead letter may not be put back."""


class WorkerError(EmbedkqError, RuntimeError):
    """A worker was used in a way that cannot work, or cannot go on."""


class WrongThread(WorkerError):
    """A method of the worker's owner was called on another thread."""


class InsideCallback(WorkerError):
    """A method of the worker's owner was called from within a callback."""


class WorkerFailed(WorkerError):
    """The worker has ended by itself; `__cause__` is the reason, also kept as `worker.error`."""


class ChildStartFailed(WorkerError):
    """Child processes cannot start: an initializer raises, an import fails, or they die before
    their first job."""


class Closed(WorkerError):
    """Something was put where nobody will look any more."""


class JobError(EmbedkqError):
    """Base of what a callback may get as `exception` beside the exceptions that jobs raise
    themselves."""


class JobCrashed(JobError):
    """The child process died while the job ran.

    Attributes:
        exitcode: as in `multiprocessing`: the exit status, or minus the signal's number; None if
            unknown.
    """

    def __init__(self, exitcode: int | None = None) -> None:
        super().__init__(exitcode)
        self.exitcode = exitcode

    @property
    def signal(self) -> int | None:
        """Number of the signal that ended the process, or None if it exited."""
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
    """The worker's own process went down while the job ran alone in it, so often that it is not run
    any more.

    Attributes:
        count: how often.
        hosts: names of the hosts that it ran on then, as far as they are known.
    """

    def __init__(self, count: int, hosts: Sequence[str] = ()) -> None:
        super().__init__(count, hosts)
        self.count = count
        self.hosts = tuple(hosts)

    def __str__(self) -> str:
        where = f" (on {', '.join(self.hosts)})" if self.hosts else ""
        return (
            f"the worker's own process went down {self.count} times{where} while this job ran alone"
            " in it, so it is not run any more"
        )


class JobExited(JobError):
    """The job raised what is no `Exception`: SystemExit, KeyboardInterrupt, GeneratorExit or one of
    its own.

    Attributes:
        type_name: qualified name of the type raised.
        exit_args: its arguments (those that are simple values; others as their repr).
    """

    def __init__(self, type_name: str, exit_args: tuple[Any, ...] = ()) -> None:
        super().__init__(type_name, exit_args)
        self.type_name = type_name
        self.exit_args = exit_args

    def __str__(self) -> str:
        return f"the job raised {self.type_name}({', '.join(map(repr, self.exit_args))})"


class JobFailed(JobError):
    """Stands for a job's exception that cannot be pickled or rebuilt here.

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
    """The job returned something that cannot be pickled or rebuilt.

    Attributes:
        type_name: qualified name of the result's type.
        message: why it could not be pickled or rebuilt.
    """

    def __str__(self) -> str:
        return f"the job's result of type {self.type_name} cannot be sent back: {self.message}"


class ResultTooLarge(JobError):
    """The job's result is larger than a worker takes back.

    Attributes:
        size: bytes of the pickled result.
        limit: bytes that are allowed.
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
    """A type's qualified name, as messages and `type_name` have it: without module for builtins."""
    module = getattr(kind, "__module__", None)
    return kind.__qualname__ if module in (None, "builtins") else f"{module}.{kind.__qualname__}"
