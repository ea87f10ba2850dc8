"""keystead xks store ..."""

from vault.commandline import GroupCommand, Verb


class Command(GroupCommand):
    """The table of this group."""

    help = "External key stores: list, show, block, make credentials."
    verbs = (
        Verb("list", "GET", "xks-key-stores", ("key_set", "path_prefix", "blocked", "max_staleness_s", "id")),
        Verb("show", "GET", "xks-key-stores/{store}"),
        Verb("update", "PATCH", "xks-key-stores/{store}"),
        Verb("block", "POST", "xks-key-stores/{store}/block"),
        Verb("unblock", "POST", "xks-key-stores/{store}/unblock"),
        Verb("add-credential", "POST", "xks-key-stores/{store}/credentials"),
        Verb("retire-credential", "POST", "xks-credentials/{credential}/retire"),
    )
