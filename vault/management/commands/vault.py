"""keystead vault ..."""

from vault.commandline import GroupCommand, Verb

_MEMBERS = ("email", "user", "role", "groups", "last_sign_in_at", "id")


class Command(GroupCommand):
    """The table of this group."""

    help = "Vaults and their members: list, create, show, block and more."
    verbs = (
        Verb("list", "GET", "vaults", ("name", "state", "blocked", "created_at", "id")),
        Verb("create", "POST", "vaults"),
        Verb("show", "GET", "vaults/{vault}"),
        Verb("update", "PATCH", "vaults/{vault}"),
        Verb("search", "GET", "search"),
        Verb("attention", "GET", "attention"),
        Verb("overview", "GET", "overview"),
        Verb("disable", "POST", "vaults/{vault}/disable"),
        Verb("enable", "POST", "vaults/{vault}/enable"),
        Verb("block", "POST", "vaults/{vault}/block"),
        Verb("unblock", "POST", "vaults/{vault}/unblock"),
        Verb("members", "GET", "members", _MEMBERS),
        Verb("show-member", "GET", "members/{member}"),
        Verb("add-member", "POST", "members"),
        Verb("update-member", "PATCH", "members/{member}"),
        Verb("remove-member", "DELETE", "members/{member}"),
        Verb("groups", "GET", "groups", ("name", "description", "id")),
        Verb("add-group", "POST", "groups"),
        Verb("remove-group", "DELETE", "groups/{group}"),
    )
