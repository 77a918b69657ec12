"""Huey: `send COUNT PAUSE`; its worker is its own program."""
import peerjob
from huey import RedisHuey

queue = RedisHuey(peerjob.NAME, url=peerjob.REDIS, results=False)


@queue.task(name="note")
def note(sent):
    peerjob.note(sent)


if __name__ == "__main__":
    peerjob.send_as_told(lambda sent: note(sent))
