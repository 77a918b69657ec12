from support import Recorder, send_many
import workerjobs
from embedkq import Worker

def test_it(hosts, topic, group, kafka_options):
    r = Recorder()
    ids = send_many(hosts, topic, workerjobs.echo, [(i,) for i in range(1000)])
    with Worker(hosts=hosts, topic=topic, group=group, callback=r, processes=2, kafka=kafka_options) as w:
        assert w.drain(60)
    assert set(r.ids) == set(ids) and max(r.ids.values()) == 1
