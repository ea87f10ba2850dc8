"""keystead xks certificate ..."""

from vault.commandline import GroupCommand, Verb
from xks import shorthands


class Command(GroupCommand):
    """The table of this group."""

    help = "The XKS endpoint's certificate: request, install, change, and the CAs of clients."
    shorthands = {"chain": shorthands.text_file, "client_roots": shorthands.text_file}  # noqa: RUF012 - read only
    verbs = (
        Verb(
            "list",
            "GET",
            "certificates",
            ("state", "names", "issuer", "days_left", "aws_trusted", "fingerprint", "id"),
        ),
        Verb("show", "GET", "certificates/{certificate}"),
        Verb("check", "POST", "certificates/check"),
        Verb("install", "POST", "certificates"),
        Verb("request", "POST", "certificates/requests"),
        Verb("complete", "POST", "certificates/{certificate}/chain"),
        Verb("activate", "POST", "certificates/{certificate}/activate"),
        Verb("delete", "DELETE", "certificates/{certificate}"),
        Verb("status", "GET", "xks-endpoint/tls"),
        Verb("client-roots", "PATCH", "xks-endpoint/tls"),
    )
