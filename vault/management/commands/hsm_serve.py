"""keystead hsm serve"""

import contextlib
import signal
from typing import Any

from django.core.management.base import BaseCommand
from django.db import connections

from vault import probe, startup
from vault.hardening import harden_process
from vault.hsm_keeper import Keeper


class Command(BaseCommand):
    """Runs the keeper of HSMs."""

    help = "Keep this host's helper processes of HSMs: one for each member, started, watched and restarted. One a host."

    def handle(self, *args: Any, **options: Any) -> None:
        """Keep them until told to stop."""
        harden_process()
        startup.make_folders()
        startup.check_database(may_migrate=False)
        # Without the root key's check: the root key may be in an HSM that only this process brings up.
        connections.close_all()
        keeper = Keeper()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: keeper.stop())

        def pulse() -> None:
            with contextlib.suppress(OSError):
                probe.beat_pulse("hsm")

        keeper.run(pulse)
