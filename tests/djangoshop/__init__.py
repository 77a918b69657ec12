"""The Django project of the tests, as users write theirs; children import it to find the jobs."""

import os
import sys

MANAGE = (sys.executable, "-m", "django")
"""What a project has in its `manage.py`, as a command."""


def set_up() -> None:
    """Set Django up in this process, for tests that need no process of their own."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "djangoshop.settings")
    django.setup()
