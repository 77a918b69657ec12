"""What embedkq uses of kafka-python beyond its documentation is checked, and mended where `python
-O` breaks it."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import kafka
import pytest
from kafka.net.selector import NetworkSelector
from packaging.requirements import Requirement
from support import ROOT

from embedkq import Queue, Worker, errors
from embedkq._clients import admin, private

NOWHERE = "127.0.0.1:1"


def test_all_names_are_there() -> None:
    private.check()


@pytest.mark.parametrize(
    "start",
    [
        lambda: Worker(hosts=NOWHERE).start_background(),
        lambda: Worker(hosts=NOWHERE).start(),
        lambda: Queue(hosts=NOWHERE).enqueue(len, ()),
        lambda: admin.describe(NOWHERE),
    ],
    ids=["start_background", "start", "enqueue", "info"],
)
def test_a_name_that_is_gone_is_told_at_the_first_start(
    start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(private.names, "kafka_version", "3.9.9")
    monkeypatch.delattr(NetworkSelector, "sleep")
    with pytest.raises(errors.EmbedkqError) as caught:
        start()
    assert str(caught.value) == (
        "kafka-python 3.9.9 lacks something that embedkq needs (kafka.net.selector.NetworkSelector.sleep is missing): "
        "install a version that embedkq was tested with, pip install 'kafka-python[crc32c]>=3.0.12,<3.1'"
    )


def test_a_name_that_only_instances_have_is_missed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        private.NEEDED, kafka.KafkaConsumer, ("_fetcher", "_gone_in_another_version")
    )
    with pytest.raises(
        errors.EmbedkqError,
        match=r"kafka.consumer.group.KafkaConsumer._gone_in_another_version is missing",
    ):
        private.check()


def test_an_import_that_fails_is_told_in_the_same_way() -> None:
    program = "import kafka.net.sasl; del kafka.net.sasl.get_sasl_mechanism\nimport embedkq._clients.producer"
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    said = ended.stderr.strip().splitlines()[-1]
    assert said.startswith(
        f"ImportError: kafka-python {kafka.__version__} lacks something that embedkq needs ("
    )
    assert "get_sasl_mechanism" in said and said.endswith(
        "pip install 'kafka-python[crc32c]>=3.0.12,<3.1'"
    )


def test_an_upgrade_of_kafka_python_needs_a_change_of_setup_cfg() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = [
        Requirement(line) for line in setup["options"]["install_requires"].split("\n") if line
    ]
    allowed = next(each.specifier for each in needed if each.name == "kafka-python")
    assert kafka.__version__ in allowed and private.TESTED_WITH in allowed
    assert not any(version in allowed for version in ("3.0.11", "3.1.0", "3.1.0rc1", "4.0"))


def test_metrics_of_kafka_python_can_be_switched_on(hosts: str, topic: str) -> None:
    with Worker(hosts=hosts, topic=topic, kafka={"metrics_enabled": True}) as worker:
        assert worker.drain(60)


@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_jobs_run_under_python_with_asserts_left_out(
    flag: str, hosts: str, topic: str, tmp_path: Path
) -> None:
    program = """
from embedkq import Queue, Worker
from embedkq._clients import admin
assert False, "asserts are left out"
with Queue(hosts=HOSTS, topic=TOPIC) as queue:
    queue.enqueue_many([(divmod, (number, 7)) for number in range(20)])
ended = []
with Worker(hosts=HOSTS, topic=TOPIC, callback=lambda *each: ended.append(each)) as worker:
    print(worker.drain(60), sorted(each[2] for each in ended) == sorted(divmod(number, 7) for number in range(20)))
print(sum(each.lag for each in admin.describe(HOSTS, TOPIC, TOPIC).partitions))
"""
    text = program.replace("HOSTS", repr(hosts)).replace("TOPIC", repr(topic))
    path = tmp_path / "optimized.py"
    path.write_text(text)
    ended = subprocess.run(
        [sys.executable, flag, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.stdout.split() == ["True", "True", "0"], ended.stdout + ended.stderr
