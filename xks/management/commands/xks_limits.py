"""keystead xks limits ..."""

from vault.commandline import GroupCommand, Verb
from xks import shorthands


class Command(GroupCommand):
    """The table of this group."""

    help = "How often an external key store may be called."
    shorthands = {  # noqa: RUF012 - read only
        "requests_per_s": shorthands.rate,
        "credential_requests_per_s": shorthands.rate,
    }
    verbs = (
        Verb("show", "GET", "xks-key-stores/{store}/limits"),
        Verb("set", "PATCH", "xks-key-stores/{store}/limits"),
    )
