"""Dramatiq: `send COUNT PAUSE`; its worker is its own program."""

import dramatiq
import peerjob
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=peerjob.REDIS, namespace=peerjob.NAME))


@dramatiq.actor(actor_name="note", time_limit=1000 * peerjob.LIMIT_SECONDS)
def note(sent):
    peerjob.note(sent)


if __name__ == "__main__":
    peerjob.send_as_told(lambda sent: note.send(sent))
