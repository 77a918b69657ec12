"""Huey: `send COUNT PAUSE`; its worker is its own program."""

import peerjob
from huey import RedisHuey

queue = RedisHuey(peerjob.NAME, url=peerjob.REDIS, results=False)


@queue.task()
def note(sent):
    peerjob.note(sent)


if __name__ == "__main__":
    import hueyapp  # a task is known by its module's name, which is another one here

    peerjob.send_as_told(hueyapp.note)
