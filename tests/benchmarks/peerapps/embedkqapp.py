"""embedkq: `send COUNT PAUSE` or `work`."""

import sys
import time

from peerjob import HOSTS, LIMIT_SECONDS, NAME, note, send_as_told

from embedkq import Queue, Worker

if __name__ == "__main__":
    if sys.argv[1] == "work":
        Worker(HOSTS, NAME, callback=lambda *told: None, processes=2).start()
    with Queue(HOSTS, NAME, timeout=LIMIT_SECONDS) as queue:
        if float(sys.argv[3]):
            send_as_told(lambda sent: queue.enqueue(note, sent))
        else:
            queue.enqueue_many([(note, (time.monotonic(),))] * int(sys.argv[2]))
