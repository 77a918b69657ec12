"""The published KQ, each version in a folder of its own under the cache, where its old client
cannot meet ours."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brokers import Unavailable
from brokers.kafka_files import cache_folder
from support import HANG_SECONDS, ROOT

PINNED = {
    "1.3.2": ("kq==1.3.2", "kafka-python==2.2.15", "dill==0.4.1", "docopt==0.6.2"),
    "2.2.1": ("kq==2.2.1", "kafka-python==2.2.15", "dill==0.4.1", "setuptools==75.8.0"),
}
"""The last of 1.x and of 2.x, with the last kafka-python 2.2, whose module they know; 2.2.1 needs a
setuptools with pkg_resources."""
_APP = ROOT / "tests" / "kqapps" / "enqueue.py"


def python_of(version: str) -> Path:
    """An interpreter that has this version of KQ; made once on a machine, by pip.

    Raises:
        Unavailable: pip cannot install it.
    """
    needs = [sys.version, *PINNED[version]]
    digest = hashlib.sha256("\n".join(needs).encode()).hexdigest()[:12]
    final = cache_folder() / "kq" / f"{version}-{digest}"
    python = final / "bin" / "python"
    if (final / "installed").exists():
        return python
    # A virtual environment cannot be moved, so it is made in place: by one session, while others
    # wait for the lock.
    final.parent.mkdir(parents=True, exist_ok=True)
    with _lock(final.with_suffix(".lock")):
        if not (final / "installed").exists():
            venv.create(final, clear=True, with_pip=True)
            pip = [
                str(python),
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                *PINNED[version],
            ]
            done = subprocess.run(pip, capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise Unavailable(f"pip cannot install KQ {version}: {done.stderr.strip()[-500:]}")
            (final / "installed").touch()
    return python


class _lock:
    """A file that only one process at a time holds."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        import fcntl

        self._file = self._path.open("w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()


def enqueue(
    version: str, hosts: str, topic: str, jobs: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Have KQ enqueue these (see kqapps/enqueue.py); what it says of them."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}
    with tempfile.TemporaryDirectory(
        prefix="embedkq-kq-"
    ) as folder:  # not in ours, whose setup.cfg or modules it could take up
        done = subprocess.run(
            [str(python_of(version)), str(_APP), hosts, topic],
            input=json.dumps(list(jobs)),
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=HANG_SECONDS,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
