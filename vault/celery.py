"""The Celery application. Tasks are thin: the Operation row is the truth, a message only a wake-up."""

import os
import signal
from typing import Any

from celery import Celery
from celery.beat import Scheduler
from celery.signals import setup_logging, worker_ready

from vault import probe

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vault.settings")

app = Celery("keystead")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def keep_logging(**kwargs: Any) -> None:
    """Leave logging as vault.logs has set it up: with a receiver here, Celery does not touch it."""


@worker_ready.connect
def start_pulse(sender: Any, **kwargs: Any) -> None:
    """Let the worker's own loop show that it turns, so that a stuck one is seen.

    Also take back what Celery does on SIGUSR1: it prints the local variables of every thread, keys among them.
    """
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    probe.beat_pulse("worker")
    sender.timer.call_repeatedly(probe.PULSE_SECONDS, probe.beat_pulse, args=("worker",))


class BeatScheduler(Scheduler):
    """Keeps its state in memory: every scheduled task is a sweep over rows that know themselves when they are due.

    A file, as Celery's own scheduler keeps, would be one more thing to break when the process is killed.
    """

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due, show that beat turns, and return the seconds until the next look."""
        wait: float = super().tick(*args, **kwargs)
        probe.beat_pulse("beat")
        return min(wait, probe.PULSE_SECONDS)
