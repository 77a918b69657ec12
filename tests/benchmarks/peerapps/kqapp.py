"""KQ: `send COUNT PAUSE` or `work`; one process a worker."""

import sys

from kafka import KafkaConsumer, KafkaProducer
from kq import Queue, Worker
from peerjob import HOSTS, LIMIT_SECONDS, NAME, note, send_as_told

if __name__ == "__main__":
    if sys.argv[1] == "send":
        producer = KafkaProducer(bootstrap_servers=HOSTS)
        queue = Queue(topic=NAME, producer=producer, timeout=LIMIT_SECONDS)
        send_as_told(lambda sent: queue.enqueue(note, sent))
        producer.flush()
    else:
        consumer = KafkaConsumer(
            bootstrap_servers=HOSTS, group_id=NAME, auto_offset_reset="earliest"
        )
        Worker(topic=NAME, consumer=consumer, callback=lambda *told: None).start()
