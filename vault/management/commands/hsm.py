"""keystead hsm ..."""

from collections.abc import Mapping
from typing import Any, ClassVar

from vault.commandline import GroupCommand, Shorthand, Verb


def members(text: str) -> list[dict[str, str]]:
    """1234,label:backup as the API takes it."""
    found = []
    for part in text.split(","):
        kind, colon, rest = part.strip().partition(":")
        if not part.strip() or (colon and kind not in ("label", "serial")):
            raise ValueError("write serial numbers, or label:NAME, separated by commas")
        found.append({kind: rest} if colon else {"serial": kind})
    return found


def environment(text: str) -> dict[str, str]:
    """A=1,B=2 as the API takes it."""
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError("write NAME=VALUE, separated by commas")
        found[name.strip()] = value
    return found


class Command(GroupCommand):
    """The table of this group."""

    help = "HSMs: connect, change, test, PINs, what is inside."
    verbs = (
        Verb("list", "GET", "hsms", ("name", "login", "routing", "module_path", "id")),
        Verb("connect", "POST", "hsms"),
        Verb("show", "GET", "hsms/{hsm}"),
        Verb("update", "PATCH", "hsms/{hsm}"),
        Verb("delete", "DELETE", "hsms/{hsm}"),
        Verb("test", "POST", "hsms/{hsm}/test"),
        Verb("change-pin", "POST", "hsms/{hsm}/pin"),
        Verb(
            "keys",
            "GET",
            "hsms/{hsm}/keys",
            ("label", "purpose", "state", "members", "replication", "cka_id"),
        ),
        Verb("root-key", "GET", "root-key"),
        Verb("move-root-key", "POST", "root-key/move"),
    )
    shorthands: ClassVar[Mapping[str, Shorthand]] = {"members": members, "environment": environment}
