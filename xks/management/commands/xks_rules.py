"""keystead xks rules ..."""

from vault.commandline import GroupCommand, Verb
from xks import shorthands

_COLUMNS = ("name", "cloud_key", "enforced.number", "shadowed.number", "shadow.judged", "shadow.denied", "id")


class Command(GroupCommand):
    """The table of this group."""

    help = "Access rules of stores and keys: write, check, try, shadow, enforce."
    shorthands = {  # noqa: RUF012 - read only
        "rules": shorthands.json_file,
        "requests": shorthands.json_file,
        "version": shorthands.version,
    }
    verbs = (
        Verb("list", "GET", "access-rules", _COLUMNS),
        Verb("check", "POST", "access-rules/check"),
        Verb("create", "POST", "access-rules"),
        Verb("show", "GET", "access-rules/{access_rules}"),
        Verb(
            "versions",
            "GET",
            "access-rules/{access_rules}/versions",
            ("number", "author_name", "reason", "created_at"),
        ),
        Verb("add-version", "POST", "access-rules/{access_rules}/versions"),
        Verb("dry-run", "POST", "access-rules/{access_rules}/dry-run"),
        Verb("shadow", "POST", "access-rules/{access_rules}/shadow"),
        Verb("enforce", "POST", "access-rules/{access_rules}/enforce"),
    )
