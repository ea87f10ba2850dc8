"""keystead audit ..."""

from vault.commandline import GroupCommand, Verb


class Command(GroupCommand):
    """The table of this group."""

    help = "The record of who did what: list, show."
    verbs = (
        Verb(
            "list",
            "GET",
            "audit-events",
            ("at", "action", "outcome", "actor_name", "via", "target_name", "id"),
        ),
        Verb("show", "GET", "audit-events/{event}"),
        Verb("integrity", "GET", "audit-integrity"),
    )
