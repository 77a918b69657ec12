"""Connects once, like a client of kafka-python, to find out why brokers refuse a client.

If a certificate or password is wrong, kafka-python 3.0.12 retries until it times out, and reports
only that there was no answer.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from kafka import errors as kafka_errors

from embedkq._clients import tls
from embedkq._clients.private import (
    ApiVersionsRequest,
    KafkaConnectionManager,
    KafkaProtocol,
    MetadataRequest,
    SaslAuthenticateRequest,
    SaslHandshakeRequest,
    get_sasl_mechanism,
)
from embedkq._clients.tls import tls_context, uses_tls
from embedkq.errors import BrokerRefused, BrokerUnavailable

EARLY_SECONDS = 2.0
LATE_SECONDS = 1.5
_AGAIN_SECONDS = 1.0
_ADVERTISED = 5
"""Maximum number of brokers to probe beside those in `hosts`."""
_RECEIVE_BYTES = 65_536


class Refusal(NamedTuple):
    """Why a broker refuses the client.

    Attributes:
        text: what happened, and what to change.
        certain: whether a retry cannot help. If not, there may be another reason, such as a broker
            that is starting.
    """

    text: str
    certain: bool

    def as_error(self, hosts: str) -> BrokerRefused | BrokerUnavailable:
        """The error to raise for a client that could not connect to these hosts."""
        return BrokerRefused(self.text) if self.certain else BrokerUnavailable(hosts, self.text)


class Verdict(NamedTuple):
    """The result of probing brokers.

    Attributes:
        refusals: the refusals.
        accepted: number of brokers that accept the client.
        silent: number of brokers that did not answer.
    """

    refusals: tuple[Refusal, ...]
    accepted: int
    silent: int

    @property
    def final(self) -> str:
        """Why all brokers refuse the client permanently; empty if one may accept it."""
        if (
            self.accepted
            or self.silent
            or not self.refusals
            or not all(refusal.certain for refusal in self.refusals)
        ):
            return ""
        return self.refusals[0].text


def is_guarded(options: Mapping[str, Any]) -> bool:
    """Whether a client with these options uses TLS or SASL."""
    return uses_tls(options) or _uses_sasl(options)


def refuse_early(hosts: str, options: Mapping[str, Any]) -> None:
    """Check whether brokers will accept a client with TLS or a password, before it is created.
    Takes at most 2 s. Any thread.

    Args:
        options: options of any kafka-python client.

    Raises:
        BrokerRefused: all brokers refuse the client permanently.
        ValueError: a TLS file is invalid.
    """
    if is_guarded(options):
        reason = probe(hosts, options, EARLY_SECONDS, thorough=False).final
        if reason:
            raise BrokerRefused(reason)


def refused_for_good(hosts: str, options: Mapping[str, Any]) -> str:
    """Why all brokers permanently refuse a client that lost its connections; empty if one may
    accept it. Takes at most 5 s. Any thread.

    Probes twice, a second apart, because a cluster that is being reconfigured may refuse for a
    moment.
    """
    if not is_guarded(options):
        return ""
    try:
        if not probe(hosts, options, EARLY_SECONDS, thorough=False).final:
            return ""
        time.sleep(_AGAIN_SECONDS)
        return probe(hosts, options, EARLY_SECONDS, thorough=False).final
    except ValueError as error:
        return str(error)


def look_for_reason(
    hosts: str, options: Mapping[str, Any], seconds: float = LATE_SECONDS
) -> Refusal | None:
    """Why a client may have found no broker; None if unknown. Takes at most `seconds`. Any
    thread."""
    try:
        refusals = probe(hosts, options, seconds, thorough=True).refusals
    except ValueError as error:
        return Refusal(str(error), certain=True)
    return min(refusals, key=lambda refusal: not refusal.certain, default=None)


def probe(hosts: str, options: Mapping[str, Any], seconds: float, *, thorough: bool) -> Verdict:
    """Probe the brokers one after another, for at most `seconds`. Any thread.

    Args:
        thorough: probe all brokers, and those that they advertise. Otherwise stop at the first one
            that accepts the client.

    Raises:
        ValueError: a TLS file is invalid.
    """
    if options.get("proxy_url") or options.get("socks5_proxy"):
        return Verdict((), 0, 1)  # the probe would take another route than the client
    if uses_tls(options):
        tls_context(options)
    deadline = time.monotonic() + seconds
    waiting = [_Address(*_split(host), named_by="") for host in hosts.split(",")]
    tried: set[tuple[str, int]] = set()
    refusals: list[Refusal] = []
    accepted = silent = 0
    while waiting and time.monotonic() < deadline:
        address = waiting.pop(0)
        tried.add(address[:2])
        try:
            share = (deadline - time.monotonic()) / (len(waiting) + 1)
            found = _Attempt(address, options, share).run()
        except _Refused as refused:
            refusals.append(refused.refusal)
        except (OSError, EOFError):
            silent += 1
        else:
            accepted += 1
            if not thorough:
                break
            new = [_Address(*place, str(address)) for place in found if place not in tried]
            places = {known[:2] for known in waiting}
            waiting += [each for each in new[:_ADVERTISED] if each[:2] not in places]
    return Verdict(tuple(refusals), accepted, silent + len(waiting))


class _Address(NamedTuple):
    host: str
    port: int
    named_by: str

    def __str__(self) -> str:
        by = f" (advertised by {self.named_by})" if self.named_by else ""
        return f"{self.host}:{self.port}{by}"


class _Refused(Exception):
    def __init__(self, text: str, certain: bool = True) -> None:
        super().__init__(text)
        self.refusal = Refusal(text, certain)


class _Attempt:
    """One connection attempt, up to the first answer."""

    def __init__(self, address: _Address, options: Mapping[str, Any], seconds: float) -> None:
        self._address = address
        self._options = options
        self._deadline = time.monotonic() + seconds
        self._protocol = KafkaProtocol(client_id="embedkq-probe")
        self._socket: socket.socket

    def run(self) -> list[tuple[str, int]]:
        """Connect, and return the brokers that this one advertises. Raises `_Refused`, or OSError
        or EOFError without an answer."""
        with socket.create_connection(self._address[:2], timeout=self._rest) as self._socket:
            if not uses_tls(self._options):
                return self._talk()
            try:
                secured = tls_context(self._options).wrap_socket(
                    self._socket, server_hostname=self._address.host.rstrip(".")
                )
                with secured as self._socket:
                    return self._talk()
            except (
                ssl.SSLError,
                ConnectionResetError,
            ) as error:  # also after the handshake: TLS 1.3 refuses a client's certificate late
                raise _Refused(*tls.explained(str(self._address), error, self._options)) from None

    def _talk(self) -> list[tuple[str, int]]:
        try:
            self._ask(ApiVersionsRequest(version=0))
        except (EOFError, ConnectionResetError):
            self._explain_silence()
            raise
        if _uses_sasl(self._options):
            self._authenticate()
        try:
            found = self._ask(MetadataRequest(version=1, topics=[]))
        except (EOFError, ConnectionResetError):
            if _uses_sasl(self._options):
                raise
            raise _Refused(
                f"{self._address} closes the connection to a client without credentials."
                " Set kafka={'sasl_mechanism': ..., 'sasl_plain_username': ...,"
                " 'sasl_plain_password': ...}"
            ) from None
        return [(broker.host, broker.port) for broker in found.brokers]

    def _explain_silence(self) -> None:
        if uses_tls(self._options):
            raise _Refused(*tls.closed(str(self._address), self._options))
        if _speaks_tls(self._address, self._rest):
            raise _Refused(
                f"{self._address} uses TLS, and this client does not. Set cafile to the"
                " certificate of the authority that signed the broker's certificate"
            )

    def _authenticate(self) -> None:
        name = self._options["sasl_mechanism"]
        offered = self._ask(SaslHandshakeRequest(version=1, mechanism=name))
        if offered.error_code == kafka_errors.UnsupportedSaslMechanismError.errno:
            raise _Refused(
                f"{self._address} does not support kafka={{'sasl_mechanism': {name!r}}}. Use one"
                f" that it supports: {', '.join(offered.mechanisms)}"
            )
        if offered.error_code:
            raise _Refused(
                f"{self._address} does not accept passwords"
                f" ({kafka_errors.for_code(offered.error_code).__name__}). Use the port of a SASL"
                " listener in hosts, or leave out sasl_mechanism"
            )
        try:
            mechanism = get_sasl_mechanism(name)(
                host=self._address.host, **_sasl_options(self._options)
            )
            while not mechanism.is_done():
                answer = self._ask(
                    SaslAuthenticateRequest(version=1, auth_bytes=mechanism.auth_bytes())
                )
                if answer.error_code:
                    raise _Refused(
                        f"{self._address} refuses the login: {answer.error_message}. {CREDENTIALS}"
                    )
                mechanism.receive(answer.auth_bytes)
        except (_Refused, OSError, EOFError):
            raise
        except Exception as error:  # noqa: BLE001  (raised by the mechanism or a token provider; its text may contain secrets)
            raise _Refused(
                f"{name} with {self._address} fails with {type(error).__name__}. {CREDENTIALS}",
                certain=False,
            ) from None

    def _ask(self, request: Any) -> Any:
        self._protocol.send_request(request)
        self._socket.settimeout(self._rest)
        self._socket.sendall(self._protocol.send_bytes())
        while True:
            self._socket.settimeout(self._rest)
            received = self._socket.recv(_RECEIVE_BYTES)
            if not received:
                raise EOFError("the connection was closed")
            try:
                answers = self._protocol.receive_bytes(received)
            except (kafka_errors.KafkaError, ValueError) as error:
                raise EOFError("this is not an answer of Kafka") from error
            for _, answer in answers:
                return answer

    @property
    def _rest(self) -> float:
        return max(0.05, self._deadline - time.monotonic())


CREDENTIALS = (
    "Check kafka={'sasl_plain_username': ..., 'sasl_plain_password': ...}, or the other options of"
    " that mechanism"
)


def _speaks_tls(address: _Address, seconds: float) -> bool:
    """Whether a port uses TLS. Sends no data through the TLS connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(address[:2], timeout=seconds) as plain,
            context.wrap_socket(plain),
        ):
            return True
    except ssl.SSLError as error:
        return "ALERT" in (error.reason or "")
    except OSError:
        return False


def _uses_sasl(options: Mapping[str, Any]) -> bool:
    return options.get("security_protocol") in ("SASL_PLAINTEXT", "SASL_SSL")


def _sasl_options(options: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**KafkaConnectionManager.DEFAULT_CONFIG, **options}
    return {
        name: value
        for name, value in merged.items()
        if name.startswith("sasl_") or name == "security_protocol"
    }


def _split(host: str) -> tuple[str, int]:
    name, _, port = host.rpartition(":")
    return name.strip("[]"), int(port)
