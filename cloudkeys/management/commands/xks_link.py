"""keystead xks link ..."""

from vault.commandline import GroupCommand, Verb


class Command(GroupCommand):
    """The table of this group."""

    help = "AWS key stores, one a region: list, add, connect and more."
    verbs = (
        Verb(
            "list",
            "GET",
            "aws-store-links",
            ("name", "region", "state", "linked", "custom_key_store_id", "id"),
        ),
        Verb("add", "POST", "aws-store-links"),
        Verb("show", "GET", "aws-store-links/{link}"),
        Verb("console-steps", "GET", "aws-store-links/{link}/console-steps"),
        Verb("update", "PATCH", "aws-store-links/{link}"),
        Verb("link", "POST", "aws-store-links/{link}/link"),
        Verb("connect", "POST", "aws-store-links/{link}/connect"),
        Verb("disconnect", "POST", "aws-store-links/{link}/disconnect"),
        Verb("refresh", "POST", "aws-store-links/{link}/refresh"),
        Verb("delete", "DELETE", "aws-store-links/{link}"),
    )
