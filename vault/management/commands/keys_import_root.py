"""keystead keys import-root: the root key's file from SLIP-39 shares."""

from __future__ import annotations

import getpass
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection

from vault import rootkey
from vault.hardening import harden_process
from vault.models import Installation
from vault.rewrap import root_ids_in_use
from vault.rootkey import RootKeyError
from vault.rootshares import SharesInvalid, join_shares
from vault.secret import Secret


class Command(BaseCommand):
    """Arguments and messages; the work is in vault.rootshares."""

    help = (
        "Rebuild the root key's file from SLIP-39 shares. Asks for one share after the other without showing them, "
        "or reads them from files. The rebuilt key is compared with the database, when there is one."
    )
    requires_system_checks: Any = ()

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument(
            "--out", type=Path, required=True, metavar="FILE", help="file to make; must not exist"
        )
        parser.add_argument(
            "--passphrase", action="store_true", help="the shares were made with a passphrase: ask"
        )
        parser.add_argument(
            "--key-id", metavar="ID", help="id that the key must have, as backup headers and exports name it"
        )
        parser.add_argument(
            "share_files",
            nargs="*",
            type=Path,
            metavar="SHARE_FILE",
            help="files of shares, instead of asking",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        target: Path = options["out"].absolute()
        if target.exists():
            raise CommandError(f"{target} exists; a key file is never replaced. Choose another name.")
        shares = _read_files(options["share_files"]) if options["share_files"] else _ask_shares()
        passphrase = Secret(getpass.getpass("Passphrase of the shares: ")) if options["passphrase"] else None
        try:
            key = join_shares(shares, passphrase=passphrase)
        except SharesInvalid as error:
            raise CommandError(str(error)) from error
        rebuilt = rootkey.key_id(key)
        expected = [options["key_id"]] if options["key_id"] else _ids_of_database()
        if expected and rebuilt not in expected:
            raise CommandError(
                f"These shares make root key {rebuilt}, but {' or '.join(expected)} is needed. They are of another "
                "root key, or the passphrase is wrong. Nothing was written."
            )
        try:
            if not rootkey.write_key_file(target, key):
                raise CommandError(f"{target} exists; a key file is never replaced. Choose another name.")
        except RootKeyError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Root key {rebuilt} is in {target}.")
        if not expected:
            self.stdout.write(
                "There was no database to compare it with: make sure that this is the id written on the shares."
            )


def _ids_of_database() -> list[str]:
    """Return the root key ids that the database needs; none when there is no database, or an empty one."""
    settings = connection.settings_dict
    if connection.vendor == "sqlite" and not Path(settings["NAME"]).exists():
        return []
    try:
        if Installation._meta.db_table not in connection.introspection.table_names():
            return []
        return root_ids_in_use()
    except DatabaseError:
        # Being rebuilt, damaged or out of reach: this is the moment at which people import a root key.
        return []


def _read_files(files: list[Path]) -> list[Secret]:
    try:
        return [Secret(file.read_bytes()) for file in files]
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be read: {error.strerror}.") from error


def _ask_shares() -> list[Secret]:
    shares: list[Secret] = []
    while True:
        text = getpass.getpass(f"Share {len(shares) + 1} (not shown; empty when done): ")
        if not text.strip():
            return shares
        shares.append(Secret(text))
