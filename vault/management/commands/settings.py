"""keystead settings"""

from typing import Any

from django.core.management.base import BaseCommand

from vault import env


class Command(BaseCommand):
    """Lists the settings as this process sees them."""

    help = "List every setting, its value and where that comes from. Secrets are masked."

    def handle(self, *args: Any, **options: Any) -> None:
        """Print one line a setting."""
        width = max(len(name) for name in env.SETTINGS)
        for name, row in env.SETTINGS.items():
            value = env.get(name)
            if value is None:
                shown = row.default_note or "-"
            elif row.secret:
                shown = "***"
            elif isinstance(value, bool):
                shown = "on" if value else "off"
            elif isinstance(value, list):
                shown = ", ".join(str(item) for item in value) or row.default_note or "-"
            else:
                shown = str(value)
            source = "set" if env.is_set(name) else "default"
            self.stdout.write(f"{name.ljust(width)}  {source.ljust(7)}  {shown}")
