"""Jobs named for their vice, importable by child processes, and what they return and raise.

Jobs that behave are in `workerjobs`.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import ctypes
import io
import logging.config
import multiprocessing
import multiprocessing.util
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, NoReturn

SETTLED = (signal.SIGINT, signal.SIGTERM)


# Ways to die.


def segfault() -> None:
    ctypes.string_at(0)


def exit_with(status: int) -> NoReturn:
    os._exit(status)


def kill_itself(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def abort() -> NoReturn:
    os.abort()


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def recurse_in_c() -> Any:
    """Through C code, with Python's own guard removed: a stack overflow, or RecursionError where C
    has a guard of its own."""
    sys.setrecursionlimit(2**31 - 1)
    return max([0], key=lambda _: recurse_in_c())


# Memory.


def limit_memory() -> None:
    """Initializer: this process gets at most 64 MiB more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    allowed = pages * resource.getpagesize() + 64 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))


def eat_memory(piece_bytes: int) -> None:
    """Allocates pieces until there are no more; they are alive as long as the exception is."""
    hoard = []
    while True:
        hoard.append(bytes(piece_bytes))


def eat_memory_in(cgroup: str) -> None:
    """Moves to a control group with little memory and allocates until the kernel kills it."""
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
    eat_memory(2**20)


# Exceptions.


class TwoArguments(Exception):
    """Pickles, and cannot be rebuilt: pickle calls it with the one argument that it passed on."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class UnreadableError(Exception):
    """Pickles, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class EndlessError(Exception):
    """Pickles; its unpickling never ends."""

    def __reduce__(self) -> Any:
        return time.sleep, (60,)


class MuteError(Exception):
    """Has no text, no repr, and no way to be pickled."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__

    def __reduce__(self) -> Any:
        raise ValueError("no pickle")


class UnprintableExit(BaseException):
    def __str__(self) -> str:
        raise ValueError("no text")


def raise_two_arguments() -> None:
    raise TwoArguments("one", "two")


def raise_unreadable() -> None:
    raise UnreadableError("cannot be read")


def raise_endless() -> None:
    raise EndlessError("never ends")


def raise_mute() -> None:
    raise MuteError


def raise_unprintable_exit() -> None:
    raise UnprintableExit


def raise_timeout_error() -> None:
    raise TimeoutError("the job's own")


def raise_keyboard_interrupt() -> None:
    raise KeyboardInterrupt


def raise_generator_exit() -> None:
    raise GeneratorExit("over")


def exit_politely(status: object) -> None:
    sys.exit(status)  # type: ignore[arg-type]


def raise_with_lock() -> None:
    raise LookupError("holds", threading.Lock(), socket.socket())


def raise_group() -> None:
    raise LookupError("outer") from ValueError("inner")


# Results.


class Unreadable:
    """Pickles, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class Endless:
    """Pickles; its unpickling never ends."""

    def __reduce__(self) -> Any:
        return time.sleep, (60,)


class EndlessToPickle:
    def __reduce__(self) -> Any:
        while True:
            pass


class DeadlyToPickle:
    def __reduce__(self) -> Any:
        os._exit(5)


def return_lambda() -> Any:
    return lambda number: number + 1


def return_generator() -> Any:
    return (number for number in range(3))


def return_socket() -> Any:
    return socket.socket()


def return_unreadable() -> Any:
    return [Unreadable()]


def return_endless() -> Any:
    return {"deep": [Endless()]}


def return_endless_to_pickle() -> Any:
    return EndlessToPickle()


def return_deadly_to_pickle() -> Any:
    return DeadlyToPickle()


def return_bytes(count: int) -> bytes:
    return b"x" * count


def raise_bytes(count: int) -> None:
    raise LookupError("x" * count)


# Payloads.


class ExitingPayload:
    """Raises SystemExit as it is unpickled."""

    def __reduce__(self) -> Any:
        return sys.exit, ("not today",)


class EndlessPayload:
    def __reduce__(self) -> Any:
        return time.sleep, (60,)


class SlowPayload:
    """Takes so many seconds to be unpickled, and becomes their number."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __reduce__(self) -> Any:
        return pause, (self.seconds, self.seconds)


class DeadlyPayload:
    """Kills the process that unpickles it, which it notes before."""

    def __init__(self, path: str, only: int = 1_000) -> None:
        self.path = path
        self.only = only

    def __reduce__(self) -> Any:
        return die_in_decoding, (self.path, self.only)


def die_in_decoding(path: str, only: int) -> str:
    """Kills its process, as long as fewer than `only` have died of it."""
    died = len(Path(path).read_text().splitlines()) if Path(path).exists() else 0
    if died >= only:
        return "read at last"
    tell(path, os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)
    return "never"


# Stuck.


def tell(path: str, *what: object) -> None:
    """Append one line, in one write."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, (" ".join(map(str, what)) + "\n").encode())
    os.close(descriptor)


def tell_start(path: str) -> None:
    tell(path, time.monotonic(), os.getpid())


def spin(path: str) -> None:
    tell_start(path)
    while True:
        pass


def sleep(path: str) -> None:
    tell_start(path)
    time.sleep(60)


def block_in_c(path: str) -> None:
    """Without the GIL, and not to be interrupted: glibc's sleep goes on after a signal only in a
    loop."""
    tell_start(path)
    while True:
        ctypes.CDLL(None).sleep(60)


def block_in_c_holding_the_gil(path: str) -> None:
    tell_start(path)
    while True:
        ctypes.PyDLL(None).sleep(60)


def ignore_sigterm(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tell_start(path)
    while True:
        time.sleep(60)


def ignore_all_signals(path: str) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with contextlib.suppress(OSError):
            signal.signal(number, signal.SIG_IGN)
    tell_start(path)
    while True:
        time.sleep(60)


def stop_itself(path: str) -> None:
    tell_start(path)
    os.kill(os.getpid(), signal.SIGSTOP)


def catch_everything(path: str) -> None:
    tell_start(path)
    while True:
        try:
            while True:
                time.sleep(0.01)
        except BaseException:
            pass


# Processes.


def fork_grandchild(path: str) -> int:
    """Leaves a process that outlives the job and holds on to all its descriptors."""
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(60)
    tell(path, pid)
    return pid


def fork_grandchild_and_exit(path: str) -> None:
    fork_grandchild(path)
    os._exit(3)


def fork_and_return_twice(path: str) -> str:
    pid = os.fork()
    tell(path, os.getpid())
    if pid:
        os.waitpid(pid, 0)
    return "parent" if pid else "copy"


def fork_and_return_twice_at_once(path: str) -> str:
    """The copy answers first: the parent waits until it has had time to."""
    pid = os.fork()
    tell(path, os.getpid())
    if pid:
        time.sleep(0.05)
    return "parent" if pid else "copy"


def start_processes_of_its_own(method: str) -> list[Any]:
    with multiprocessing.get_context(method).Pool(2) as pool:
        squares = pool.map(pow_2, range(4))
    told = subprocess.run(
        ["echo", "hello"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return [squares, told]


def pow_2(number: int) -> int:
    return number * number


def start_family(path: str) -> None:
    """Starts a process in every way that is hard to find again, notes all, and hangs."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    tell(path, child.pid)
    own_session = subprocess.Popen(["sleep", "60"], start_new_session=True)
    tell(path, own_session.pid)
    tell(path, _daemonize())
    tell(path, os.getpid())
    tell(path, "complete")
    while True:
        time.sleep(60)


def _daemonize() -> int:
    """A process by double fork, in a session of its own, whose parent is gone; its process id."""
    reader, writer = os.pipe()
    first = os.fork()
    if first == 0:
        os.setsid()
        second = os.fork()
        if second == 0:
            os.write(writer, str(os.getpid()).encode())
            while True:
                time.sleep(60)
        os._exit(0)
    os.waitpid(first, 0)
    return int(os.read(reader, 32))


# Descriptors.


def close_descriptors() -> str:
    os.closerange(0, 4096)
    return "done"


def swap_descriptors() -> str:
    """Closes all descriptors and opens as many of its own under the same numbers."""
    held = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    os.closerange(0, 4096)
    while (opened := os.open(os.devnull, os.O_RDWR)) < held[-1]:
        assert opened >= 0
    return "done"


def swap_descriptors_for_sockets() -> str:
    """As `swap_descriptors`, with sockets that take what is sent to them."""
    held = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    os.closerange(0, 4096)
    while (
        max(end.detach() for end in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        < held[-1]
    ):
        pass
    return "done"


def fill_stdout(lines: int) -> int:
    for _ in range(lines):
        print("x" * 200)
    return lines


# Manners.


def change_everything() -> int:
    """Signal handlers, directory, threads, timeouts, output, streams; its process id."""
    for number in (*SETTLED, signal.SIGUSR1, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.chdir("/")
    threading.Thread(target=time.sleep, args=(60,), name="left-running").start()
    socket.setdefaulttimeout(0.001)
    sys.stdout = sys.stderr = None  # type: ignore[assignment]
    return os.getpid()


def describe_process() -> dict[str, Any]:
    """What a job may rely on."""
    handlers = {number: signal.getsignal(number) for number in SETTLED}
    return {
        "pid": os.getpid(),
        "directory": os.getcwd(),
        "deaf": all(
            callable(handler) and handler is not signal.default_int_handler
            for handler in handlers.values()
        ),
    }


# Behaved.


def echo(value: Any = None) -> Any:
    return value


def own_pid() -> int:
    return os.getpid()


def wait_for(path: str, gate: str) -> int:
    """Notes its start, waits until the gate is a file; its process id."""
    tell(path, "begin", os.getpid())
    while not os.path.exists(gate):
        time.sleep(0.005)
    tell(path, "end", os.getpid())
    return os.getpid()


def pause(seconds: float, value: Any = None) -> Any:
    time.sleep(seconds)
    return value


def tell_and_return(path: str, value: object) -> object:
    tell(path, value)
    return value


# Initializers.


def fail_to_begin() -> None:
    raise LookupError("no such database")


def never_begin() -> None:
    time.sleep(600)


def die_at_the_beginning() -> None:
    os._exit(9)


def tell_and_fail(path: str) -> None:
    tell(path, "tried")
    fail_to_begin()


def fail_while(obstacle: str) -> None:
    if os.path.exists(obstacle):
        raise LookupError("there is an obstacle")


def allow_few_descriptors() -> None:
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used, used))


def leave_an_alarm(seconds: float) -> str:
    """Leaves a timer whose signal handler raises, as some libraries do to limit time."""
    signal.signal(signal.SIGALRM, _raise_alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return "done"


def _raise_alarm(*_: Any) -> None:
    raise TimeoutError("the alarm of a job that has ended")


def leave_a_thread_that_interrupts(seconds: float) -> str:
    """Leaves a thread that raises an exception in the main thread later."""
    main = threading.main_thread().ident

    def interrupt() -> None:
        time.sleep(seconds)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(main), ctypes.py_object(KeyError))

    threading.Thread(target=interrupt, daemon=True).start()
    return "done"


def become_another_program() -> None:
    os.execv("/bin/sh", ["sh", "-c", "exit 7"])


def remove_its_directory(path: str) -> None:
    os.mkdir(path)
    os.chdir(path)
    os.rmdir(path)


def daemonize() -> int:
    """Leaves a process by double fork, in a session of its own; its process id."""
    return _daemonize()


def end_forked_processes() -> list[int]:
    """Starts processes and ends each in its first moments, politely; how they ended."""
    codes = []
    for _ in range(50):
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        child.terminate()
        child.join()
        codes.append(child.exitcode)
    return codes


def start_family_and_die(path: str) -> None:
    for own_session in (False, True):
        tell(path, subprocess.Popen(["sleep", "60"], start_new_session=own_session).pid)
    tell(path, _daemonize())
    os.kill(os.getpid(), signal.SIGKILL)


def end_programs() -> list[int]:
    """Starts programs and ends each politely; how they ended."""
    codes = []
    for number in (signal.SIGTERM, signal.SIGINT):
        program = subprocess.Popen(["sleep", "60"])
        program.send_signal(number)
        codes.append(program.wait())
    return codes


def names_of_modules() -> list[str]:
    return sorted(sys.modules)


def start_method() -> str:
    return multiprocessing.get_start_method()


def describe_interpreter() -> dict[str, Any]:
    """How the Python that runs this was started."""
    return {
        "executable": sys.executable,
        "flags": tuple(sys.flags),
        "options": dict(sys._xoptions),
        "warnings": list(sys.warnoptions),
        "path": [entry or os.getcwd() for entry in sys.path],
    }


# Descriptors again.


def wait_and_return(path: str, gate: str, count: int) -> str:
    wait_for(path, gate)
    return "x" * count


def open_all_descriptors(count: int) -> str:
    """Leaves its process without a descriptor."""
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (min(2_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0]),) * 2
    )
    with contextlib.suppress(OSError):
        while True:
            os.open(os.devnull, os.O_RDONLY)
    return "x" * count


def open_one_descriptor() -> str:
    os.close(os.open(os.devnull, os.O_RDONLY))
    return "opened"


def return_more_than_files_may_hold(count: int) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (count // 2, resource.RLIM_INFINITY))
    return "x" * count


# Surroundings, changed for the jobs that follow.


def print_without_end(text: str) -> None:
    print(text, end="")


def print_in_parts(text: str, path: str, gate: str) -> None:
    """Prints one part, waits for the gate, and prints the other part; no line is ended."""
    print(text, end="", flush=True)
    wait_for(path, gate)
    print(text, end="")


def speak(text: str) -> None:
    """Prints in three ways and logs, as a job does that knows of nothing."""
    print(f"{text} print")
    print(f"{text} error", file=sys.stderr)
    os.write(1, f"{text} write\n".encode())
    subprocess.run(["echo", f"{text} shell"], check=True)
    logging.getLogger("jobs.speak").warning("%s log", text)


def log_text(text: str) -> None:
    logging.getLogger("jobs.speak").warning("%s", text)


def close_streams() -> None:
    sys.stdout.close()
    sys.stderr.close()


def replace_streams() -> None:
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()


def remove_streams() -> None:
    sys.stdout = sys.stderr = None  # type: ignore[assignment]


def close_stream_descriptors() -> None:
    os.close(1)
    os.close(2)
    time.sleep(0.001)


def redirect_stream_descriptors() -> None:
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    time.sleep(0.001)


def configure_logging_wholly() -> None:
    logging.config.dictConfig({"version": 1, "root": {"handlers": [], "level": "CRITICAL"}})


def configure_one_logger() -> None:
    """Which disables all others that exist, unless told otherwise."""
    logging.getLogger("jobs.speak")
    logging.config.dictConfig({"version": 1, "loggers": {"other": {"level": "DEBUG"}}})


def configure_logger_apart() -> None:
    handler = {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}
    speaker = {"handlers": ["own"], "propagate": False, "level": "ERROR"}
    logging.config.dictConfig(
        {"version": 1, "handlers": {"own": handler}, "loggers": {"jobs.speak": speaker}}
    )


def configure_logging_by_force() -> None:
    logging.basicConfig(force=True, level=logging.CRITICAL)


def disable_logging() -> None:
    logging.disable(logging.CRITICAL)


def end_logging() -> None:
    logging.shutdown()
    logging.getLogger().handlers.clear()


def change_umask_and_directory() -> None:
    os.umask(0o777)
    os.chdir("/")


def tell_umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def configure_logging_to(path: str) -> None:
    """Initializer."""
    handler = {"class": "logging.FileHandler", "filename": path}
    logging.config.dictConfig(
        {
            "version": 1,
            "handlers": {"file": handler},
            "root": {"handlers": ["file"], "level": "INFO"},
        }
    )


# Exit hooks.


def register_hooks(path: str) -> int:
    """Registers what runs at the end of its process, in three ways; its process id."""
    atexit.register(tell, path, "atexit")
    multiprocessing.util.Finalize(None, tell, (path, "finalizer"), exitpriority=1)
    executor = concurrent.futures.ThreadPoolExecutor(1)
    executor.submit(lambda: None)
    executor.submit(_tell_slowly, path, "executor")
    return os.getpid()


def _tell_slowly(path: str, text: str) -> None:
    time.sleep(0.2)
    tell(path, text)


def register_speaking_hook() -> None:
    atexit.register(speak, "at exit")


def register_slow_hook(path: str, seconds: float) -> int:
    atexit.register(tell, path, "after")
    atexit.register(time.sleep, seconds)
    atexit.register(tell, path, "before")
    return os.getpid()


def register_failing_hooks(path: str) -> None:
    atexit.register(tell, path, "first")
    atexit.register(fail_to_begin)
    atexit.register(sys.exit, 3)
    atexit.register(tell, path, "last")


def leave_a_thread(path: str) -> None:
    """Leaves a thread that is no daemon and does not end, and an exit hook."""
    atexit.register(tell, path, "hook")
    threading.Thread(target=time.sleep, args=(60,)).start()
