"""keystead check"""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.commands.check import Command as DjangoCheck

from vault import startup
from xks.services.certificates import certificate_problems, expiries


class Command(DjangoCheck):
    """Django's own check of code and settings, and with it what an operator must act upon."""

    help = "Print what is wrong with settings and certificates; ends with status 1 when there is anything."
    requires_system_checks: Any = []  # noqa: RUF012 - as Django declares it

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See BaseCommand."""
        super().add_arguments(parser)  # type: ignore[arg-type]
        for action in parser._actions:
            if action.dest in ("args", "tags", "list_tags", "deploy", "fail_level", "databases"):
                action.help = argparse.SUPPRESS

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        if args or any(options.get(name) for name in ("tags", "list_tags", "deploy", "databases")):
            super().handle(*args, **options)
            return
        warnings = list(startup.run_checks())
        startup.check_database(may_migrate=False)
        problems = certificate_problems()
        for line in (*warnings, *problems):
            self.stdout.write(line)
        for each in expiries():
            self.stdout.write(
                f"{each.what}: {each.days_left:.1f} days left (until {each.not_after:%Y-%m-%d})"
            )
        if warnings or problems:
            raise SystemExit(1)
        self.stdout.write("Nothing to complain about.")
