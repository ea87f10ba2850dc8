"""keystead system ..."""

from vault.commandline import GroupCommand, Verb


class Command(GroupCommand):
    """The table of this group."""

    help = "The installation itself: database, broker, workers, disk, backups, versions."
    verbs = (Verb("show", "GET", "system"),)
