"""Certificates for tests of TLS, made by the `openssl` command line: good ones, and each kind that
must be refused."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

NAMES = "IP:127.0.0.1,DNS:localhost"
"""What a server's certificate is made for, unless a test wants another name."""
PASSPHRASE = "open sesame 4711"
"""Of the keys that are encrypted."""
_LONG_AGO = ("20200101000000Z", "20200102000000Z")
_SETTINGS = """
[ca]
default_ca = authority
[authority]
dir = {folder}
database = $dir/index.txt
serial = $dir/serial
crlnumber = $dir/crlnumber
new_certs_dir = $dir
certificate = $dir/ca.pem
private_key = $dir/ca.key
default_md = sha256
default_days = 30
default_crl_days = 30
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[req]
distinguished_name = subject
[subject]
"""


class Authority:
    """A certificate authority in a folder of its own.

    Attributes:
        cafile: its own certificate.
    """

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self.cafile = str(folder / "ca.pem")
        (folder / "index.txt").touch()
        for counter in ("serial", "crlnumber"):
            (folder / counter).write_text("1000\n")
        Path(self._settings).write_text(_SETTINGS.format(folder=folder))
        _openssl(
            "req",
            "-x509",
            *_new_key(folder / "ca.key"),
            "-out",
            self.cafile,
            "-days",
            "30",
            "-subj",
            f"/CN={name}",
            "-config",
            self._settings,
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
            "-addext",
            "subjectKeyIdentifier=hash",
        )

    def issue(self, name: str, names: str = NAMES, *, expired: bool = False) -> Certificate:
        """A certificate for a server or a client; `names` is what OpenSSL takes as
        subjectAltName."""
        made = Certificate(self._folder / f"{name}.pem", self._folder / f"{name}.key", self)
        request = self._folder / f"{name}.csr"
        _openssl(
            "req",
            "-new",
            *_new_key(made.key_path),
            "-out",
            str(request),
            "-subj",
            f"/CN={name}",
            "-config",
            self._settings,
            "-addext",
            f"subjectAltName={names}",
        )
        dates = ["-startdate", _LONG_AGO[0], "-enddate", _LONG_AGO[1]] if expired else []
        self._ca("-in", str(request), "-out", made.certfile, "-notext", *dates)
        return made

    def revocation_list(
        self, name: str, revoked: Iterable[Certificate] = (), *, expired: bool = False
    ) -> str:
        """Path of a list with these certificates, and those of the lists made before."""
        for certificate in revoked:
            self._ca("-revoke", certificate.certfile)
        path = self._folder / f"{name}.crl"
        dates = (
            ["-crl_lastupdate", _LONG_AGO[0], "-crl_nextupdate", _LONG_AGO[1]] if expired else []
        )
        self._ca("-gencrl", "-out", str(path), *dates)
        return str(path)

    @property
    def _settings(self) -> str:
        return str(self._folder / "openssl.cnf")

    def _ca(self, *arguments: str) -> None:
        _openssl("ca", "-batch", "-config", self._settings, *arguments)


class Certificate:
    """A certificate and its key, in files.

    Attributes:
        certfile, keyfile: their paths.
    """

    def __init__(self, certificate: Path, key: Path, authority: Authority) -> None:
        self.certfile = str(certificate)
        self.keyfile = str(key)
        self.key_path = key
        self._authority = authority

    @property
    def files(self) -> Mapping[str, str]:
        """As arguments of Queue and Worker."""
        return {"certfile": self.certfile, "keyfile": self.keyfile}

    def keystore(self) -> bytes:
        """What a broker reads with ssl.keystore.type=PEM: key, certificate and its authority's."""
        return b"".join(
            Path(path).read_bytes()
            for path in (self.keyfile, self.certfile, self._authority.cafile)
        )

    def encrypted_key(self) -> str:
        """Path of the same key, which needs `PASSPHRASE`."""
        path = self.key_path.with_suffix(".encrypted.key")
        _openssl(
            "pkcs8",
            "-topk8",
            "-in",
            self.keyfile,
            "-out",
            str(path),
            "-passout",
            f"pass:{PASSPHRASE}",
        )
        return str(path)


def _new_key(path: Path) -> list[str]:
    return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(path)]


def _openssl(*arguments: str) -> None:
    done = subprocess.run(
        ["openssl", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"openssl {' '.join(arguments)}:\n{done.stderr}"
