"""Moving the installation to another root key, under running processes, and resumable at any point.

The order is what makes it safe. (1) The new root is put at ``<file>.next``, on disk, where every process finds it by
id. (2) The Installation row is moved: from here on new vaults are wrapped under the new root. (3) Each vault's KEK is
moved, one short transaction each. (4) Everything is read again and opened under the new root alone. (5) The old file
becomes ``<file>.previous`` and the new one takes its name. Killed anywhere, both roots are on disk and each blob says
which one it needs; running the command again goes on from there. The old root is never deleted here: backups
made before the move open with it only.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from hsm.base import DataInvalid, KeyWrapper
from hsm.software import SoftwareKeyWrapper
from vault import rootkey
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.fields import WrappedBlob
from vault.hsm_keys import create_hsm_key
from vault.keys import find_root, installation_place, root_wrapper, vault_kek_place
from vault.models import HsmConnection, HsmKey, HsmMember, Installation, Vault
from vault.rootkey import RootKeyError
from vault.secret import Secret


class RewrapRefused(RootKeyError):
    """The move cannot begin or go on; nothing was lost. One line: cause, then cure."""


class RewrapUnverified(Exception):
    """A blob that was just wrapped does not open to what it should; it was not stored."""


@dataclass(frozen=True, slots=True)
class Rewrapped:
    """What a move did. ``moved`` and ``already`` count KEKs: the vaults' and the installation's."""

    old_root_ids: tuple[str, ...]
    new_root_id: str
    moved: int
    already: int
    key_file: Path
    files_switched: bool


def no_checkpoint(name: str) -> None:
    """Default of ``checkpoint``: tests pass a function that kills the process at a named point."""


def no_progress(done: int, total: int) -> None:
    """Default of ``progress``: called with KEKs seen to and KEKs in all."""


Progress = Callable[[int, int], None]
RETIRED = "A former root key: needed for backups made before the move, then it may be destroyed."


def rewrap_root(
    new_root_file: Path, actor: Actor, *, checkpoint: Callable[[str], None] = no_checkpoint
) -> Rewrapped:
    """Move every KEK under the root key in ``new_root_file``. Runs beside web, agents and workers.

    Raises RewrapRefused (a stored blob is damaged and left as it is, or another move is unfinished), RootKeyError, or
    RewrapUnverified. After any of them, and after a kill, both roots remain in use.
    """
    path = rootkey.root_key_path()
    new_key = rootkey.read_key_file(new_root_file)
    new_root = SoftwareKeyWrapper(new_key.reveal())
    root_wrapper()
    _place_next(path, new_key, new_root)
    checkpoint("next-placed")
    old_ids, moved, already = _move_all(new_root, actor, checkpoint, no_progress)
    switched = _switch_files(path, new_key, new_root.key_id, checkpoint)
    return Rewrapped(old_ids, new_root.key_id, moved, already, path, switched)


def move_root_to_hsm(
    hsm: HsmConnection,
    actor: Actor,
    *,
    checkpoint: Callable[[str], None] = no_checkpoint,
    progress: Progress = no_progress,
) -> Rewrapped:
    """Move every KEK under a root key in this HSM: from a file, or from another HSM. Runs beside web, agents and workers.

    The key is made at the first call (AES-256, never extractable on a single member; replicated where there are several) and
    taken up by later ones, so that a move that was killed goes on. The old root stays where it is, for older backups.

    Raises RewrapRefused, RootKeyError (RootKeyAway: an HSM does not answer; the move can be run again), RewrapUnverified, and
    Unavailable or Conflict where the HSM cannot make the key.
    """
    if hsm.login == HsmConnection.Login.PIN and hsm.pin_source != HsmConnection.PinSource.EXTERNAL:
        raise RewrapRefused(
            f"The PIN of {hsm.name} is kept in the database, encrypted under a key that the root key opens.",
            "Change its PIN source to external first: each host then reads the PIN from a file or its environment.",
        )
    root_wrapper()
    key = _root_key_of(hsm, actor)
    new_root = find_root(key.cka_id)
    place = b"keystead:v1:try"
    probe = os.urandom(32)
    if new_root.decrypt(new_root.encrypt(probe, place), place) != probe:
        raise RewrapUnverified(f"the new root key in {hsm.name} does not open what it wrapped")
    checkpoint("key-made")
    old_ids, moved, already = _move_all(new_root, actor, checkpoint, progress)
    return Rewrapped(old_ids, new_root.key_id, moved, already, rootkey.root_key_path(), False)


def _root_key_of(hsm: HsmConnection, actor: Actor) -> HsmKey:
    """The key that a move into this HSM goes to: the one in use, one of an unfinished move, or a new one."""
    there = HsmKey.objects.filter(connection=hsm, purpose=HsmKey.Purpose.ROOT, state=HsmKey.State.ACTIVE)
    named = Installation.objects.values_list("root_key_id", flat=True).get(pk=1)
    found = there.filter(cka_id=named).first() or there.filter(message="").order_by("-created_at").first()
    if found is not None:
        return found
    several = HsmMember.objects.filter(connection=hsm).count() > 1
    return create_hsm_key(
        hsm,
        purpose=HsmKey.Purpose.ROOT,
        vault=None,
        label="keystead-root",
        replication=HsmKey.Replication.REPLICATED if several else HsmKey.Replication.DEVICE_BOUND,
        actor=actor,
    )


def _move_all(
    new_root: KeyWrapper, actor: Actor, checkpoint: Callable[[str], None], progress: Progress
) -> tuple[tuple[str, ...], int, int]:
    """Move the installation's KEK and every vault's, verify all; the ids of old roots, how many moved, how many had been."""
    old_ids: set[str] = set()
    vaults = list(Vault.objects.exclude(kek_blob=None).order_by("pk").values_list("pk", flat=True))
    moved = _move_installation(new_root, old_ids, actor)
    checkpoint("installation-moved")
    already = 1 - moved
    progress(1, len(vaults) + 1)
    for number, vault_id in enumerate(vaults, 2):
        done = _move_vault(vault_id, new_root, old_ids, actor)
        moved, already = moved + done, already + (1 - done)
        checkpoint("vault-moved")
        progress(number, len(vaults) + 1)
    _verify_all(new_root)
    checkpoint("verified")
    HsmKey.objects.filter(purpose=HsmKey.Purpose.ROOT, state=HsmKey.State.ACTIVE).exclude(
        cka_id=new_root.key_id
    ).update(message=RETIRED)
    HsmKey.objects.filter(cka_id=new_root.key_id).update(message="")
    return tuple(sorted(old_ids)), moved, already


def _ids_in_use() -> set[str]:
    """Return the ids of all root keys that some stored KEK names."""
    blobs = [*Vault.objects.values_list("kek_blob", flat=True)]
    blobs += Installation.objects.values_list("root_check_blob", flat=True)
    return {WrappedBlob(blob).key_id for blob in blobs if blob is not None}


def root_ids_in_use() -> list[str]:
    """Return the ids of all root keys that this database needs: one, or two in the midst of a re-wrap."""
    return sorted(_ids_in_use())


def _place_next(path: Path, new_key: Secret, new_root: KeyWrapper) -> None:
    """Put the new root where running processes look for it, unless it is among the candidates already."""
    if new_root.key_id in rootkey.load_candidates(path):
        return
    target = rootkey.next_path(path)
    if rootkey.write_key_file(target, new_key):
        return
    other = rootkey.key_id(rootkey.read_key_file(target))
    if other in _ids_in_use():
        raise RewrapRefused(
            f"A move to root key {other} is unfinished.",
            f"Finish it first: keystead keys rewrap --new-root-key-file {target}",
        )
    raise RewrapRefused(
        f"{target} holds root key {other}, left by a move that never began; nothing in this database needs it.",
        "Remove that file and run this again.",
    )


def _rewrap(blob: WrappedBlob, place: bytes, new_root: KeyWrapper, old_ids: set[str]) -> bytes:
    """Return the KEK of ``blob`` under the new root, having opened the result. Raises RewrapUnverified."""
    old_ids.add(blob.key_id)
    try:
        kek = find_root(blob.key_id).decrypt(blob, place)
    except DataInvalid as error:
        raise RewrapRefused(
            f"The key encryption key at {place.decode()} is damaged ({error}); what it wraps is unreadable already.",
            "Restore a backup, or delete that vault; then run this again. Until then both root keys are in use.",
        ) from error
    fresh = new_root.encrypt(kek, place)
    if Secret(new_root.decrypt(fresh, place)) != Secret(kek):
        raise RewrapUnverified(f"the new blob at {place.decode()} opens to something else")
    return fresh


def _move_installation(new_root: KeyWrapper, old_ids: set[str], actor: Actor) -> int:
    """Move the installation's KEK; 1 when it was moved, 0 when it had been."""
    row = Installation.objects.get(pk=1)
    blob = WrappedBlob(row.root_check_blob)
    if blob.key_id == new_root.key_id:
        return 0
    fresh = _rewrap(blob, installation_place(), new_root, old_ids)
    with change(actor) as collected:
        if not Installation.objects.filter(pk=1, root_key_id=blob.key_id).update(
            root_check_blob=fresh, root_key_id=new_root.key_id
        ):
            raise RewrapRefused(
                "Another move of the root key is under way.", "Wait for it, then run this again."
            )
        collected.audit(
            Action.ROOT_KEY_REWRAP,
            None,
            target_type="installation",
            target_name="root key",
            before={"root_key_id": blob.key_id},
            after={"root_key_id": new_root.key_id},
        )
    return 1


def _move_vault(vault_id: UUID, new_root: KeyWrapper, old_ids: set[str], actor: Actor) -> int:
    """Move one vault's KEK; 1 when moved, 0 when there was nothing to do (moved before, or destroyed meanwhile)."""
    while True:
        vault = Vault.objects.filter(pk=vault_id).first()
        if vault is None or vault.kek_blob is None:
            return 0
        old_blob = WrappedBlob(vault.kek_blob)
        if old_blob.key_id == new_root.key_id:
            return 0
        fresh = _rewrap(old_blob, vault_kek_place(vault.pk), new_root, old_ids)
        with change(actor) as collected:
            # Conditional on the blob that was read: a vault destroyed in between stays destroyed.
            if Vault.objects.filter(pk=vault.pk, kek_blob=old_blob).update(kek_blob=fresh):
                collected.audit(
                    Action.ROOT_KEY_REWRAP,
                    vault,
                    before={"root_key_id": old_blob.key_id},
                    after={"root_key_id": new_root.key_id},
                )
                return 1


def _verify_all(new_root: KeyWrapper) -> None:
    """Open every stored KEK with the new root alone, as read back from the database. Raises DataInvalid."""
    blob = Installation.objects.values_list("root_check_blob", flat=True).get(pk=1)
    new_root.decrypt(bytes(blob), installation_place())
    for vault_id, kek_blob in Vault.objects.values_list("pk", "kek_blob").iterator(chunk_size=500):
        if kek_blob is not None:
            new_root.decrypt(WrappedBlob(kek_blob), vault_kek_place(vault_id))


def _switch_files(path: Path, new_key: Secret, new_id: str, checkpoint: Callable[[str], None]) -> bool:
    """Give the new root the name of the old one, keeping that as ``.previous``.

    False when the folder does not let us (a read-only secret mount): everything works on by id, and the operator
    changes the secret's content. Every state in between has both keys under some candidate name.
    """
    following, previous = rootkey.next_path(path), rootkey.previous_path(path)
    if not os.access(path.parent, os.W_OK):
        return False
    if path.exists():
        current = rootkey.read_key_file(path)
        if rootkey.key_id(current) == new_id:
            following.unlink(missing_ok=True)
            return True
        _keep_as_previous(path, current, previous)
        checkpoint("previous-kept")
    if not following.exists():
        # The new root was found under another candidate name (a move back to an older root).
        rootkey.write_key_file(following, new_key)
    os.replace(following, path)
    rootkey.sync_folder(path.parent)
    checkpoint("files-switched")
    return True


def _keep_as_previous(path: Path, current: Secret, previous: Path) -> None:
    """Make ``.previous`` hold the current key; what it held goes to ``.previous-<id>``."""
    if previous.exists():
        older = rootkey.read_key_file(previous)
        if older == current:
            return
        older_id = rootkey.key_id(older)
        rootkey.write_key_file(rootkey.retired_path(path, older_id), older)
        previous.unlink()
    rootkey.write_key_file(previous, current)
