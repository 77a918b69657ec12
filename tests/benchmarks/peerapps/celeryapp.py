"""Celery with late acknowledgement: `send COUNT PAUSE`; its worker is its own program."""

import peerjob
from celery import Celery

app = Celery(
    "celeryapp",
    include=["celeryapp"],
    broker=peerjob.REDIS,
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_time_limit=peerjob.LIMIT_SECONDS,
    task_default_queue=peerjob.NAME,
    broker_connection_retry_on_startup=True,
)


@app.task(name="note")
def note(sent):
    peerjob.note(sent)


if __name__ == "__main__":
    peerjob.send_as_told(lambda sent: note.delay(sent))
