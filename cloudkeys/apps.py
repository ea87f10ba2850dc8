"""The cloudkeys app: CSP accounts, key sets, CloudKeys, provisioning."""

from django.apps import AppConfig


class CloudkeysConfig(AppConfig):
    """CSP accounts, key sets and CloudKeys."""

    name = "cloudkeys"
    verbose_name = "CloudKeys"
    default_auto_field = "django.db.models.BigAutoField"
