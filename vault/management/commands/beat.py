"""keystead beat"""

from typing import Any

from django.core.management.base import BaseCommand

from vault import env, startup
from vault.celery import app


class Command(BaseCommand):
    """Runs Celery beat."""

    help = "Run Celery beat, which sends the periodic sweeps. Two of them do no harm."

    def handle(self, *args: Any, **options: Any) -> None:
        """Send tasks until told to stop."""
        startup.make_folders()
        app.Beat(
            scheduler_cls="vault.celery:BeatScheduler",
            loglevel=env.get("KEYSTEAD_LOG_LEVEL").upper(),
            quiet=True,
        ).run()
