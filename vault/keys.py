"""The key hierarchy: root key, KEKs, and the secrets that they wrap (DESIGN.md, "Keys at rest").

    root key --wraps--> KEK of each vault        (Vault.kek_blob)               --wraps--> that vault's secrets
             --wraps--> KEK of the installation  (Installation.root_check_blob) --wraps--> secrets of no vault

The installation's KEK is also the proof that a root key is the right one: its blob opens under no other. Because the
root wraps KEKs only, moving to another root re-wraps one small blob per vault (``vault.rewrap``).
"""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from django.db import IntegrityError, connection, models, transaction

from hsm import wire
from hsm.base import DataInvalid, HsmError, KeyWrapper, WrongWrappingKey
from hsm.pkcs11 import Pkcs11KeyWrapper
from hsm.software import SoftwareKeyWrapper, new_key
from vault import rootkey
from vault.errors import Unavailable
from vault.fields import WrappedBlob, WrappedSecretField
from vault.hsm_groups import sync_group
from vault.models import HsmConnection, HsmKey, Installation, Vault
from vault.rootkey import RootKeyError, RootKeyForeign, RootKeyMissing, RootKeyUnsafe, RootKeyUnusable
from vault.secret import Secret

__all__ = [
    "RootKeyAway",
    "RootKeyError",
    "RootKeyForeign",
    "RootKeyMissing",
    "RootKeyUnsafe",
    "RootKeyUnusable",
    "SecretAbsent",
    "SecretUnreadable",
    "VaultKeyDestroyed",
    "associated_data",
    "ensure_root_key",
    "forget_keys",
    "forget_vault",
    "installation_wrapper",
    "new_vault_kek",
    "root_in_hsm",
    "root_problem",
    "root_wrapper",
    "seal",
    "seal_text",
    "unseal",
    "unseal_text",
    "vault_wrapper",
]

_KEK_CACHE_SIZE: Final = 1024
_KEK_COLUMN: Final = "kek_blob"
_CHECK_COLUMN: Final = "root_check_blob"


class SecretUnreadable(Exception):
    """A wrapped secret does not open: altered, moved from another row or vault, or its vault's KEK changed.

    Names table, row and column, and keeps the error of the lower room as its cause.
    """

    def __init__(self, where: str, cause: str) -> None:
        super().__init__(f"the secret at {where} does not open: {cause}")
        self.where = where


class SecretAbsent(LookupError):
    """The column is empty: the secret was never set, or was destroyed."""


class VaultKeyDestroyed(Exception):
    """The vault has no KEK any more; nothing that it wrapped can be read, ever."""


class RootKeyAway(RootKeyError, Unavailable):
    """The HSM that holds the root key does not answer now, or refuses us; all becomes well by itself when it does not."""

    def __init__(self, cause: str, cure: str) -> None:
        Unavailable.__init__(self, cause, cure=cure)
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.cause} {self.cure}"


class HsmRoot:
    """A root key inside an HSM, reached anew at each call, so that nothing is lost by its absence but time."""

    def __init__(self, connection_id: UUID, key_id: str) -> None:
        self.connection_id = connection_id
        self._key_id = key_id

    @property
    def key_id(self) -> str:
        """See KeyWrapper: the CKA_ID."""
        return self._key_id

    def encrypt(self, plaintext: bytes, associated_data: bytes) -> bytes:
        """See KeyWrapper. Raises RootKeyAway."""
        try:
            return self._wrapper().encrypt(plaintext, associated_data)
        except HsmError as error:
            raise self._away(error) from error

    def decrypt(self, blob: bytes, associated_data: bytes) -> bytes:
        """See KeyWrapper. Raises RootKeyAway, DataInvalid."""
        try:
            return self._wrapper().decrypt(blob, associated_data)
        except DataInvalid:
            raise
        except HsmError as error:
            raise self._away(error) from error

    def _wrapper(self) -> Pkcs11KeyWrapper:
        return Pkcs11KeyWrapper(sync_group(self.connection_id), bytes.fromhex(self._key_id))

    def _away(self, error: HsmError) -> RootKeyAway:
        name = HsmConnection.objects.filter(pk=self.connection_id).values_list("name", flat=True).first()
        return RootKeyAway(
            f"The root key is in the HSM {name or self.connection_id}, which cannot be used now: {error}.",
            "See to the HSM and to `keystead hsm serve` on this host; nothing needs to be started again.",
        )


def _has_tables() -> bool:
    if connection.vendor == "sqlite" and not Path(connection.settings_dict["NAME"]).exists():
        return False
    return HsmKey._meta.db_table in connection.introspection.table_names()


def _find_hsm_root(key_id: str) -> HsmRoot | None:
    """The root key with this id in an HSM: by its record or, after a restore elsewhere, by asking every HSM for it."""
    if not _has_tables():
        return None  # a backup is restored where there is no database yet
    found = (
        HsmKey.objects.filter(cka_id=key_id, purpose=HsmKey.Purpose.ROOT, state=HsmKey.State.ACTIVE)
        .values_list("connection_id", flat=True)
        .first()
    )
    if found is not None:
        return HsmRoot(found, key_id)
    if Installation.objects.filter(root_key_id=key_id).exists():
        return None  # this database's own root would have its record
    for connection_id in HsmConnection.objects.values_list("pk", flat=True):
        try:
            sync_group(connection_id).call(
                wire.Describe(0, bytes.fromhex(key_id)), deadline=wire.boot_clock() + 5.0
            )
        except (HsmError, ValueError):
            continue
        return HsmRoot(connection_id, key_id)
    return None


# --- keys in memory -----------------------------------------------------------------------------------------------

_lock = threading.Lock()
_roots: dict[tuple[Path, str], KeyWrapper] = {}
_keks: OrderedDict[object, tuple[bytes, KeyWrapper]] = OrderedDict()


def forget_keys() -> None:
    """Drop every key that this process has in memory; they are read again when needed."""
    with _lock:
        _roots.clear()
        _keks.clear()


def forget_vault(vault_id: UUID) -> None:
    """Drop one vault's KEK from memory; call when the vault is destroyed."""
    with _lock:
        _keks.pop(vault_id, None)


def find_root(key_id: str) -> KeyWrapper:
    """Return the root key with this id, from memory or else from the root key's files (see vault.rootkey).

    Reading the files anew when an id is unknown is how running processes pick up a new root in the midst of a
    re-wrap. A root key that is in an HSM is found by its record, whether the HSM answers or not.

    Raises RootKeyMissing, RootKeyForeign, RootKeyUnsafe or RootKeyUnusable.
    """
    path = rootkey.root_key_path()
    with _lock:
        if (path, key_id) in _roots:
            return _roots[path, key_id]
    candidates = rootkey.load_candidates(path)
    with _lock:
        for found, key in candidates.items():
            _roots.setdefault((path, found), SoftwareKeyWrapper(key.reveal()))
        if (path, key_id) in _roots:
            return _roots[path, key_id]
    inside = _find_hsm_root(key_id)
    if inside is not None:
        with _lock:
            return _roots.setdefault((path, key_id), inside)
    if not candidates:
        raise RootKeyMissing(
            f"The root key file {path} does not exist, and this database needs root key {key_id}.",
            "Put the root key back (mode 0600), or rebuild it with 'keystead keys import-root'.",
        )
    raise RootKeyForeign(
        f"The root key in {path} is {', '.join(candidates)}, but this database needs root key {key_id}.",
        "Put the right root key there, or rebuild it with 'keystead keys import-root'.",
    )


def _cached_kek(owner: object, blob: bytes, place: bytes) -> KeyWrapper:
    """Return the KEK in ``blob``, opened at most once while the blob stays the same; an older one is dropped."""
    digest = hashlib.sha256(blob).digest()
    with _lock:
        known = _keks.get(owner)
        if known is not None and known[0] == digest:
            _keks.move_to_end(owner)
            return known[1]
    kek = SoftwareKeyWrapper(find_root(WrappedBlob(blob).key_id).decrypt(blob, place))
    with _lock:
        _keks[owner] = (digest, kek)
        _keks.move_to_end(owner)
        while len(_keks) > _KEK_CACHE_SIZE:
            _keks.popitem(last=False)
    return kek


# --- the installation and its root key ----------------------------------------------------------------------------


def ensure_root_key(*, create_allowed: bool) -> None:
    """Make sure, before anything serves, that the root key is there and is this database's.

    A key file is made only when ``create_allowed`` (an embedded deployment) and the database is empty; it is on disk
    before the Installation row commits, so that a crash in between leaves a key that the next start takes up. An
    empty database takes up a key file that exists already, embedded or not. Safe to run in several processes at once.
    Raises RootKeyMissing, RootKeyForeign, RootKeyUnsafe or RootKeyUnusable: one line with cause and cure; RootKeyAway
    when it is in an HSM that does not answer, with which one may start all the same.
    """
    installation = Installation.objects.filter(pk=1).first()
    if installation is None:
        installation = _install(create_allowed=create_allowed)
    check_root_key(installation)


def _install(*, create_allowed: bool) -> Installation:
    path = rootkey.root_key_path()
    if Vault.objects.exists():
        raise RootKeyForeign(
            "The database holds vaults but no installation record, so no root key can be matched with it.",
            "Restore a backup with 'keystead restore'.",
        )
    if not path.exists():
        if not create_allowed:
            raise RootKeyMissing(
                f"The root key file {path} does not exist, and only an embedded installation makes one by itself.",
                f"Make one and keep a copy elsewhere: (umask 077; head -c 32 /dev/urandom > {path})",
            )
        rootkey.create_key_file(path)
    key = rootkey.read_key_file(path)
    root = SoftwareKeyWrapper(key.reveal())
    blob = root.encrypt(new_key(), installation_place())
    try:
        with transaction.atomic():
            return Installation.objects.create(pk=1, root_key_id=root.key_id, root_check_blob=blob)
    except IntegrityError:
        # Another process of the same first start was faster; its row is checked like any other.
        return Installation.objects.get(pk=1)


def check_root_key(installation: Installation) -> KeyWrapper:
    """Open the installation's check blob and return its root. Raises RootKeyError as ensure_root_key does."""
    blob = WrappedBlob(installation.root_check_blob)
    root = find_root(installation.root_key_id)
    try:
        root.decrypt(blob, installation_place())
    except DataInvalid as error:
        raise RootKeyForeign(
            f"Root key {root.key_id} does not open this database's check value: {error}.",
            "The Installation row was altered or damaged; restore a backup with 'keystead restore'.",
        ) from error
    return root


def root_in_hsm() -> bool:
    """Whether this process has found its root key in an HSM. Asks nobody."""
    with _lock:
        return any(isinstance(each, HsmRoot) for each in _roots.values())


def root_problem() -> str:
    """Return why the root key cannot be used now, where this process has found it in an HSM; empty while it can."""
    if not root_in_hsm():
        return ""
    try:
        installation_wrapper()
    except RootKeyAway as error:
        return error.cause
    return ""


def root_wrapper() -> KeyWrapper:
    """Return the root key that new KEKs are wrapped under: the one that the Installation row names.

    Raises RootKeyError as find_root does, and RootKeyMissing before ensure_root_key has run.
    """
    named = Installation.objects.filter(pk=1).values_list("root_key_id", flat=True).first()
    if named is None:
        raise RootKeyMissing(
            "This database has no root key yet.", "Start Keystead once, or restore a backup."
        )
    return find_root(named)


def installation_wrapper() -> KeyWrapper:
    """Return the KEK of secrets that belong to no vault. Raises SecretUnreadable or RootKeyError."""
    blob = Installation.objects.values_list("root_check_blob", flat=True).get(pk=1)
    place = installation_place()
    try:
        return _cached_kek("installation", bytes(blob), place)
    except DataInvalid as error:
        raise SecretUnreadable(place.decode(), str(error)) from error


# --- vaults -------------------------------------------------------------------------------------------------------


def new_vault_kek(vault_id: UUID) -> WrappedBlob:
    """Make a KEK for a new vault and return it wrapped, for ``Vault.kek_blob``.

    Call inside the transaction that inserts the vault: the Installation row stays locked until it commits, so that a
    re-wrap to another root either sees the new vault or is seen by it. Raises RuntimeError outside a transaction,
    and RootKeyError.
    """
    if not transaction.get_connection().in_atomic_block:
        raise RuntimeError("new_vault_kek belongs inside the transaction that inserts the vault")
    named = (
        Installation.objects.select_for_update().values_list("root_key_id", flat=True).filter(pk=1).first()
    )
    if named is None:
        raise RootKeyMissing(
            "This database has no root key yet.", "Start Keystead once, or restore a backup."
        )
    return WrappedBlob(find_root(named).encrypt(new_key(), vault_kek_place(vault_id)))


def vault_wrapper(vault: Vault) -> KeyWrapper:
    """Return the vault's KEK. Raises VaultKeyDestroyed, SecretUnreadable or RootKeyError."""
    if vault.kek_blob is None:
        forget_vault(vault.pk)
        raise VaultKeyDestroyed(f"vault {vault.pk} has no key encryption key any more")
    place = vault_kek_place(vault.pk)
    try:
        return _cached_kek(vault.pk, bytes(vault.kek_blob), place)
    except DataInvalid as error:
        raise SecretUnreadable(place.decode(), str(error)) from error


# --- secrets ------------------------------------------------------------------------------------------------------


def associated_data(table: str, row: object, column: str) -> bytes:
    """Return what binds a blob to its place: it opens nowhere else."""
    return f"keystead:v1:{table}:{row}:{column}".encode()


def vault_kek_place(vault_id: UUID) -> bytes:
    """Associated data of a vault's KEK."""
    return associated_data(Vault._meta.db_table, vault_id, _KEK_COLUMN)


def installation_place() -> bytes:
    """Associated data of the installation's KEK."""
    return associated_data(Installation._meta.db_table, 1, _CHECK_COLUMN)


def _place(instance: models.Model, column: str) -> bytes:
    found = instance._meta.get_field(column)
    if not isinstance(found, WrappedSecretField):
        raise TypeError(f"{instance._meta.label}.{column} is no WrappedSecretField")
    if isinstance(instance, Vault) and column == _KEK_COLUMN:
        raise TypeError("a vault's KEK is made by new_vault_kek and used through vault_wrapper")
    if instance.pk is None:
        raise ValueError(f"{instance._meta.label} needs its primary key before a secret can be bound to it")
    # An id given as text and the same id read back as a UUID are one place.
    row = instance._meta.pk.to_python(instance.pk)
    return associated_data(instance._meta.db_table, row, str(found.column))


def _kek_of(instance: models.Model) -> KeyWrapper:
    if isinstance(instance, Vault):
        return vault_wrapper(instance)
    vault: Any = getattr(instance, "vault", None)
    return installation_wrapper() if vault is None else vault_wrapper(vault)


def seal(instance: models.Model, column: str, value: bytes | str | Secret) -> None:
    """Wrap ``value`` under the KEK of ``instance.vault`` and set the column; the caller saves the row.

    A row without vault uses the installation's KEK. The blob is bound to table, row and column. Raises TypeError for
    a column that is no WrappedSecretField, VaultKeyDestroyed, SecretUnreadable (of the KEK) and RootKeyError.
    """
    place = _place(instance, column)
    blob = _kek_of(instance).encrypt(Secret(value).reveal(), place)
    setattr(instance, column, WrappedBlob(blob))


def unseal(instance: models.Model, column: str) -> Secret:
    """Return the secret of a column.

    Raises SecretAbsent when the column is empty, SecretUnreadable when the blob was altered or comes from another
    row, column or vault, VaultKeyDestroyed and RootKeyError.
    """
    place = _place(instance, column)
    blob = getattr(instance, column)
    if blob is None:
        raise SecretAbsent(f"{place.decode()} holds no secret")
    return _open(_kek_of(instance), bytes(blob), place)


def _open(kek: KeyWrapper, blob: bytes, place: bytes) -> Secret:
    try:
        return Secret(kek.decrypt(blob, place))
    except WrongWrappingKey as error:
        raise SecretUnreadable(
            place.decode(), f"it belongs to another vault or an older KEK ({error})"
        ) from error
    except DataInvalid as error:
        raise SecretUnreadable(place.decode(), str(error)) from error


def seal_text(purpose: str, value: str | Secret) -> str:
    """Wrap a text that must live in a text or JSON column of a package that we do not own (TOTP seeds of allauth).

    Under the installation's KEK, bound to ``purpose`` but to no row. Returns base64.
    """
    place = associated_data("text", purpose, "value")
    return base64.b64encode(installation_wrapper().encrypt(Secret(value).reveal(), place)).decode("ascii")


def unseal_text(purpose: str, text: str) -> Secret:
    """Reverse of seal_text. Raises SecretUnreadable."""
    place = associated_data("text", purpose, "value")
    try:
        blob = base64.b64decode(text, validate=True)
    except ValueError:
        raise SecretUnreadable(place.decode(), "it is not base64") from None
    return _open(installation_wrapper(), blob, place)
