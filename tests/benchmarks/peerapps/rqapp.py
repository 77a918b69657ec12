"""RQ: `send COUNT PAUSE`; its worker is its own program."""

from peerjob import LIMIT_SECONDS, NAME, REDIS, note, send_as_told
from redis import Redis
from rq import Queue

if __name__ == "__main__":
    queue = Queue(NAME, connection=Redis.from_url(REDIS))
    send_as_told(lambda sent: queue.enqueue(note, sent, job_timeout=LIMIT_SECONDS, result_ttl=0))
