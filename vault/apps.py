"""The vault app: tenancy, people, permissions, audit, keys at rest."""

from django.apps import AppConfig


class VaultConfig(AppConfig):
    """Registers the system checks of the settings."""

    name = "vault"
    verbose_name = "Vaults"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Import checks and look-ups, so that every management command has them."""
        from vault import checks, lookups  # noqa: F401  (importing registers them)
