"""keystead operations sweep"""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from cloudkeys.operations import runner


class Command(BaseCommand):
    """Runs what is due, here and now."""

    help = "Run every operation that is due or was abandoned, in this process, without a Celery worker."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take --limit."""
        parser.add_argument(
            "--limit", type=int, default=runner.SWEEP_LIMIT, help="run at most so many (default: %(default)s)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Sweep once; safe beside running workers."""
        count = runner.sweep(options["limit"])
        self.stdout.write(f"{count} operation{'' if count == 1 else 's'} run.")
