"""Runs beside the tests, and ends what they started once they are gone, however they ended.

A finally block does not run when pytest is SIGKILLed or leaves through `os._exit` (the hang guard's last line). So each
JVM is the child of a guard, which also owns its folder; containers have a guard that knows them by their label. A guard
works when its stdin ends (the orderly way) or when its parent is another than the owner, because a forked child of the
tests may hold the other end of the pipe for longer than the tests live.

Run as a file, never imported by the tests' process:

    python guard.py process OWNER FOLDER COMMAND...    each line on stdin starts COMMAND; "started PID", "ended CODE" come back
    python guard.py containers OWNER LABEL             LABEL as key=value; containers and networks that carry it go
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time

#: Seconds between two looks at the owner.
BEAT = 0.1


def owner_gone(owner: int) -> bool:
    """Whether the process that started this guard has ended."""
    return os.getppid() != owner


def next_command(owner: int, timeout: float) -> bytes | None:
    """What came on stdin within `timeout` seconds: None for nothing yet, empty at the owner's
    end."""
    if owner_gone(owner):
        return b""
    readable, _, _ = select.select([0], [], [], timeout)
    return os.read(0, 64) if readable else None


def say(line: str) -> None:
    """Tell the owner, who may be gone."""
    try:
        os.write(1, f"{line}\n".encode())
    except OSError:
        pass


def guard_process(owner: int, folder: str, command: list[str]) -> None:
    """Start `command` whenever asked to; kill it and remove `folder` at the owner's end."""
    process: subprocess.Popen[bytes] | None = None
    try:
        while (asked := next_command(owner, BEAT)) != b"":
            if process is not None and process.poll() is not None:
                say(f"ended {process.returncode}")
                process = None
            if asked is not None and process is None:
                with open(os.path.join(folder, "log"), "ab") as log:
                    process = subprocess.Popen(
                        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder
                    )
                say(f"started {process.pid}")
    finally:
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def guard_containers(owner: int, label: str) -> None:
    """Remove the containers and networks with `label` at the owner's end."""
    import docker

    client = docker.from_env()
    while next_command(owner, 1.0) != b"":
        pass
    # The owner may have died with a request to the engine under way, whose container appears only
    # now.
    for pause in (0.0, 1.0, 2.0) if owner_gone(owner) else (0.0,):
        time.sleep(pause)
        remove_labelled(client, label)


def remove_labelled(client: object, label: str) -> None:
    """Remove what carries `label`; what somebody else removes meanwhile is fine."""
    import docker

    assert isinstance(client, docker.DockerClient)
    for container in client.containers.list(
        all=True, filters={"label": label}, ignore_removed=True
    ):
        try:
            container.remove(force=True, v=True)
        except docker.errors.APIError:
            pass
    for network in client.networks.list(filters={"label": label}):
        try:
            network.remove()
        except docker.errors.APIError:
            pass


def main(arguments: list[str]) -> None:
    """See the module's docstring."""
    what, owner = arguments[0], int(arguments[1])
    if what == "process":
        guard_process(owner, arguments[2], arguments[3:])
    else:
        guard_containers(owner, arguments[2])


if __name__ == "__main__":
    main(sys.argv[1:])
