"""Creates TLS contexts from options, and explains TLS failures: which option or file to change."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any

FILE_OPTIONS = {
    "cafile": "ssl_cafile",
    "certfile": "ssl_certfile",
    "keyfile": "ssl_keyfile",
    "crlfile": "ssl_crlfile",
}
"""Arguments of Queue and Worker, and their names in kafka-python."""
_NOT_YET_VALID = (9,)
_EXPIRED = (10,)
_UNTRUSTED = (2, 7, 18, 19, 20, 21, 24, 26)
_REVOKED = (23,)
_NO_LIST = (3, 8)
_LIST_OUT_OF_DATE = (11, 12)
_OTHER_NAME = (62, 63, 64)
"""OpenSSL's error numbers for refused certificates."""
_OPENSSL_NOISE = re.compile(r"^\[[^\]]*\] |\s*\(_ssl\.c:\d+\)$")


def uses_tls(config: Mapping[str, Any]) -> bool:
    """Whether a client with these options uses TLS."""
    return config.get("security_protocol") in ("SSL", "SASL_SSL")


def tls_context(config: Mapping[str, Any]) -> ssl.SSLContext:
    """Create the TLS context for a client's options.

    Raises:
        ValueError: a file is invalid; the message names it.
    """
    if config.get("ssl_context") is not None:
        given: ssl.SSLContext = config["ssl_context"]
        return given
    cafile, certfile, keyfile, crlfile = (config.get(option) for option in FILE_OPTIONS.values())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = config.get("ssl_check_hostname", True)
    loading = f"cafile={cafile!r}"
    try:
        if cafile:
            context.load_verify_locations(cafile)
        else:
            context.load_default_certs()
        loading = f"certfile={certfile!r}, keyfile={keyfile!r}"
        if certfile:
            # Pass a password even if it is empty. Without one, OpenSSL would ask for it in the
            # terminal and wait.
            context.load_cert_chain(certfile, keyfile, config.get("ssl_password") or "")
        loading = f"crlfile={crlfile!r}"
        if crlfile:
            context.load_verify_locations(crlfile)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    except OSError as error:
        text = _without_noise(error)
        hint = (
            ". An encrypted key needs kafka={'ssl_password': ...}"
            if "PEM lib" in text or "decrypt" in text
            else ""
        )
        raise ValueError(f"{loading}: {text}{hint}") from error
    return context


class ContextFromFiles(ssl.SSLContext):
    """Reads its files again for each connection, because certificates and revocation lists are
    replaced while workers run."""

    def __new__(cls, config: Mapping[str, Any]) -> ContextFromFiles:
        return super().__new__(cls, ssl.PROTOCOL_TLS_CLIENT)

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        """As in any SSLContext."""
        return tls_context(self._config).wrap_socket(*args, **kwargs)


def explained(address: str, error: OSError, options: Mapping[str, Any]) -> tuple[str, bool]:
    """Explain what failed and what to change, and whether that is certain. `options` are those of a
    kafka-python client."""
    if isinstance(error, ssl.SSLCertVerificationError):
        change = _for_certificate(error.verify_code, options)
    elif isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        change = _for_alert(error.reason or "", options)
    else:
        return closed(address, options)
    return f"TLS with {address} fails: {_without_noise(error)}. {change}", True


def closed(address: str, options: Mapping[str, Any]) -> tuple[str, bool]:
    """Like `explained`, for a connection that was closed without a reason."""
    own = (
        "is one that the broker accepts"
        if options.get("ssl_certfile")
        else "is given if the broker asks for one"
    )
    return (
        (
            f"TLS with {address} fails: it closes the connection. Check that the port belongs to a"
            f" TLS listener, and that certfile {own}"
        ),
        False,
    )


def _without_noise(error: OSError) -> str:
    return _OPENSSL_NOISE.sub("", str(error)).rstrip(".")


def _for_certificate(code: int, options: Mapping[str, Any]) -> str:
    cafile, crlfile = _shown(options, "cafile"), _shown(options, "crlfile")
    changes = {
        _NOT_YET_VALID: (
            "The broker's certificate is not valid yet: check the clocks of both machines"
        ),
        _EXPIRED: (
            f"The broker's certificate, or its authority's in {cafile}, has expired and must be"
            " renewed"
        ),
        _UNTRUSTED: (
            f"{cafile} does not contain the authority that signed the broker's certificate: set"
            " cafile to that authority's certificate"
        ),
        _REVOKED: f"{crlfile} revokes the broker's certificate: the broker needs a new one",
        _NO_LIST: (
            f"{crlfile} has no revocation list of the authority that signed the broker's"
            " certificate: add that list"
        ),
        _LIST_OUT_OF_DATE: f"{crlfile} is out of date: download the authority's current list",
        _OTHER_NAME: (
            "Use a name in hosts that the broker's certificate is valid for, or add this name to"
            " the certificate"
        ),
    }
    return next(
        (change for codes, change in changes.items() if code in codes),
        f"Check the broker's certificate and {cafile}",
    )


def _for_alert(reason: str, options: Mapping[str, Any]) -> str:
    if "PROTOCOL_VERSION" in reason:
        return (
            "The broker does not support TLS 1.2 or newer: enable it there (ssl.enabled.protocols)"
        )
    if not options.get("ssl_certfile") and not _has_context(options):
        return "The broker requires a client certificate: set certfile and keyfile"
    return (
        f"The broker does not accept {_shown(options, 'certfile')}: it may have expired, it may be"
        " revoked, or the broker does not trust its authority"
    )


def _shown(options: Mapping[str, Any], name: str) -> str:
    path = options.get(FILE_OPTIONS[name])
    if path is not None:
        return f"{name}={path!r}"
    return (
        f"the {name} of kafka={{'ssl_context': ...}}"
        if _has_context(options)
        else f"the system's {name}"
    )


def _has_context(options: Mapping[str, Any]) -> bool:
    """Whether the user passed a context instead of files."""
    return not isinstance(options.get("ssl_context"), (ContextFromFiles, type(None)))
