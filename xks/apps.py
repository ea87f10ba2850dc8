"""The xks app: the control side of the XKS endpoint. The data plane in this folder does not load it."""

from django.apps import AppConfig


class XksConfig(AppConfig):
    """Agent and management commands of the XKS endpoint."""

    name = "xks"
    verbose_name = "XKS endpoint"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Lend the room below our record of keys' use."""
        from cloudkeys.services import uses
        from xks.services.uses_of_keys import RecordedUses

        uses.read_by(RecordedUses())
