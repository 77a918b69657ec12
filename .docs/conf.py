"""Sphinx: the guide and the API reference as HTML. `make docs` copies the guide's pages."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

from embedkq.version import __version__

project = "embedkq"
author = "the embedkq maintainers"
release = version = __version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "alabaster"
html_show_copyright = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
default_role = "code"
nitpicky = True
# Types of Python's and of other projects: to know their pages the build would need a network.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!embedkq\.).*"),
    (r"py:class", r"embedkq\.[\w.]+\.[A-Z](_co)?"),
]  # the latter: type variables

_PAGE = re.compile(r"^- `[^<]+ <([a-z-]+)\.rst>`_", re.MULTILINE)


class LinksBetweenPages(SphinxTransform):
    """Turns a link from page to page into one of Sphinx's.

    In the sources such a link is a file name, which works where these are read.
    """

    default_priority = 5

    def apply(self, **kwargs: object) -> None:
        for link in list(self.document.findall(nodes.reference)):
            page, dot, section = link.get("refuri", "").partition(".rst")
            if not dot or "/" in page:
                continue
            if section:
                link["refuri"] = f"{page}.html{section}"  # a test of the guide checks sections
                continue
            target = pending_xref(
                "",
                nodes.inline("", link.astext()),
                refdomain="std",
                reftype="doc",
                refdoc=self.env.docname,
                refexplicit=True,
                reftarget=PurePosixPath(page).name,
                refwarn=True,
            )
            link.replace_self(target)


def with_table_of_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Makes the start page's list of pages the table of contents, the API reference last."""
    if page == "index":
        pages = "\n".join(f"   {name}" for name in [*_PAGE.findall(source[0]), "api"])
        source[0] += (
            "\nAPI\n===\n\n`API reference <api.rst>`_: the public names, from their docstrings.\n"
        )
        source[0] += f"\n.. toctree::\n   :hidden:\n\n{pages}\n"


def setup(app: Sphinx) -> None:
    app.connect("source-read", with_table_of_contents)
    app.add_transform(LinksBetweenPages)
