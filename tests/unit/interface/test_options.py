"""Checks of what users pass: each bad input is refused at the call, with a message that quotes name
and value."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedkq import Queue, Worker, _options
from embedkq._clients.producer import KNOWN_OPTIONS, OWNED_OPTIONS
from embedkq._clients.tls import tls_context


def refused(
    kind: type[Exception], name: str, value: Any, check: Callable[..., Any], *args: Any
) -> str:
    """That `check` raises exactly this kind, and that the message quotes name and value; the
    message."""
    with pytest.raises(kind) as caught:
        check(*args)
    assert type(caught.value) is kind
    assert name in str(caught.value) and repr(value) in str(caught.value), str(caught.value)
    return str(caught.value)


# Hosts.


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        ("localhost:9092", "localhost:9092"),
        ("localhost", "localhost:9092"),
        (" a:1 , b ", "a:1,b:9092"),
        (["a:1", "b"], "a:1,b:9092"),
        (("a:1",), "a:1"),
        ("10.0.0.1:65535", "10.0.0.1:65535"),
        ("[::1]:7000", "[::1]:7000"),
        ("[::1]", "[::1]:9092"),
        ("host:7000,host:8000", "host:7000,host:8000"),
    ],
)
def test_hosts_become_addresses_with_ports(hosts: Any, told: str) -> None:
    assert _options.check_hosts(hosts) == told


@pytest.mark.parametrize(
    "hosts",
    [
        "",
        " ",
        ",",
        "a:1,",
        ",a:1",
        "a:1,,b:2",
        [],
        "a:",
        ":9092",
        "a:b",
        "a:0",
        "a:65536",
        "a:-1",
        "a:1.5",
        "a b:1",
        "http://a:1",
        "user@a:1",
        "a/b:1",
        ["a:1,b:2"],
        "a:٣x",
        "a:\n1",
    ],
)
def test_hosts_that_are_none_are_refused(hosts: Any) -> None:
    refused(ValueError, "hosts", hosts, _options.check_hosts, hosts)


@pytest.mark.parametrize("hosts", [None, 9092, b"a:1", {"a:1"}, {"a": 1}, object])
def test_hosts_of_another_type_are_refused(hosts: Any) -> None:
    refused(TypeError, "hosts", hosts, _options.check_hosts, hosts)


@pytest.mark.parametrize("host", [1, None, b"a:1"])
def test_a_list_of_hosts_with_something_else_in_it_is_refused(host: Any) -> None:
    refused(TypeError, "hosts", ["a:1", host], _options.check_hosts, ["a:1", host])


@given(
    st.lists(
        st.from_regex(r"[a-z0-9.-]{1,20}(:[1-9][0-9]{0,3})?", fullmatch=True),
        min_size=1,
        max_size=4,
    )
)
def test_checked_hosts_stay_as_they_are(hosts: list[str]) -> None:
    told = _options.check_hosts(hosts)
    assert _options.check_hosts(told) == told == _options.check_hosts(",".join(hosts))


@given(st.text())
def test_any_text_gives_hosts_or_a_value_error(text: str) -> None:
    try:
        told = _options.check_hosts(text)
    except ValueError as error:
        assert repr(text) in str(error)
    else:
        assert all(re.fullmatch(r"\S+:\d+", address) for address in told.split(","))


# Topic, group, policy.


@pytest.mark.parametrize("topic", ["a", "default", "A.b_c-9", "x" * 249, "...", "__consumer"])
def test_a_topic_that_kafka_takes_passes(topic: str) -> None:
    assert _options.check_topic(topic) == topic


@pytest.mark.parametrize(
    "topic", ["", " ", ".", "..", "a b", "a/b", "a:b", "ä", "a\n", "x" * 250, "a,b", "a*"]
)
def test_a_topic_that_kafka_does_not_take_is_refused(topic: str) -> None:
    refused(ValueError, "topic", topic, _options.check_topic, topic)
    refused(
        ValueError, "dead_letter_topic", topic, _options.check_topic, topic, "dead_letter_topic"
    )


@pytest.mark.parametrize("topic", [None, 1, b"default", ["default"]])
def test_a_topic_of_another_type_is_refused(topic: Any) -> None:
    refused(TypeError, "topic", topic, _options.check_topic, topic)


def test_a_group_is_any_string_but_the_empty_one() -> None:
    assert _options.check_group("any thing, ö") == "any thing, ö"
    refused(ValueError, "group", "", _options.check_group, "")
    for group in (None, 1, b"g", ["g"]):
        refused(TypeError, "group", group, _options.check_group, group)


def test_an_offset_policy_is_one_of_two() -> None:
    assert [_options.check_offset_policy(policy) for policy in ("earliest", "latest")] == [
        "earliest",
        "latest",
    ]
    for policy in ("none", "", "Earliest", None, 0, b"latest", ["latest"]):
        refused(ValueError, "offset_policy", policy, _options.check_offset_policy, policy)


# Numbers.


@pytest.mark.parametrize("timeout", [None, 1, 0.001, 1e9, 2.5])
def test_a_timeout_is_a_number_of_seconds_or_none(timeout: Any) -> None:
    assert _options.check_timeout(timeout) == timeout


@pytest.mark.parametrize(
    "timeout", [0, 0.0, -0.0, -1, -0.5, float("nan"), float("inf"), float("-inf")]
)
def test_a_timeout_that_is_no_limit_is_refused(timeout: float) -> None:
    refused(ValueError, "timeout", timeout, _options.check_timeout, timeout)
    refused(ValueError, "stop_timeout", timeout, _options.check_timeout, timeout, "stop_timeout")


@pytest.mark.parametrize("timeout", ["1", b"1", True, False, [1], 1j, object()])
def test_a_timeout_of_another_type_is_refused(timeout: Any) -> None:
    refused(TypeError, "timeout", timeout, _options.check_timeout, timeout)


def test_a_timeout_beyond_what_a_float_holds_is_refused() -> None:
    refused(ValueError, "timeout", 10**400, _options.check_timeout, 10**400)


@given(st.floats() | st.integers())
def test_any_number_is_a_limit_or_a_value_error(number: float) -> None:
    try:
        assert _options.check_timeout(number) is number and 0 < number < float("inf")
    except ValueError as error:
        assert repr(number) in str(error)


@pytest.mark.parametrize(("name", "minimum"), [("processes", 1), ("job_size", 1), ("proc_ttl", 0)])
def test_a_count_is_a_whole_number_from_its_minimum_on(name: str, minimum: int) -> None:
    assert (
        _options.check_count(name, minimum, minimum) == minimum
        and _options.check_count(name, 10**6, minimum) == 10**6
    )
    refused(ValueError, name, minimum - 1, _options.check_count, name, minimum - 1, minimum)
    for value in (None, 1.0, "1", True, b"1", [1]):
        refused(TypeError, name, value, _options.check_count, name, value, minimum)


@pytest.mark.parametrize("job_size", [0, -1])
def test_a_job_size_of_nothing_is_refused(job_size: int) -> None:
    refused(ValueError, "job_size", job_size, _options.check_job_size, job_size)


# Key and partition.


def test_a_key_is_bytes_and_strings_become_utf_8() -> None:
    assert [_options.check_key(key) for key in (None, b"\xff", "ö", "", b"")] == [
        None,
        b"\xff",
        b"\xc3\xb6",
        b"",
        b"",
    ]
    for key in (1, 1.5, True, ["k"], bytearray(b"k"), memoryview(b"k")):
        refused(TypeError, "key", key, _options.check_key, key)


def test_a_key_that_utf_8_cannot_carry_is_refused() -> None:
    refused(ValueError, "key", "\ud800", _options.check_key, "\ud800")


def test_a_partition_is_a_number_from_0_on() -> None:
    assert [_options.check_partition(partition) for partition in (None, 0, 7)] == [None, 0, 7]
    refused(ValueError, "partition", -1, _options.check_partition, -1)
    for partition in ("0", 1.0, True, b"0"):
        refused(TypeError, "partition", partition, _options.check_partition, partition)


# Callbacks.


class Callbacks:
    def five(self, status: Any, job: Any, result: Any, exception: Any, traceback: Any) -> None: ...
    def four(self, status: Any, job: Any, result: Any, exception: Any) -> None: ...
    def __call__(self, *args: Any) -> None: ...

    @classmethod
    def of_class(cls, a: Any, b: Any, c: Any, d: Any, e: Any) -> None: ...

    @staticmethod
    def of_none(a: Any, b: Any, c: Any, d: Any, e: Any = 1, f: Any = 2) -> None: ...


async def asynchronous(a: Any, b: Any, c: Any, d: Any, e: Any) -> None: ...


def six(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any) -> None: ...


@pytest.mark.parametrize(
    "callback",
    [
        Callbacks().five,
        Callbacks.of_class,
        Callbacks.of_none,
        Callbacks(),
        asynchronous,
        print,
        max,
        dict.__init__,
        functools.partial(six, 1),
        lambda *args: None,
        lambda a, b, c, d, e, *, f=1: None,
        lambda a, *rest, **more: None,
    ],
)
def test_what_takes_five_positional_arguments_is_a_callback(callback: Any) -> None:
    assert _options.check_callback(callback) is callback


@pytest.mark.parametrize(
    "callback",
    [
        Callbacks().four,
        six,
        lambda: None,
        lambda a, b, c, d: None,
        lambda a, b, c, d, e, *, f: None,
        lambda a, b, c, d, *, e: None,
        functools.partial(six, 1, 2),
        functools.partial(Callbacks().five, status=1),
        lambda **more: None,
    ],
)
def test_what_does_not_is_refused_with_its_name_and_signature(callback: Any) -> None:
    name = getattr(callback, "__qualname__", callback)
    message = refused(TypeError, "callback", name, _options.check_callback, callback)
    assert "callback(status, job, result, exception, traceback)" in message and "takes (" in message


@pytest.mark.parametrize("callback", [1, "print", None, [print], object()])
def test_what_is_not_callable_is_refused(callback: Any) -> None:
    refused(TypeError, "callback", callback, _options.check_callback, callback)


# Options of the Kafka client, and TLS.


def config(
    cafile: Any = None,
    certfile: Any = None,
    keyfile: Any = None,
    crlfile: Any = None,
    kafka: Any = None,
) -> dict[str, Any]:
    return _options.client_config(
        _options.TLSFiles(cafile, certfile, keyfile, crlfile),
        kafka,
        owned=OWNED_OPTIONS,
        known=KNOWN_OPTIONS,
        owner="Queue",
    )


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A file for each TLS argument; what is in it only matters to the client."""
    for name in ("ca", "cert", "key", "crl"):
        (tmp_path / name).write_text(name)
    return {f"{name}file": str(tmp_path / name) for name in ("ca", "cert", "key", "crl")}


def test_without_tls_files_nothing_is_added() -> None:
    assert (
        config() == {}
        and config(kafka={}) == {}
        and config(kafka={"linger_ms": 5}) == {"linger_ms": 5}
    )


def test_tls_files_mean_tls(files: dict[str, str]) -> None:
    del files["crlfile"]
    assert config(**files) == {
        "ssl_cafile": files["cafile"],
        "ssl_certfile": files["certfile"],
        "ssl_keyfile": files["keyfile"],
        "security_protocol": "SSL",
    }
    assert config(cafile=Path(files["cafile"])) == {
        "ssl_cafile": files["cafile"],
        "security_protocol": "SSL",
    }


@pytest.mark.parametrize("name", ["cafile", "certfile"])
def test_each_tls_file_alone_means_tls_already(files: dict[str, str], name: str) -> None:
    assert config(**{name: files[name]})["security_protocol"] == "SSL"


@pytest.mark.parametrize("option", ["ssl_cafile", "ssl_certfile", "ssl_context"])
def test_tls_files_among_the_kafka_options_mean_tls_too(files: dict[str, str], option: str) -> None:
    assert config(kafka={option: files["cafile"]})["security_protocol"] == "SSL"


def test_a_revocation_list_without_one_in_it_is_refused(files: dict[str, str]) -> None:
    refused(ValueError, "crlfile", files["crlfile"], lambda: config(crlfile=files["crlfile"]))
    refused(
        ValueError,
        "crlfile",
        files["crlfile"],
        lambda: config(kafka={"ssl_crlfile": files["crlfile"]}),
    )


def test_a_context_and_files_are_not_mixed(files: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"cafile and kafka={'ssl_context': \.\.\.}"):
        config(cafile=files["cafile"], kafka={"ssl_context": object()})


@pytest.mark.parametrize(
    ("option", "name"),
    [("ssl_cafile", "cafile"), ("ssl_certfile", "certfile"), ("ssl_crlfile", "crlfile")],
)
def test_a_context_of_files_that_hold_something_else_names_the_file(
    files: dict[str, str], option: str, name: str
) -> None:
    refused(ValueError, name, files[name], tls_context, {option: files[name]})


def test_tls_files_and_sasl_mean_both(files: dict[str, str]) -> None:
    assert (
        config(cafile=files["cafile"], kafka={"sasl_mechanism": "PLAIN"})["security_protocol"]
        == "SASL_SSL"
    )
    told = config(
        cafile=files["cafile"], kafka={"sasl_mechanism": "PLAIN", "security_protocol": "SASL_SSL"}
    )
    assert told["security_protocol"] == "SASL_SSL"


@pytest.mark.parametrize("protocol", ["PLAINTEXT", "SASL_PLAINTEXT"])
@pytest.mark.parametrize("name", ["cafile", "certfile", "crlfile"])
def test_tls_files_never_go_with_a_plain_protocol(
    files: dict[str, str], name: str, protocol: str
) -> None:
    refused(
        ValueError,
        "security_protocol",
        protocol,
        lambda: config(**{name: files[name]}, kafka={"security_protocol": protocol}),
    )
    refused(
        ValueError,
        "security_protocol",
        protocol,
        lambda: config(kafka={f"ssl_{name}": files[name], "security_protocol": protocol}),
    )


@pytest.mark.parametrize("protocol", ["ssl", "TLS", "", "plaintext", 1])
def test_a_protocol_that_is_none_is_refused(files: dict[str, str], protocol: Any) -> None:
    refused(
        ValueError,
        "security_protocol",
        protocol,
        lambda: config(kafka={"security_protocol": protocol}),
    )
    refused(
        ValueError,
        "security_protocol",
        protocol,
        lambda: config(cafile=files["cafile"], kafka={"security_protocol": protocol}),
    )


@pytest.mark.parametrize("name", ["cafile", "certfile", "keyfile", "crlfile"])
def test_a_tls_file_that_is_not_there_is_named(
    tmp_path: Path, files: dict[str, str], name: str
) -> None:
    missing = str(tmp_path / "nowhere.pem")
    refused(FileNotFoundError, name, missing, lambda: config(**{**files, name: missing}))
    refused(
        FileNotFoundError, name, str(tmp_path), lambda: config(**{**files, name: str(tmp_path)})
    )


@pytest.mark.parametrize("name", ["cafile", "certfile", "keyfile", "crlfile"])
@pytest.mark.parametrize("value", [1, True, ["ca.pem"]])
def test_a_tls_file_of_another_type_is_refused(
    files: dict[str, str], name: str, value: Any
) -> None:
    refused(TypeError, name, value, lambda: config(**{**files, name: value}))


def test_a_tls_file_that_is_given_twice_is_refused(files: dict[str, str]) -> None:
    for name in files:
        with pytest.raises(
            ValueError, match=f"{name} and kafka={{'ssl_{name}': ...}} are the same"
        ):
            config(**files, kafka={f"ssl_{name}": files[name]})


def test_a_key_without_its_certificate_is_refused(files: dict[str, str]) -> None:
    refused(
        ValueError,
        "keyfile",
        files["keyfile"],
        lambda: config(cafile=files["cafile"], keyfile=files["keyfile"]),
    )


def test_sasl_without_a_protocol_is_refused_rather_than_sent_in_the_clear() -> None:
    with pytest.raises(ValueError, match="SASL_SSL"):
        config(kafka={"sasl_mechanism": "PLAIN", "sasl_plain_password": "hush"})


@pytest.mark.parametrize("option", OWNED_OPTIONS)
def test_an_option_that_the_queue_sets_itself_is_refused(option: str) -> None:
    with pytest.raises(ValueError, match=rf"kafka={{'{option}': \.\.\.}}: Queue sets this itself"):
        config(kafka={option: None})


def test_an_option_that_kafka_does_not_know_is_refused_with_a_hint() -> None:
    with pytest.raises(
        ValueError,
        match=r"kafka={'linger': \.\.\.}: kafka-python knows no such option; did you mean 'linger_ms'\?",
    ):
        config(kafka={"linger": 5})
    for option in ("zzz", 5, ""):
        with pytest.raises(ValueError, match=re.escape(f"kafka={{{option!r}: ...}}")):
            config(kafka={option: 1})


@pytest.mark.parametrize("kafka", ["linger_ms=5", ["linger_ms"], 5, True])
def test_kafka_options_that_are_no_dict_are_refused(kafka: Any) -> None:
    refused(TypeError, "kafka", kafka, lambda: config(kafka=kafka))


def test_no_message_about_kafka_options_tells_a_password(files: dict[str, str]) -> None:
    secret = {"sasl_plain_password": "hush-hush", "sasl_mechanism": "PLAIN"}
    for kafka in (
        {**secret},
        {**secret, "zzz": 1},
        {**secret, "acks": 1},
        {**secret, "security_protocol": "PLAINTEXT"},
    ):
        with pytest.raises(ValueError) as caught:
            config(
                certfile=files["certfile"] if "security_protocol" in kafka else None, kafka=kafka
            )
        assert "hush" not in str(caught.value)


def test_the_given_dict_stays_as_it_is(files: dict[str, str]) -> None:
    kafka = {"linger_ms": 1}
    config(cafile=files["cafile"], kafka=kafka)
    assert kafka == {"linger_ms": 1}


# The same at the doors that users know.


@pytest.mark.parametrize("kind", [Queue, Worker])
@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (ValueError, "hosts", "a b:1"),
        (TypeError, "hosts", 9092),
        (ValueError, "topic", "a/b"),
        (TypeError, "topic", None),
        (ValueError, "timeout", 0),
        (ValueError, "timeout", -1.5),
        (TypeError, "timeout", "5"),
        (ValueError, "job_size", 0),
        (TypeError, "job_size", "1MB"),
        (FileNotFoundError, "cafile", "no/such.pem"),
        (TypeError, "kafka", "x"),
    ],
)
def test_queue_and_worker_refuse_at_construction(
    kind: Any, error: type[Exception], name: str, value: Any
) -> None:
    refused(error, name, value, lambda: kind(**{name: value}))


async def later() -> None:
    pass


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (TypeError, "callback", 5),
        (ValueError, "offset_policy", "first"),
        (ValueError, "processes", 0),
        (TypeError, "processes", 1.5),
        (ValueError, "proc_ttl", -1),
        (ValueError, "group", ""),
        (TypeError, "handoff", 3),
        (ValueError, "stop_timeout", 0),
        (TypeError, "initializer", 3),
        (TypeError, "initializer", later),
        (ValueError, "decode_timeout", 0),
    ],
)
def test_a_worker_refuses_what_only_it_takes(error: type[Exception], name: str, value: Any) -> None:
    refused(error, name, value, lambda: Worker(**{name: value}))


def test_a_queue_refuses_what_using_cannot_do() -> None:
    with Queue(hosts="127.0.0.1:1") as queue:
        refused(ValueError, "timeout", -1, lambda: queue.using(timeout=-1))
        refused(TypeError, "key", 5, lambda: queue.using(key=5))
        refused(ValueError, "partition", -1, lambda: queue.using(partition=-1))
        message = refused(ValueError, "partition", 3, lambda: queue.using(key="k", partition=3))
        assert "key=b'k'" in message
        refused(ValueError, "partition", 3, lambda: queue.using(key="k").using(partition=3))
        refused(TypeError, "job", 5, lambda: queue.job(timeout=None)(5))
        refused(TypeError, "job", 5, lambda: queue.job(5))
