"""`manage.py kq`: the commands of `kq`, with the project's settings."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import connections

from embedkq import _configuration
from embedkq.django import project

if TYPE_CHECKING:
    import click


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types
    """Passes on to click, which reads the command line."""

    help = "Run the project's jobs, or look at them: manage.py kq --help"

    def run_from_argv(self, argv: list[str]) -> None:
        """Run a command line such as ["manage.py", "kq", "worker", "--burst"]; exits."""
        _, arguments = _of_django().parse_known_args(argv[2:])  # Django has obeyed it by now
        try:
            _commands().main(arguments, prog_name=f"{os.path.basename(argv[0])} {argv[1]}")
        finally:
            connections.close_all()

    def add_arguments(self, parser: CommandParser) -> None:
        """For `call_command("kq", "info", "--json")`."""
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def handle(self, *_: Any, arguments: list[str], **__: Any) -> None:
        """Run a command, and return; exits if it ends badly."""
        _commands().main(arguments, prog_name="kq", standalone_mode=False)

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """For `manage.py help kq`."""
        self.run_from_argv([prog_name, subcommand, "--help"])


def _of_django() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--settings")
    parser.add_argument("--pythonpath")
    return parser


def _commands() -> click.Group:
    try:
        from embedkq.cli.hosted import commands_with
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"manage.py kq needs the package {error.name}: pip install 'embedkq[django]'")
    settings = project.configuration()
    of_queue = _configuration.queue_options(settings)
    of_worker = _configuration.worker_options(settings)
    return commands_with(of_queue, of_worker, project.current().make_worker)
