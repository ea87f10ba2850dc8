"""keystead xks node ..."""

from vault.commandline import GroupCommand, Verb


class Command(GroupCommand):
    """The table of this group."""

    help = "Data-plane nodes and their worker processes: list, show."
    verbs = (
        Verb(
            "list", "GET", "nodes", ("name", "software_version", "applied_generation", "last_seen_at", "id")
        ),
        Verb("show", "GET", "nodes/{node}"),
    )
