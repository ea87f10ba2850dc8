"""keystead xks node ..."""

from vault.commandline import GroupCommand, Verb


class Command(GroupCommand):
    """The table of this group."""

    help = "Data-plane nodes and their worker processes: list, show."
    verbs = (
        Verb(
            "list",
            "GET",
            "nodes",
            ("name", "state", "alarms", "applied_generation", "seconds_since_seen", "software_version", "id"),
        ),
        Verb("show", "GET", "nodes/{node}"),
        Verb(
            "journal",
            "GET",
            "nodes/journal",
            ("node", "state", "end", "sealed_segments", "anchored_at", "shipped_to", "lag_s", "id"),
        ),
    )
