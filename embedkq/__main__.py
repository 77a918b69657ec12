"""Entry of `kq`, `embedkq` and `python -m embedkq`: says in one line what to install where the
extra is missing."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; exits with its status."""
    try:
        import click  # noqa: F401
        import rich  # noqa: F401
    except ImportError as error:
        sys.exit(f"kq needs the package {error.name}: pip install 'embedkq[cli]'")
    from embedkq.cli import kq

    kq(prog_name="kq")


if __name__ == "__main__":
    main()
