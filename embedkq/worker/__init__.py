"""The worker: takes jobs from a topic, has child processes run them, and runs callbacks on the
thread that owns it.

A folder for each thread, one for what they share, and the life of the whole in the files here:

    worker.py, handle.py      what users call; each method says on which thread
    settings, environment     what is checked before anything starts
    wiring.py                 makes the parts of one run
    runtime.py                one run from start to end: both threads, and how they stop
    lifecycle.py, health.py   the states of a worker, and how it does

    owner_thread/             yours: callbacks
         ^ Finished       | CallbacksDone
         |                v
    control_thread/           offsets, keys, retries, crashes     ---> pool/ ---> child processes
         (embedkq._child) ^ Batch, Revoked | snapshot of what is done              --->
         dead_letter_thread/ |                v
    consumer_thread/          poll, validate, commit, rebalance   <--> Kafka

    between_threads/          mailboxes, messages, the backlog, and what is shared

A job is one `JobRun` from its poll on: backlog, child process, callback, dead letter, done, commit.
The guide's page on architecture has each step and each state with its file.
"""

from __future__ import annotations

import os

if (
    os.name != "posix"
):  # else the first module that is only there would be missed, which says nothing
    raise ImportError("a Worker needs Linux or macOS (on Windows: WSL); a Queue works here")

from embedkq.worker.worker import Worker

__all__ = ["Worker"]
