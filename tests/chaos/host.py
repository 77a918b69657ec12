"""One process that hosts a worker, to be killed, frozen and asked to leave."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from chaos import jobs
from embedkq import Job, Worker


class MonotonicFormatter(logging.Formatter):
    """Tells time as the notes do."""

    def format(self, record: logging.LogRecord) -> str:
        record.monotonic = time.monotonic()
        return super().format(record)


def main(hosts: str, topic: str, group: str, folder: str, name: str) -> None:
    logging.basicConfig(
        filename=f"{folder}/{name}.err",
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        level="WARNING",
    )
    logging.getLogger("embedkq.worker").addHandler(
        handler := logging.FileHandler(f"{folder}/{name}.own")
    )
    handler.setFormatter(MonotonicFormatter("%(monotonic).3f %(levelname)s %(message)s"))
    logging.getLogger("embedkq.worker").setLevel("DEBUG")

    def callback(status: str, job: Job, result: Any, exception: Any, traceback: Any) -> None:
        jobs.note(folder, name, "told", job.args[0], status)

    worker = Worker(
        hosts=hosts,
        topic=topic,
        group=group,
        callback=callback,
        processes=2,
        initializer=jobs.set_place,
        initargs=(folder, name),
        kafka={
            "session_timeout_ms": 6_000,
            "heartbeat_interval_ms": 1_000,
            "metadata_max_age_ms": 2_000,
        },
    )
    signal.signal(signal.SIGTERM, lambda *_: worker.request_stop())
    threading.Thread(
        target=tell_health, args=(worker, f"{folder}/{name}.health"), daemon=True
    ).start()
    worker.start()


def tell_health(worker: Worker, path: str) -> None:
    """Write the worker's health and the moment of it to a file, every second."""
    while True:
        told = [time.monotonic(), worker.health().as_dict()]
        Path(path + ".new").write_text(json.dumps(told))
        os.replace(path + ".new", path)
        time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
