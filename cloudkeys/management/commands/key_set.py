"""keystead key-set ..."""

from cloudkeys import shorthands
from vault.commandline import GroupCommand, Verb


class Command(GroupCommand):
    """The table of this group."""

    help = "Key sets: list, create, show and more."
    shorthands = {  # noqa: RUF012 - read only
        "rotation_schedule": shorthands.schedule,
        "expiration": shorthands.expiration,
        "links": shorthands.links,
    }
    verbs = (
        Verb(
            "list",
            "GET",
            "key-sets",
            ("name", "csp_account", "protection", "xks_key_store", "rotation_schedule", "id"),
        ),
        Verb("create", "POST", "key-sets"),
        Verb("show", "GET", "key-sets/{key_set}"),
        Verb("update", "PATCH", "key-sets/{key_set}"),
        Verb("delete", "DELETE", "key-sets/{key_set}"),
        Verb("deletion", "GET", "key-sets/{key_set}/deletion"),
        Verb("protection", "GET", "key-sets/{key_set}/protection"),
        Verb("adopt-check", "POST", "key-sets/{key_set}/adopt-check"),
        Verb("adopt", "POST", "key-sets/{key_set}/adopt"),
        Verb("use-as-external-key-store", "POST", "key-sets/{key_set}/use-as-external-key-store"),
    )
