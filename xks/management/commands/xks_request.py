"""keystead xks request ..."""

from vault.commandline import GroupCommand, Verb

COLUMNS = (
    "at",
    "node",
    "operation",
    "outcome",
    "microseconds",
    "kms_operation",
    "principal_arn",
    "kms_request_id",
)


class Command(GroupCommand):
    """The table of this group."""

    help = "Requests to the XKS endpoint as the journals recorded them, and their course."
    verbs = (
        Verb("list", "GET", "xks-requests", COLUMNS),
        Verb("traffic", "GET", "xks-traffic"),
        Verb("store-traffic", "GET", "xks-key-stores/{store}/traffic"),
    )
