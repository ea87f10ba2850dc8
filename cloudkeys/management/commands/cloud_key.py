"""keystead cloud-key ..."""

from cloudkeys import shorthands
from vault.commandline import GroupCommand, Verb

_COLUMNS = (
    "name",
    "state",
    "blocked",
    "pointer_state",
    "key_set",
    "region",
    "current_version",
    "next_rotation_at",
    "id",
)


class Command(GroupCommand):
    """The table of this group."""

    help = "CloudKeys: list, create, show, disable, enable, rotate and more."
    shorthands = {  # noqa: RUF012 - read only
        "rotation_schedule": shorthands.schedule,
        "expiration": shorthands.expiration,
        "tags": shorthands.tags,
        "csv": shorthands.file_content,
    }
    verbs = (
        Verb("list", "GET", "cloud-keys", _COLUMNS),
        Verb("create", "POST", "cloud-keys"),
        Verb("create-from-csv", "POST", "cloud-keys/csv"),
        Verb("export", "GET", "cloud-keys/export"),
        Verb("show", "GET", "cloud-keys/{key}"),
        Verb("update", "PATCH", "cloud-keys/{key}"),
        Verb("versions", "GET", "cloud-keys/{key}/versions"),
        Verb("timeline", "GET", "cloud-keys/{key}/timeline"),
        Verb("policy", "GET", "cloud-keys/{key}/policy"),
        Verb("usage", "GET", "cloud-keys/{key}/usage"),
        Verb("create-key-step", "GET", "cloud-keys/{key}/create-key-step"),
        Verb("disable", "POST", "cloud-keys/{key}/disable"),
        Verb("enable", "POST", "cloud-keys/{key}/enable"),
        Verb("block", "POST", "cloud-keys/{key}/block"),
        Verb("unblock", "POST", "cloud-keys/{key}/unblock"),
        Verb("rotate", "POST", "cloud-keys/{key}/rotate"),
        Verb("retire", "POST", "cloud-keys/{key}/retire"),
        Verb("schedule-deletion", "POST", "cloud-keys/{key}/schedule-deletion"),
        Verb("cancel-deletion", "POST", "cloud-keys/{key}/cancel-deletion"),
        Verb("destroy", "POST", "cloud-keys/{key}/destroy"),
        Verb("link", "POST", "cloud-keys/{key}/link"),
        Verb("refresh", "POST", "cloud-keys/{key}/refresh"),
    )
