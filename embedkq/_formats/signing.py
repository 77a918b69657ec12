"""Signs records and checks signatures, so that nobody without a secret can make a worker run code.
Pure; any thread.

The signature is HMAC-SHA256 (RFC 2104) over topic, key, embedkq's header, the payload and the job's
own headers, each with its length, so that no two records have the same signed text. It is the last
field of the header and names the secret by a digest. So secrets can be rotated without downtime.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from embedkq._formats import user_headers
from embedkq._formats.headers import SIGNATURE, value_of, with_value
from embedkq.errors import DecodeError, SecretUnknown, SignatureRefused

_ABSENT = -1
_BLOCK = 64
"""The block size of SHA-256 in bytes."""
_LENGTHS = struct.Struct(">4q").pack
_SHORTEST_SECRET = 16
_NAME = re.compile(rb"[0-9a-f]{16}").fullmatch

Secret = str | bytes | Path
"""A secret, or the path of a file with a secret."""


class Signer:
    """Signs with its first secret, and accepts signatures by any of its secrets. Never shows its
    secrets, and cannot be pickled."""

    def __init__(self, secrets: Secret | Sequence[Secret]) -> None:
        """
        Args:
            secrets: one or several secrets. The first one signs; signatures by the others are
                accepted too.

        Raises:
            TypeError, ValueError: a secret is not text, is too short, or its file cannot be read.
                The message never contains the secret.
        """
        listed: Iterable[Any] = [secrets] if isinstance(secrets, (str, bytes, Path)) else secrets
        keys = [_read(secret) for secret in listed]
        if not keys:
            raise ValueError(
                "secret=[]: use at least one secret, or None to leave records unsigned"
            )
        self._keys = {_name_of(key): _Key(key) for key in keys}
        self._first = _name_of(keys[0])

    def __repr__(self) -> str:
        return f"Signer({len(self._keys)} secrets)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets cannot be pickled: they would travel in a job's payload")

    def sign(
        self,
        topic: str,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        payload: bytes | None,
    ) -> list[tuple[str, bytes]]:
        """The headers of an unsigned job with a signature added.

        Raises:
            DecodeError: they are not the headers of a job.
        """
        signed = value_of(headers)
        more = user_headers.signed_part(headers) if len(headers) > 1 else b""
        digest = self._keys[self._first].digest(topic, key, signed, payload, more)
        return with_value(headers, b"".join((signed, SIGNATURE, self._first, b":", digest)))

    def check(
        self,
        topic: str,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes | None]],
        payload: bytes | None,
    ) -> bytes:
        """Check a record before anything in it is unpickled. Returns the header's value without the
        signature.

        Raises:
            SignatureRefused: the record is not signed, was altered, was copied from another topic,
                or is signed with an unknown secret.
        """
        try:
            signed, is_signed, signature = value_of(headers).rpartition(SIGNATURE)
        except DecodeError as error:
            raise SignatureRefused(f"it is not signed: {error}") from None
        if not is_signed:
            raise SignatureRefused("it is not signed")
        name, _, digest = signature.partition(b":")
        secret = self._keys.get(name)
        if secret is None:
            if not _NAME(name):
                raise SignatureRefused(
                    "its signature has a format that this version of embedkq does not know"
                )
            raise SecretUnknown(name.decode())
        try:
            more = user_headers.signed_part(headers) if len(headers) > 1 else b""
        except DecodeError as error:
            raise SignatureRefused(f"its headers were altered: {error}") from None
        if not hmac.compare_digest(digest, secret.digest(topic, key, signed, payload, more)):
            raise SignatureRefused(
                "its signature is invalid: it was altered, or signed for another topic"
            )
        return signed


def check_age(timestamp: int, max_age: float) -> None:
    """Refuse an old record. `timestamp` is in milliseconds, `max_age` in seconds.

    Raises:
        SignatureRefused: the record is older than `max_age`.
    """
    age = time.time() - timestamp / 1000
    if age > max_age:
        raise SignatureRefused(f"it was enqueued {age:.0f} s ago, and max_age is {max_age:g} s")


class _Key:
    """HMAC-SHA256 with a prepared key. Copying a `hmac.HMAC` takes longer than all of this."""

    def __init__(self, secret: bytes) -> None:
        block = (secret if len(secret) <= _BLOCK else hashlib.sha256(secret).digest()).ljust(
            _BLOCK, b"\0"
        )
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(
        self, topic: str, key: bytes | None, signed: bytes, payload: bytes | None, more: bytes
    ) -> bytes:
        """The digest in hexadecimal. `signed` is the header's value without a signature; `more` is
        of the job's own headers, and empty without any."""
        name = topic.encode()
        lengths = _LENGTHS(
            len(name),
            _ABSENT if key is None else len(key),
            len(signed),
            _ABSENT if payload is None else len(payload),
        )
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(b"".join((lengths, name, key or b"", signed, payload or b"", more)))
        outer.update(inner.digest())
        return outer.hexdigest().encode()


def _name_of(secret: bytes) -> bytes:
    return hashlib.sha256(b"embedkq secret name\0" + secret).hexdigest()[:16].encode()


def _read(secret: Any) -> bytes:
    if isinstance(secret, Path):
        try:
            content = secret.expanduser().read_bytes().strip()
        except (OSError, RuntimeError) as error:  # RuntimeError: ~nobody
            raise ValueError(
                f"secret={secret!r}: {getattr(error, 'strerror', None) or error}"
            ) from error
    elif isinstance(secret, (str, bytes)):
        content = secret.encode() if isinstance(secret, str) else secret
    else:
        raise TypeError(
            "a secret must be a string, bytes, or the pathlib.Path of a file with the secret, not"
            f" a {type(secret).__name__}"
        )
    if len(content) < _SHORTEST_SECRET:
        raise ValueError(
            f"a secret must have at least {_SHORTEST_SECRET} bytes; this one has {len(content)}."
            " secrets.token_hex(32) makes one"
        )
    return content
