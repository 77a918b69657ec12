"""Enqueues with the published KQ, in its own interpreter: HOSTS TOPIC, and the jobs as JSON on
standard input.

Each job: func ("module.name", "__main__.name" for one of this script), args, kwargs, timeout, key,
and `again` for one that is wrapped in a KQ Job first. Prints what KQ returned, as JSON.
"""

import importlib
import json
import sys

import kafka
import kq
from kq.job import Job

ONE = not hasattr(kq.Queue, "using")


def shout(word):
    return word.upper()


def enqueue(hosts, topic, told):
    module, _, name = told["func"].rpartition(".")
    function = (
        globals()[name] if module == "__main__" else getattr(importlib.import_module(module), name)
    )
    args, kwargs, key = told.get("args", []), told.get("kwargs", {}), told.get("key")
    key = None if key is None else key.encode()
    if ONE:
        queue = kq.Queue(hosts=hosts, topic=topic, timeout=told.get("timeout"))
        if told.get("again"):
            job = queue.enqueue(
                Job(*[None] * 3, func=function, args=args, kwargs=kwargs, timeout=None, key=key)
            )
        elif key:
            job = queue.enqueue_with_key(key, function, *args, **kwargs)
        else:
            job = queue.enqueue(function, *args, **kwargs)
        queue.flush()
        queue.producer.close()
        return job
    queue = kq.Queue(topic=topic, producer=kafka.KafkaProducer(bootstrap_servers=hosts))
    if told.get("again"):
        return queue.enqueue(
            Job(func=function, args=args, kwargs=kwargs, timeout=told.get("timeout"), key=key)
        )
    return queue.using(timeout=told.get("timeout"), key=key).enqueue(function, *args, **kwargs)


jobs = [enqueue(sys.argv[1], sys.argv[2], told) for told in json.load(sys.stdin)]
print(
    json.dumps(
        [
            {
                "id": job.id,
                "timestamp": job.timestamp,
                "topic": job.topic,
                "args": list(job.args),
                "kwargs": job.kwargs,
                "timeout": job.timeout,
                "key": job.key and job.key.decode(),
            }
            for job in jobs
        ]
    )
)
