"""keystead csp-account ..."""

from cloudkeys import shorthands
from vault.commandline import GroupCommand, Verb


class Command(GroupCommand):
    """The table of this group."""

    help = "Accounts at cloud service providers: list, add, test and more."
    shorthands = {"rotation_schedule": shorthands.schedule}  # noqa: RUF012 - read only
    verbs = (
        Verb(
            "list",
            "GET",
            "csp-accounts",
            ("name", "partition", "cloud_account_id", "health", "default_region", "id"),
        ),
        Verb("add", "POST", "csp-accounts"),
        Verb("show", "GET", "csp-accounts/{account}"),
        Verb("update", "PATCH", "csp-accounts/{account}"),
        Verb("delete", "DELETE", "csp-accounts/{account}"),
        Verb("test", "POST", "csp-accounts/{account}/test"),
        Verb("try-simulator", "POST", "csp-accounts/try-simulator"),
        Verb("dependents", "GET", "csp-accounts/{account}/dependents"),
        Verb("rotate-credential", "POST", "csp-accounts/{account}/rotate-credential"),
        Verb("policy", "GET", "csp-accounts/{account}/policy"),
        Verb("principals", "GET", "csp-accounts/{account}/iam-principals"),
    )
