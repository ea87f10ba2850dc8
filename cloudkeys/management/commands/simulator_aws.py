"""keystead simulator aws"""

import signal
import sqlite3
import threading
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from cloudkeys.simulators.aws import product, server
from vault import env


class Command(BaseCommand):
    """Serves the bundled AWS simulator on a loopback port until told to stop."""

    help = "Serve the bundled AWS simulator (KMS, S3, IAM, STS) for boto3 and awscli, on 127.0.0.1 only."

    def handle(self, *args: Any, **options: Any) -> None:
        """Serve until SIGTERM or SIGINT."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        try:
            settings = product.simulator_settings()
            with server.running(settings) as running:
                self.stdout.write(f"AWS simulator on {running.url}, accounts {', '.join(settings.accounts)}")
                self.stdout.flush()
                stop.wait()
        except env.SettingError as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            where = f"127.0.0.1:{env.get('KEYSTEAD_SIMULATOR_PORT')}, {env.data_dir() / 'simulator'}"
            raise CommandError(
                f"The AWS simulator cannot start ({where}): {error.strerror}. "
                "Choose another KEYSTEAD_SIMULATOR_PORT, or a data folder that may be written to."
            ) from error
        except sqlite3.Error as error:
            raise CommandError(
                f"The AWS simulator's state in {env.data_dir() / 'simulator'} cannot be used: {error}. "
                "Make the folder writable, or move it away to begin with empty accounts."
            ) from error
