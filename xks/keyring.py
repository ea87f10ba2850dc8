"""What a worker answers from: an immutable snapshot, and the lease that says how long it is good.

Requests take the snapshot once and only read it.  Changes are gathered by a :class:`Change` beside
the snapshot in use, copying only the stores they touch, and take effect by one assignment.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from hmac import compare_digest
from types import MappingProxyType
from typing import Any, NamedTuple, cast

import msgspec

from xks import wire
from xks.aead import Xaes256Gcm, resident_metadata
from xks.policy_rules import DenyAll, RuleSet, RulesInvalid, tags_of

log = logging.getLogger("keystead.xks")

MAX_SIGNING_KEYS = 64
"""Derived signing keys kept for each credential: a few regions over a few days."""

_USE_SETS: tuple[tuple[str, ...], ...] = (("ENCRYPT",), ("DECRYPT",), ("ENCRYPT", "DECRYPT"), ())


LET_GO = 100
"""Keys of the snapshot before that are freed without a pause."""


class ChangeRefused(Exception):
    """A delta contradicts what is held; the connection must be made anew and everything loaded."""


def _metadata_answer(uses: tuple[str, ...], enabled: bool) -> bytes:
    listed = ",".join(f'"{use}"' for use in uses)
    status = "ENABLED" if enabled else "DISABLED"
    return f'{{"keySpec":"AES_256","keyUsage":[{listed}],"keyStatus":"{status}"}}'.encode()


_METADATA_ANSWERS = {
    (uses, enabled): _metadata_answer(uses, enabled) for uses in _USE_SETS for enabled in (True, False)
}


class Bucket:
    """What is left of a rate (xks/limits.py); it outlives the snapshots that refer to it."""

    __slots__ = ("filled_at", "tokens")

    def __init__(self) -> None:
        self.tokens = math.inf
        """Never used yet: full, whatever full comes to be."""
        self.filled_at = 0.0


class Credential:
    """One access key id with its secret, and the signing keys that proved right."""

    __slots__ = ("access_key_id", "bucket", "secret", "signing_keys", "store_id")

    def __init__(self, record: wire.CredentialRecord, store_id: str) -> None:
        self.access_key_id = record.access_key_id
        self.secret = record.secret
        self.store_id = store_id
        self.bucket = Bucket()
        self.signing_keys: dict[tuple[str, str], bytes] = {}

    def __repr__(self) -> str:
        return f"Credential({self.access_key_id!r}, ***)"

    def remember(self, date: str, region: str, signing_key: bytes) -> None:
        """Keep a signing key that has just verified a signature; the oldest goes when full.

        Only ever after a valid signature, so that no stranger can fill or flush it.
        """
        if len(self.signing_keys) >= MAX_SIGNING_KEYS:
            del self.signing_keys[next(iter(self.signing_keys))]
        self.signing_keys[date, region] = signing_key


class SigningState(NamedTuple):
    """What is known of the unchanging part of an Authorization header, once a signature under it has proved right.

    ``inner`` and ``outer`` are HMAC-SHA-256 with the signing key taken in: copied for each request, they save
    making the HMAC anew.
    """

    credential: Credential
    date: str
    region: str
    signed_names: tuple[str, ...]
    inner: Any
    outer: Any


class Credentials(dict[str, "Credential"]):
    """The credentials that are live under one path prefix, by access key id.

    ``proven`` leads from the text of an Authorization header up to its signature to what is known of it.  It
    belongs to this table alone: a table is never changed, so revocation drops it with the table.
    """

    __slots__ = ("proven",)

    def __init__(self) -> None:
        super().__init__()
        self.proven: dict[str, SigningState] = {}

    def remember(self, text: str, state: SigningState) -> None:
        """Keep what has just verified a signature; the oldest goes when full.

        Only ever after a valid signature, so that no stranger can fill or flush it.
        """
        if len(self.proven) >= MAX_SIGNING_KEYS * len(self):
            del self.proven[next(iter(self.proven))]
        self.proven[text] = state


class CompiledRules:
    """Rule sets made ready once, and shared by whatever names the same ones."""

    def __init__(self) -> None:
        self._ready: dict[bytes, RuleSet] = {}

    def of(self, record: wire.RuleSetRecord | None) -> RuleSet | None:
        """Return the compiled rules; rules that this node cannot read refuse everything."""
        if record is None:
            return None
        content = msgspec.msgpack.encode(record)
        ready = self._ready.get(content)
        if ready is None:
            try:
                ready = RuleSet(record)
            except RulesInvalid as error:
                log.critical(
                    "access rules %s version %d refuse everything: %s", record.id, record.version, error
                )
                ready = DenyAll(record)
            self._ready[content] = ready
        return ready


class Resident:
    """One version that lives in an HSM: which connection, which CKA_ID, and what its ciphertext carries."""

    __slots__ = ("adopted", "group", "key", "key_id", "metadata", "number")

    def __init__(self, key_id: str, number: int, record: wire.ResidentRecord) -> None:
        self.key_id = key_id
        self.number = number
        self.group = record.group
        self.key = record.key
        self.adopted = record.adopted
        self.metadata = resident_metadata(number)

    def __repr__(self) -> str:
        return f"Resident({self.key_id!r}, {self.number}, group {self.group!r})"


class Elsewhere:
    """The versions of a key that this process holds no material of.

    ``resident`` live in an HSM, ``adopted`` is the one of them that AWS's reference proxy used before, and
    ``closed`` are the numbers of those that cannot be opened now, because the HSM that wraps them is away.
    """

    __slots__ = ("adopted", "closed", "resident")

    def __init__(self, record: wire.KeyRecord) -> None:
        self.resident = {
            version.number: Resident(record.id, version.number, version.resident)
            for version in record.versions
            if version.resident is not None
        }
        self.adopted = next((each for each in self.resident.values() if each.adopted is not None), None)
        self.closed = frozenset(
            version.number for version in record.versions if version.resident is None and not version.material
        )


class Key:
    """One external key, everything a request needs ready made."""

    __slots__ = (
        "can_decrypt",
        "can_encrypt",
        "current",
        "current_version",
        "elsewhere",
        "external_key_id",
        "id",
        "metadata_answer",
        "refusal",
        "rules",
        "shadow_rules",
        "store_id",
        "tags",
        "versions",
    )

    def __init__(self, record: wire.KeyRecord, compiled: CompiledRules) -> None:
        """Make ready what ``record`` says.

        Raises:
            ChangeRefused: its current version is not among its versions, or a key is no AES-256 key.
        """
        self.id = record.id
        self.store_id = record.store_id
        self.external_key_id = record.external_key_id
        self.can_encrypt = "ENCRYPT" in record.uses
        self.can_decrypt = "DECRYPT" in record.uses
        self.current_version = record.current_version
        try:
            self.versions = {
                version.number: Xaes256Gcm(version.material)
                for version in record.versions
                if version.material
            }
        except ValueError:
            raise ChangeRefused(f"key {record.id}: not an AES-256 key") from None
        self.elsewhere = None if len(self.versions) == len(record.versions) else Elsewhere(record)
        """Versions that are not in this process, or None for none."""
        self.current = self.versions.get(record.current_version)
        """The current version; None when it is elsewhere."""
        if self.current is None and all(each.number != record.current_version for each in record.versions):
            raise ChangeRefused(f"key {record.id}: no current version")
        self.refusal: str | None = None
        """Why the key may not be used now, or None."""
        if record.blocked:
            self.refusal = "the external key is blocked"
        elif record.state == "DISABLED":
            self.refusal = "the external key is disabled"
        elif record.state == "PENDING_DELETION":
            self.refusal = "the external key is pending deletion"
        uses: tuple[str, ...] = tuple(use for use in ("ENCRYPT", "DECRYPT") if use in record.uses)
        self.metadata_answer = _METADATA_ANSWERS[uses, self.refusal is None]
        self.tags = tags_of(record.tags)
        self.rules = compiled.of(record.rules)
        self.shadow_rules = compiled.of(record.shadow_rules)

    def __repr__(self) -> str:
        return f"Key({self.id!r}, {self.external_key_id!r})"


class Store:
    """One external key store with its keys by external key id."""

    __slots__ = (
        "allowed_regions",
        "blocked",
        "bucket",
        "credential_rate_per_s",
        "credentials",
        "health_key_id",
        "hsm_groups",
        "hsm_required",
        "id",
        "keys",
        "max_staleness_s",
        "path_prefix",
        "rate_per_s",
        "rules",
        "shadow_rules",
    )

    def __init__(
        self,
        record: wire.StoreRecord,
        keys: dict[str, Key],
        credentials: tuple[Credential, ...],
        bucket: Bucket,
        compiled: CompiledRules,
    ) -> None:
        self.id = record.id
        self.path_prefix = record.path_prefix
        self.blocked = record.blocked
        self.credentials = credentials
        self.health_key_id = record.health_key_id
        self.allowed_regions = frozenset(record.allowed_regions)
        self.max_staleness_s = record.max_staleness_s
        self.keys = keys
        self.bucket = bucket
        self.hsm_groups = record.hsm_groups
        self.hsm_required = record.hsm_required
        self.rate_per_s = record.rate_per_s
        self.credential_rate_per_s = record.credential_rate_per_s
        self.rules = compiled.of(record.rules)
        self.shadow_rules = compiled.of(record.shadow_rules)

    def copy(self) -> Store:
        """Return a copy with a key table of its own."""
        twin = Store.__new__(Store)
        for name in Store.__slots__:
            setattr(twin, name, getattr(self, name))
        twin.keys = dict(self.keys)
        return twin

    def __repr__(self) -> str:
        return f"Store({self.id!r}, {self.path_prefix!r}, {len(self.keys)} keys)"


class Keyring:
    """An immutable snapshot of all stores at one generation.

    ``prefixes`` leads from a path prefix to the credentials live under it, by access key id.
    Several stores may share a prefix (the empty one, as a rule).
    """

    __slots__ = ("generation", "prefixes", "stores")

    def __init__(
        self, generation: int, stores: dict[str, Store], prefixes: Mapping[str, Credentials]
    ) -> None:
        self.generation = generation
        self.stores: Mapping[str, Store] = MappingProxyType(stores)
        self.prefixes = prefixes

    def __repr__(self) -> str:
        return f"Keyring(generation={self.generation}, {len(self.stores)} stores)"


EMPTY = Keyring(0, {}, {})


def _index_prefixes(stores: Iterable[Store]) -> Mapping[str, Credentials]:
    prefixes: dict[str, Credentials] = {}
    for store in stores:
        here = prefixes.get(store.path_prefix)
        if here is None:
            here = prefixes[store.path_prefix] = Credentials()
        for credential in store.credentials:
            if credential.access_key_id in here:
                raise ChangeRefused(f"an access key id of store {store.id} is another store's too")
            here[credential.access_key_id] = credential
    return MappingProxyType(prefixes)


class Serving:
    """The one mutable thing of a worker: which snapshot it serves from, and until when."""

    __slots__ = (
        "_key_homes",
        "counted_workers",
        "fleet_size",
        "keyring",
        "leased_at",
        "root_problem",
        "valid_for_s",
    )

    def __init__(self) -> None:
        self.keyring = EMPTY
        self.fleet_size = 1
        self.counted_workers = 1
        self.leased_at: float | None = None
        """Boot-time clock, seconds, of the last lease; None before the first."""
        self.valid_for_s = 0.0
        self.root_problem = ""
        """Why the agent opens no keys at present, in words for anybody."""
        # Where each key is, by its own id; only changes need it, so it is no part of the snapshot.
        self._key_homes: dict[str, tuple[str, str]] = {}

    def take_lease(self, lease: wire.Lease, now: float) -> bool:
        """Extend the time for which the snapshot may be served; return whether it was.

        A lease for another generation (one not held yet, or of an older database) vouches for something else, and a lease from
        the future (a broken clock) must not hold longer than one issued now.
        """
        if lease.generation != self.keyring.generation or self.keyring is EMPTY:
            return False
        issued_at = min(lease.issued_at_s, now)
        if self.leased_at is not None and issued_at < self.leased_at:
            return False
        self.leased_at = issued_at
        self.valid_for_s = lease.valid_for_s
        self.fleet_size = max(1, lease.fleet_size)
        self.counted_workers = max(1, lease.counted_workers)
        return True

    def expired(self, now: float, store: Store | None = None) -> bool:
        """Say whether what is held is too old to act on, by the store's bound or the lease's own."""
        if self.leased_at is None:
            return True
        bound = self.valid_for_s
        if store is not None and store.max_staleness_s is not None:
            bound = store.max_staleness_s
        return now >= self.leased_at + bound

    def problem(self, now: float) -> str | None:
        """Return why this worker cannot serve, in words for an operator, or None when it can."""
        if self.keyring is EMPTY:
            if self.root_problem:
                return f"no keys loaded yet: {self.root_problem}"
            return "no keys loaded yet: waiting for the xks agent"
        if self.expired(now):
            if self.root_problem:
                return f"no valid lease from the xks agent: {self.root_problem}"
            return "out of touch with the database for too long: no valid lease from the xks agent"
        return None

    def warning(self, now: float) -> str | None:
        """Return what will soon be a problem, in words for an operator: half of the time for which a lease holds is over."""
        if self.leased_at is None or now < self.leased_at + self.valid_for_s / 2:
            return None
        left = max(0, int(self.leased_at + self.valid_for_s - now))
        cause = self.root_problem or "out of touch with the database"
        return f"{cause}: serves on for {left} s, then refuses"


class Change:
    """A change being gathered, slice by slice, beside the snapshot in use."""

    def __init__(self, serving: Serving, first: wire.Delta) -> None:
        """Begin with the first slice of a change (its records are not yet added).

        Raises:
            ChangeRefused: its generation is lower than the one served and no operator has accepted
                that, or it is a partial change and nothing is held yet.
        """
        held = serving.keyring
        if not first.full and held is EMPTY:
            raise ChangeRefused("a partial change, but nothing is held")
        if first.generation < held.generation and not (first.full and first.rollback_accepted):
            raise ChangeRefused(
                f"generation {first.generation} is lower than {held.generation}, and nobody has accepted that"
            )
        self._serving = serving
        self._generation = first.generation
        self._full = first.full
        self._stores: dict[str, Store] = {} if first.full else dict(held.stores)
        self._compiled = CompiledRules()
        self._own: set[str] = set()  # stores that are this change's own and may be written to
        self._homes: dict[str, tuple[str, str] | None] = {}  # over those of serving, unless full
        self._before: list[Key] = []
        self._homes_before: dict[str, tuple[str, str]] = {}
        # A change of keys only keeps the table of prefixes and credentials.
        self._prefixes: Mapping[str, Credentials] | None = None if first.full else held.prefixes

    def add(self, delta: wire.Delta) -> Iterator[None]:
        """Add one slice, pausing after each record so that the caller can let requests through.

        Raises:
            ChangeRefused: the slice belongs to another change, or names a store that is not known.
        """
        if delta.generation != self._generation or delta.full != self._full:
            raise ChangeRefused("a slice of another change before this one's end")
        for store_id in delta.removed_stores:
            self._remove_store(store_id)
            yield
        for key_id in delta.removed_keys:
            self._remove_key(key_id)
            yield
        for store_record in delta.stores:
            self._put_store(store_record)
            yield
        for key_record in delta.keys:
            self._put_key(key_record)
            yield

    def commit(self) -> None:
        """Make the change the snapshot that is served.

        Raises:
            ChangeRefused: it would leave two stores of one prefix with the same access key id; what
                was served before stays.
        """
        serving = self._serving
        prefixes = self._prefixes if self._prefixes is not None else _index_prefixes(self._stores.values())
        keyring = Keyring(self._generation, self._stores, prefixes)
        if self._full:
            # Freed in one go with the snapshot, very many keys would hold up the loop: see let_go().
            self._before = [key for store in serving.keyring.stores.values() for key in store.keys.values()]
            self._homes_before = serving._key_homes
            homes = self._homes
            if None in homes.values():  # rare, and going through very many takes a while
                homes = {key_id: home for key_id, home in homes.items() if home}
            serving._key_homes = cast("dict[str, tuple[str, str]]", homes)
        else:
            for key_id, home in self._homes.items():
                if home is None:
                    serving._key_homes.pop(key_id, None)
                else:
                    serving._key_homes[key_id] = home
        if keyring.generation < serving.keyring.generation:
            # An older database was accepted: leases for the newer one vouch for nothing here.
            serving.leased_at = None
        serving.keyring = keyring

    def let_go(self) -> Iterator[None]:
        """Free what a full change has replaced, after its commit, pausing so that the caller can let requests through."""
        before, homes = self._before, self._homes_before
        while before:
            del before[-LET_GO:]
            yield
        while homes:
            for _ in range(min(LET_GO, len(homes))):
                homes.popitem()
            yield

    def _home(self, key_id: str) -> tuple[str, str] | None:
        if key_id in self._homes or self._full:
            return self._homes.get(key_id)
        return self._serving._key_homes.get(key_id)

    def _writable(self, store_id: str) -> Store:
        store = self._stores.get(store_id)
        if store is None:
            raise ChangeRefused(f"store {store_id} is not known")
        if store_id not in self._own:
            store = self._stores[store_id] = store.copy()
            self._own.add(store_id)
        return store

    def _credential(self, record: wire.CredentialRecord, store_id: str) -> Credential:
        # A credential that stays keeps its signing keys; one whose secret changed does not.
        held = self._serving.keyring.stores.get(store_id)
        for known in held.credentials if held is not None else ():
            if known.access_key_id == record.access_key_id and compare_digest(known.secret, record.secret):
                return known
        return Credential(record, store_id)

    def _put_store(self, record: wire.StoreRecord) -> None:
        before = self._stores.get(record.id)
        keys = {} if before is None else before.keys if record.id in self._own else dict(before.keys)
        credentials = tuple(self._credential(item, record.id) for item in record.credentials)
        held = self._serving.keyring.stores.get(record.id)
        bucket = held.bucket if held is not None else Bucket()
        self._stores[record.id] = Store(record, keys, credentials, bucket, self._compiled)
        self._own.add(record.id)
        self._prefixes = None

    def _remove_store(self, store_id: str) -> None:
        store = self._stores.pop(store_id, None)
        if store is not None:
            self._prefixes = None
            self._own.discard(store_id)
            for key in store.keys.values():
                self._homes[key.id] = None

    def _put_key(self, record: wire.KeyRecord) -> None:
        self._remove_key(record.id)
        store = self._writable(record.store_id)
        if record.state == "DESTROYED":
            return  # answered like a key that never was; its id stays reserved in the database
        key = Key(record, self._compiled)
        if key.elsewhere is not None and key.elsewhere.closed:
            self._keep_opened(key)
        store.keys[record.external_key_id] = key
        self._homes[record.id] = (record.store_id, record.external_key_id)

    def _keep_opened(self, key: Key) -> None:
        """Keep versions open that this process has opened already: the HSM may be away, they are here."""
        home = self._serving._key_homes.get(key.id)
        store = self._serving.keyring.stores.get(home[0]) if home is not None else None
        held = store.keys.get(home[1]) if store is not None and home is not None else None
        if held is None or held.id != key.id or key.elsewhere is None:
            return
        for number in key.elsewhere.closed & held.versions.keys():
            key.versions[number] = held.versions[number]
        key.elsewhere.closed -= held.versions.keys()
        key.current = key.versions.get(key.current_version)

    def _remove_key(self, key_id: str) -> None:
        home = self._home(key_id)
        if home is None:
            return
        store_id, external_key_id = home
        if store_id in self._stores:
            held = self._writable(store_id).keys.get(external_key_id)
            if held is not None and held.id == key_id:
                del self._writable(store_id).keys[external_key_id]
        self._homes[key_id] = None
