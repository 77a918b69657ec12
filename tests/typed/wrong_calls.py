"""Ten calls that are wrong: each type checker has to find fault with exactly these lines."""

from __future__ import annotations

from functions import add, crawl, fetch, mail, queue, resize

from embedkq import Job, call

queue.enqueue(add, 1)  # wrong: too few
queue.enqueue(add, "1", 2)  # wrong: a string
queue.enqueue(resize, "a.png", wide=40)  # wrong: the name
queue.using(timeout=5).enqueue(fetch, "here", 2)  # wrong: too many
queue.enqueue_many([(add, (1, "2"))])  # wrong: a string
queue.enqueue_many((resize, (path, path)) for path in ("a", "b"))  # wrong: a string
queue.enqueue_many([call(resize, "a.png", sharp=1.5)])  # wrong: a number
mail.delay(to=3)  # wrong: a number
crawl.delay()  # wrong: too few
text: Job[str] = queue.enqueue(add, 1, 2)  # wrong: its result is a number
