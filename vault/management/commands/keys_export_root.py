"""keystead keys export-root: the root key as SLIP-39 shares."""

from __future__ import annotations

import getpass
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from hsm.software import wrapping_key_id
from vault import env, rootkey
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.hardening import harden_process
from vault.keys import root_wrapper
from vault.rootkey import RootKeyError
from vault.rootshares import SharesInvalid, split_root
from vault.secret import Secret


class Command(BaseCommand):
    """Arguments and messages; the work is in vault.rootshares."""

    help = (
        "Split the root key into SLIP-39 shares, to be written down and kept by different people in different "
        "places. Any THRESHOLD of them rebuild it with 'keystead keys import-root'; fewer tell nothing about it. "
        "Whoever has enough shares and a backup has everything."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("--shares", type=int, required=True, help="how many shares to make, 1 to 16")
        parser.add_argument("--threshold", type=int, required=True, help="how many of them rebuild the key")
        parser.add_argument(
            "--out-dir",
            type=Path,
            metavar="FOLDER",
            help="write one file for each share (mode 0600), print none",
        )
        parser.add_argument(
            "--passphrase", action="store_true", help="ask for a passphrase that is needed beside the shares"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        passphrase = _ask_passphrase() if options["passphrase"] else None
        count, threshold = options["shares"], options["threshold"]
        try:
            wanted = root_wrapper().key_id
            candidates = rootkey.load_candidates(rootkey.root_key_path())
            if wanted not in candidates:
                raise CommandError(
                    "The root key is in an HSM, which does not give it out. Back the HSM up by its own means, and try that backup."
                )
            key = candidates[wanted]
            shares = split_root(key, shares=count, threshold=threshold, passphrase=passphrase)
        except (RootKeyError, SharesInvalid) as error:
            raise CommandError(str(error)) from error
        with change(Actor.system("cli")) as collected:
            # Before the shares leave: an export that cannot be recorded does not take place.
            collected.audit(
                Action.ROOT_KEY_EXPORT,
                None,
                target_type="installation",
                target_name="root key",
                detail={"root_key_id": wanted, "shares": count, "threshold": threshold},
            )
        folder: Path | None = options["out_dir"]
        texts = [
            f"# Keystead root key {wanted}: share {number} of {count}, any {threshold} rebuild it"
            f"{' together with the passphrase' if passphrase else ''}\n{share.reveal_text()}\n"
            for number, share in enumerate(shares, 1)
        ]
        if folder is None:
            self.stdout.write("\n".join(texts))
        else:
            self._write_files(folder, texts)
        self.stderr.write(
            f"{count} shares of root key {wrapping_key_id(key.reveal())}, each tried out. Give each to another person."
        )

    def _write_files(self, folder: Path, texts: list[str]) -> None:
        paths = [
            folder / f"root-key-share-{number}-of-{len(texts)}.txt" for number in range(1, len(texts) + 1)
        ]
        taken = [path for path in paths if path.exists()]
        if taken:
            raise CommandError(f"{taken[0]} exists. Choose another folder.")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path, text in zip(paths, texts, strict=True):
                env.create_private_file(path, text.encode("ascii"))
                self.stdout.write(str(path))
        except OSError as error:
            raise CommandError(f"{folder} cannot be written to: {error.strerror}.") from error


def _ask_passphrase() -> Secret:
    first = getpass.getpass("Passphrase for the shares: ")
    if first != getpass.getpass("The same again: "):
        raise CommandError("The two were different; nothing was exported.")
    if not first:
        raise CommandError("An empty passphrase is none; leave --passphrase out.")
    return Secret(first)
