"""keystead worker"""

import sys
import warnings
from typing import Any

from celery.exceptions import SecurityWarning
from django.core.management.base import BaseCommand
from django.db import connections

from vault import env, startup
from vault.celery import app
from vault.hardening import harden_process


class Command(BaseCommand):
    """Runs a Celery worker."""

    help = "Run a Celery worker: provisioning, rotation, expiry, refresh."

    def handle(self, *args: Any, **options: Any) -> None:
        """Work until told to stop."""
        harden_process()
        startup.prepare_process()
        connections.close_all()
        # It is about pickled messages, which are not accepted here (CELERY_ACCEPT_CONTENT).
        warnings.filterwarnings("ignore", category=SecurityWarning)
        # Threads: tasks wait for networks and databases, and one process is one place where keys lie in memory.
        worker = app.Worker(
            pool="threads",
            concurrency=env.get("KEYSTEAD_WORKER_CONCURRENCY"),
            loglevel=env.get("KEYSTEAD_LOG_LEVEL").upper(),
            without_mingle=True,
            without_gossip=True,
            quiet=True,
        )
        worker.start()
        sys.exit(worker.exitcode)
