"""`kq guide` shows the whole guide, it is installed with the package, `make docs` builds it, and it
is written in the project's words."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from docutils import nodes
from guidepages import FOLDER, PAGES, PATHS, README, parsed, prose
from programs import KQ
from rich.console import Console
from support import HANG_SECONDS, ROOT

from embedkq.cli import kq
from embedkq.cli.guide import pages_by_name
from embedkq.cli.guide_page import rendered

GUIDE = [path for path in PATHS if path.parent == FOLDER]
AVOIDED = (
    # metaphors, and words that this project has a standard term for
    r"told",
    r"tells?",
    r"telling",
    r"poison",
    r"fence",
    r"ledger",
    r"heed(ed|s)?",
    r"forgoe?s?",
    r"bury|buried",
    r"condemn(ed|s)?",
    # inverted or old-fashioned English
    r"anew",
    r"to and fro",
    r"see to it",
    r"thereof",
    r"therein",
    r"whereof",
    r"hitherto",
    r"begun",
    r"goes? on",
    r"went on",
    r"is taken for",
    r"are taken for",
    r"as ever",
    r"pass(es|ed)? over",
    r"held up",
    r"of its own accord",
    r"in vain",
    # boasts, and words that say nothing
    r"simply",
    r"just",
    r"easy|easily",
    r"obviously",
    r"of course",
    r"powerful",
    r"blazing",
    r"seamless(ly)?",
    r"very fast",
)
"""What the guide says in other words. A page may show such a word as code."""


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(kq, ["guide", *arguments])
    return done.exit_code, done.output


def words_of(text: str) -> Counter[str]:
    return Counter(re.findall(r"[^\s─│┃━┏┓┗┛┡┩╇┳┻├┤┼└┘┴┬╋]+", text))


def test_without_a_page_it_lists_all_pages() -> None:
    status, shown = run()
    assert status == 0
    assert set(re.findall(r"kq guide ([a-z-]+)\)", " ".join(shown.split()))) == {
        path.stem for path in GUIDE
    } - {"index"}


def test_a_line_of_code_is_not_broken() -> None:
    code = "    $ pip install 'embedkq[cli,broker]'    # also the command line and a broker for development\n"
    assert len(code) > 80 and code in run("first-steps")[1]


@pytest.mark.parametrize("path", GUIDE, ids=lambda path: path.stem)
def test_a_page_is_shown_whole(path: Path) -> None:
    """The same words as docutils reads from it, with no markup left."""
    file = io.StringIO()
    console = Console(file=file, width=100_000, highlight=False)
    for part in rendered(path.read_text()):
        console.print(part)
    page = parsed(path)
    for message in list(page.findall(nodes.system_message)):
        message.parent.remove(message)
    for link in page.findall(nodes.reference):
        name, dot, _ = link["refuri"].partition(".rst")
        link += nodes.Text(f" (kq guide {name})" if dot else f" ({link['refuri']})")
    for item in page.findall(nodes.list_item):
        item.insert(
            0,
            nodes.paragraph(
                "",
                "-"
                if isinstance(item.parent, nodes.bullet_list)
                else f"{item.parent.index(item) + 1}.",
            ),
        )
    assert words_of(file.getvalue()) == words_of(page.astext())


def test_a_page_is_shown_by_name_with_or_without_its_extension() -> None:
    assert run("timeouts") == run("timeouts.rst") and "SIGKILL" in run("timeouts")[1]


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [("delivry", "delivery"), ("arch", "architecture"), ("Options", "options")],
)
def test_an_unknown_page_is_refused_with_the_nearest_name(asked: str, nearest: str) -> None:
    status, shown = run(asked)
    assert (
        status == 2
        and repr(asked) in shown
        and f"did you mean {nearest!r}?" in shown
        and len(shown.splitlines()) == 1
    )


def test_no_page_outside_the_guide_is_shown() -> None:
    for asked in ("../../setup.cfg", "../__init__", "xyzzy"):
        status, shown = run(asked)
        assert status == 2 and "`kq guide` lists all pages" in shown


def test_a_word_is_found_on_its_pages_in_any_case() -> None:
    status, shown = run("--search=WATERMARK")
    assert status == 0 and {"delivery", "glossary"} <= {
        line.partition(":")[0] for line in shown.splitlines()
    }
    assert "`" not in shown
    status, shown = run("--search=xyzzy")
    assert status == 2 and "'xyzzy'" in shown


def test_in_a_terminal_it_uses_the_pager(tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text("#!/bin/sh\necho paged\ncat\n")
    pager.chmod(0o755)
    ours, its = pty.openpty()
    environment = {**os.environ, "PAGER": str(pager), "COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(
        [KQ, "guide", "glossary"], stdin=its, stdout=its, stderr=its, env=environment
    )
    os.close(its)
    shown = b""
    try:
        while piece := os.read(ours, 65536):
            shown += piece
    except OSError:  # the terminal's other side is closed
        pass
    finally:
        os.close(ours)
    assert process.wait(HANG_SECONDS) == 0
    assert shown.startswith(b"paged") and b"watermark" in shown


def test_the_guide_is_installed_with_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, capture_output=True, timeout=HANG_SECONDS, check=True, cwd=ROOT)
    assert {path.name for path in (tmp_path / "embedkq" / "guide").iterdir()} == {
        path.name for path in GUIDE
    }


def test_the_pages_are_those_of_the_folder() -> None:
    assert set(pages_by_name()) == {path.stem for path in GUIDE}


def test_make_docs_builds_every_page_without_a_warning(tmp_path: Path) -> None:
    source = tmp_path / "guide"
    source.mkdir()
    for path in [*(ROOT / ".docs").iterdir(), *GUIDE]:
        if path.is_file():
            (source / path.name).write_bytes(path.read_bytes())
    recipe = re.search(
        r"^\t\$\(BIN\)/python -m sphinx (.*) -d \S+ build/guide build/docs$",
        (ROOT / "Makefile").read_text(),
        re.MULTILINE,
    )
    assert recipe is not None
    command = [
        sys.executable,
        "-m",
        "sphinx",
        *recipe[1].split(),
        "-d",
        str(tmp_path / "trees"),
        str(source),
        str(tmp_path / "docs"),
    ]
    built = subprocess.run(
        command, capture_output=True, text=True, timeout=5 * HANG_SECONDS, check=False, cwd=ROOT
    )
    assert built.returncode == 0 and not built.stderr, built.stderr
    pages = {path.stem: path.read_text() for path in (tmp_path / "docs").glob("*.html")}
    assert {path.stem for path in GUIDE} | {"api"} <= set(pages)
    for name, page in pages.items():
        for target, section in re.findall(
            r'<a class="reference (?:internal|external)" href="([a-z-]+)\.html(?:#([a-z-]+))?"',
            page,
        ):
            assert target in pages and (not section or f'id="{section}"' in pages[target]), (
                f"{name} leads to {target}#{section}"
            )
    for name in (
        "Queue",
        "Worker",
        "Job",
        "EmbedKQ",
        "EmbeddedBroker",
        "JobCrashed",
        "drain",
        "enqueue_many",
    ):
        assert f".{name}" in pages["api"]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_has_no_word_that_the_project_avoids(path: Path) -> None:
    text = " ".join(prose(path).split())
    found = re.finditer(rf"\b({'|'.join(AVOIDED)})\b", text, re.IGNORECASE)
    assert not [text[max(0, match.start() - 40) : match.end() + 40] for match in found]


def test_the_files_for_contributors_lead_to_the_guide() -> None:
    for name, page in (("CONTRIBUTING.md", "contributing"), ("SECURITY.md", "security-policy")):
        text = (ROOT / ".github" / name).read_text()
        targets = re.findall(r"\]\(([^)#]+\.rst)\)", text)
        assert f"../embedkq/guide/{page}.rst" in targets
        assert all((ROOT / ".github" / target).exists() for target in targets)


def test_pre_commit_runs_what_make_lint_runs() -> None:
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    hooks = re.findall(r"entry: (.*)", (ROOT / ".pre-commit-config.yaml").read_text())
    assert hooks == [line.strip().replace("$(BIN)", ".venv/bin") for line in lint[1].splitlines()]


def test_the_description_of_the_package_is_readme() -> None:
    assert "file: README.rst" in (ROOT / "setup.cfg").read_text() and README.exists()
