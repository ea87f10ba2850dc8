"""keystead operation ..."""

from vault.commandline import GroupCommand, Verb


class Command(GroupCommand):
    """The table of this group."""

    help = "Long work: list, watch, retry, cancel."
    verbs = (
        Verb(
            "list",
            "GET",
            "operations",
            ("kind", "state", "target.name", "requested_by_name", "created_at", "id"),
        ),
        Verb("show", "GET", "operations/{operation}"),
        Verb("watch", "GET", "operations/{operation}", waits=True, help="Follow an operation to its end"),
        Verb("retry", "POST", "operations/{operation}/retry"),
        Verb("cancel", "POST", "operations/{operation}/cancel"),
    )
