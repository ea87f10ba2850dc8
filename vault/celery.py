"""The Celery application. Tasks are thin: the Operation row is the truth, a message only a wake-up."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vault.settings")

app = Celery("keystead")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
