"""Settings of the project, some of them from the environment of the test."""

import os

SECRET_KEY = "of the tests"
DEBUG = False
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "djangoshop.urls"
INSTALLED_APPS = ["embedkq.django", "djangoshop"]
DATABASES = {
    name: {"ENGINE": "django.db.backends.sqlite3", "NAME": os.environ.get("DATABASE", ":memory:")}
    for name in ("default", "other")
}
if "MAX_AGE" in os.environ:
    DATABASES["default"]["CONN_MAX_AGE"] = int(os.environ["MAX_AGE"])
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
MIDDLEWARE: list[str] = []
TASKS = {
    "default": {"BACKEND": "embedkq.django.TasksBackend", "QUEUES": ["default", "other"]},
    "limited": {"BACKEND": "embedkq.django.TasksBackend", "OPTIONS": {"timeout": 9}},
}

EMBEDKQ_HOSTS = os.environ.get("HOSTS", "127.0.0.1:1")
EMBEDKQ_TOPIC = os.environ.get("TOPIC", "shop")
EMBEDKQ_WORKER = os.environ.get("WORKER") == "1"
EMBEDKQ_CALLBACK = "djangoshop.jobs:on_end"
EMBEDKQ_TIMEOUT = 30
