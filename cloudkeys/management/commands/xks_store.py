"""keystead xks store ..."""

from cloudkeys import shorthands
from vault.commandline import GroupCommand, Verb


class Command(GroupCommand):
    """The table of this group."""

    help = "External key stores: list, show, block, make and rotate credentials."
    shorthands = {"rotation_schedule": shorthands.schedule}  # noqa: RUF012 - read only
    verbs = (
        Verb("list", "GET", "xks-key-stores", ("key_set", "path_prefix", "blocked", "max_staleness_s", "id")),
        Verb("show", "GET", "xks-key-stores/{store}"),
        Verb("update", "PATCH", "xks-key-stores/{store}"),
        Verb("block", "POST", "xks-key-stores/{store}/block"),
        Verb("unblock", "POST", "xks-key-stores/{store}/unblock"),
        Verb(
            "credentials",
            "GET",
            "xks-key-stores/{store}/credentials",
            ("access_key_id", "state", "created_at", "last_used_at", "id"),
        ),
        Verb("show-credential", "GET", "xks-credentials/{credential}"),
        Verb("add-credential", "POST", "xks-key-stores/{store}/credentials"),
        Verb("retire-credential", "POST", "xks-credentials/{credential}/retire"),
        Verb("delete-credential", "DELETE", "xks-credentials/{credential}"),
        Verb("rotate-credentials", "POST", "xks-key-stores/{store}/rotate-credentials"),
        Verb("rotation", "GET", "xks-key-stores/{store}/rotation"),
        Verb("rotation-file", "POST", "xks-key-stores/{store}/rotation/file"),
        Verb("rotation-done", "POST", "xks-key-stores/{store}/rotation/done"),
    )
