"""The app for INSTALLED_APPS: checks the settings, and starts a worker with the first request where
they say so."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_started, setting_changed

from embedkq._options.option import PREFIX
from embedkq.django import project


class EmbedkqConfig(AppConfig):  # type: ignore[misc]  # Django has no types
    """The app "embedkq"."""

    name = "embedkq.django"
    label = "embedkq"
    verbose_name = "embedkq"

    def ready(self) -> None:
        """Refuse settings that do not exist, in every process: a typo in EMBEDKQ_SECRET would leave
        jobs unsigned without a word."""
        try:
            project.check_names()
        except ValueError as error:
            raise ImproperlyConfigured(str(error)) from None
        checks.register(_check_values)
        request_started.connect(_start_with_first_request, dispatch_uid="embedkq")
        setting_changed.connect(_forget_project, dispatch_uid="embedkq")


def _check_values(**_: Any) -> list[Any]:
    try:
        project.Project().check()
    except (TypeError, ValueError, ImportError) as error:
        return [checks.Error(str(error), id="embedkq.E001")]
    return []


def _start_with_first_request(**_: Any) -> None:
    if getattr(settings, f"{PREFIX}WORKER", False) and project.current().runs_worker:
        project.current().start_once()


def _forget_project(*, setting: str, **_: Any) -> None:
    if setting.startswith(PREFIX):  # a test has set it
        project.forget()
