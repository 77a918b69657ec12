"""taskiq on Kafka or on Redis, as PEER_BROKER says: `send COUNT PAUSE`; its worker is its own
program."""

import asyncio
import os
import sys
import time

import peerjob


def make_broker():
    if os.environ["PEER_BROKER"] == "redis":
        from taskiq_redis import RedisStreamBroker

        return RedisStreamBroker(peerjob.REDIS, queue_name=peerjob.NAME)
    from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
    from taskiq_aio_kafka import AioKafkaBroker

    on_kafka = AioKafkaBroker(peerjob.HOSTS, kafka_topic=peerjob.NAME)
    # Its own choice is kafka-python's class of that name, which aiokafka cannot work with any more.
    strategy = (RoundRobinPartitionAssignor,)
    on_kafka.configure_consumer(
        group_id=peerjob.NAME, auto_offset_reset="earliest", partition_assignment_strategy=strategy
    )
    return on_kafka


broker = make_broker()


@broker.task(task_name="note", timeout=peerjob.LIMIT_SECONDS)
async def note(sent: float) -> None:
    peerjob.note(sent)


async def send(count: int, pause: float) -> None:
    """Without a pause many at a time: it is asynchronous."""
    await broker.startup()
    together = 1 if pause else 100
    for first in range(0, count, together):
        await asyncio.gather(
            *(note.kiq(time.monotonic()) for _ in range(min(together, count - first)))
        )
        await asyncio.sleep(pause)
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(send(int(sys.argv[2]), float(sys.argv[3])))
