"""What the agent reads from the database: everything that the data plane needs, or what changed.

Every function here runs in the agent's reader thread, on a connection whose transactions are
snapshots (``xks.agent_database``): the counter is read first, then the rows, and both are of one
moment.  The number of queries does not grow with the number of rows of a full load; a change of many
objects takes a few more, ``IN_LIST`` ids at a time.

One row that does not open (altered, moved, its version missing) never stops the others: it is left
out and reported, so that the data plane answers as if it did not exist.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from cloudkeys.models import CloudKey, KeyVersion, XksCredential, XksKeyStore
from vault.generations import current_generation
from vault.models import GenerationChange
from xks.agent_columns import Ids, as_text, dashed, parsed_json
from xks.agent_keks import Keks
from xks.agent_opening import LeftOut, Opening, Unreadable, hsms_of
from xks.agent_rules import NO_RULES, limits_by_store, rules_by_owner
from xks.models import AccessRuleSet, StoreLimits
from xks.wire import (
    CredentialRecord,
    KeyRecord,
    KeyState,
    KeyUse,
    StoreRecord,
)

IN_LIST = 500
"""Ids in one IN (...); databases have a limit, and plans get worse long before it."""

ROWS_AT_ONCE = 2000
"""Rows fetched at a time, so that a big load stays small in memory and lets other threads run."""

_STATES = frozenset(CloudKey.State.values)
_USES: dict[tuple[bool, bool], list[KeyUse]] = {
    (False, False): [],
    (True, False): ["ENCRYPT"],
    (False, True): ["DECRYPT"],
    (True, True): ["ENCRYPT", "DECRYPT"],
}


class WentBackwards(Exception):
    """The database's generation is lower than the one applied, or its history is another one.

    A failover to a standby that had not everything, or a restored backup: what was disabled since
    may be enabled there.  Nothing is taken over until an operator accepts it.
    """

    def __init__(self, found: int, applied: int) -> None:
        super().__init__(f"the database is at generation {found}, this node has applied {applied}")
        self.found = found
        self.applied = applied


class LogIncomplete(Exception):
    """The log of changes does not reach back to the applied generation; everything must be loaded."""


@dataclass
class Loaded:
    """Records of one moment, at one generation.

    ``full``: they are everything.  Otherwise they replace those of the same id, and ``removed_*``
    name what is no more.  ``fingerprint`` tells this generation's change from any other.
    """

    generation: int
    fingerprint: Fingerprint
    full: bool
    stores: list[StoreRecord] = field(default_factory=list)
    keys: list[KeyRecord] = field(default_factory=list)
    removed_stores: list[str] = field(default_factory=list)
    removed_keys: list[str] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    rollback_accepted: bool = False
    """An operator has accepted that this is older than what was held."""


Fingerprint = str


@dataclass(frozen=True)
class Applied:
    """Where the agent stands: what it must know of the past to ask only for what changed."""

    generation: int
    fingerprint: Fingerprint
    store_ids: frozenset[str]
    """Ids of the stores held."""
    left_out_keys: frozenset[str]
    """Ids of keys that were left out; they are tried again when a vault changes."""

    @classmethod
    def after(cls, loaded: Loaded, before: Applied | None) -> Applied:
        """Where the agent stands once ``loaded`` is applied to what it held (None: nothing)."""
        stores = {store.id for store in loaded.stores}
        left_out = {item.id for item in loaded.left_out if item.kind == "key"}
        if before is not None and not loaded.full:
            stores |= before.store_ids - set(loaded.removed_stores)
            left_out |= before.left_out_keys - {key.id for key in loaded.keys} - set(loaded.removed_keys)
        return cls(loaded.generation, loaded.fingerprint, frozenset(stores), frozenset(left_out))


def mark_of(generation: int, fingerprint: Fingerprint) -> str:
    """Return the name of what a node holds, by which an operator accepts that it is let go of."""
    return f"{generation}:{fingerprint}"


def check_history(generation: int, fingerprint: Fingerprint) -> None:
    """Raise WentBackwards unless the database still knows the change that was applied as this generation."""
    with transaction.atomic():
        found = current_generation()
        if found < generation or fingerprint_of(generation) != fingerprint:
            raise WentBackwards(found, generation)


def load_everything(max_staleness_s: float, keks: Keks | None = None) -> Loaded:
    """Read all stores and keys at the current generation, in one snapshot.

    ``max_staleness_s``: the node's own bound, the most that a store's own may be.  ``keks`` opens the KEKs of key
    sets that an HSM wraps; without it their keys are known, and not usable.

    Raises django.db.Error when the database does not answer, vault.keys.RootKeyError when the root
    key cannot be used.
    """
    with transaction.atomic():
        generation = current_generation()
        loading = _Loading(max_staleness_s, every_vault=True, keks=keks)
        stores = loading.store_records(XksKeyStore.objects.all())
        known = {store.id for store in stores}
        keys = [record for record in loading.key_records() if record.store_id in known]
        return Loaded(
            generation=generation,
            fingerprint=fingerprint_of(generation),
            full=True,
            stores=stores,
            keys=keys,
            left_out=loading.left_out,
        )


def load_changes(
    applied: Applied, max_staleness_s: float, keks: Keks | None = None, again: Set[UUID] = frozenset()
) -> Loaded | None:
    """Read what changed since ``applied``, in one snapshot; None when nothing did.

    ``again`` are key sets whose KEK has opened since: their keys are read anew, perhaps at the same generation.

    Raises WentBackwards, LogIncomplete (then load everything), and what load_everything raises.
    """
    # Most answers are "nothing new": one query, no transaction.
    if current_generation() == applied.generation and not again:
        return None
    with transaction.atomic():
        generation = current_generation()
        if generation < applied.generation:
            raise WentBackwards(generation, applied.generation)
        # What was applied last, what came since: one query tells both histories.
        told: dict[int, list[tuple[str, UUID, datetime]]] = defaultdict(list)
        for number, kind, object_id, at in GenerationChange.objects.filter(
            generation__gte=applied.generation, generation__lte=generation
        ).values_list("generation", "kind", "object_id", "at"):
            told[number].append((kind, object_id, at))
        if _fingerprint(told.pop(applied.generation, [])) != applied.fingerprint:
            raise WentBackwards(generation, applied.generation)
        if len(told) != generation - applied.generation:
            raise LogIncomplete(f"from {applied.generation} to {generation}")
        touched: dict[str, set[UUID]] = {kind: set() for kind in GenerationChange.Kind.values}
        for rows in told.values():
            for kind, object_id, _ in rows:
                touched[kind].add(object_id)
        return _changed(
            applied,
            generation,
            _fingerprint(told[generation]) if generation in told else applied.fingerprint,
            max_staleness_s,
            vault_ids=touched[GenerationChange.Kind.VAULT],
            store_ids=touched[GenerationChange.Kind.STORE],
            key_ids=touched[GenerationChange.Kind.KEY],
            again=again,
            keks=keks,
        )


def _changed(
    applied: Applied,
    generation: int,
    fingerprint: Fingerprint,
    max_staleness_s: float,
    *,
    vault_ids: set[UUID],
    store_ids: set[UUID],
    key_ids: set[UUID],
    again: Set[UUID],
    keks: Keks | None,
) -> Loaded:
    loading = _Loading(max_staleness_s, every_vault=False, keks=keks)
    asked = set(store_ids)
    for ids in _portions(vault_ids):
        # A vault's switch acts on its stores alone: blocking one with 100,000 keys must not read them.
        asked.update(XksKeyStore.objects.filter(vault_id__in=ids).values_list("id", flat=True))
    stores: list[StoreRecord] = []
    for ids in _portions(asked):
        stores += loading.store_records(XksKeyStore.objects.filter(id__in=ids))
    found = {store.id for store in stores}
    removed_stores = sorted({str(id) for id in asked} - found)
    if vault_ids:
        key_ids = key_ids | {UUID(id) for id in applied.left_out_keys}
    keys: dict[str, KeyRecord] = {}
    for ids in _portions(key_ids):
        keys.update((record.id, record) for record in loading.key_records(ids=ids))
    # A store that comes (back) brings all its keys, whether the log names them or not.
    new_stores = [UUID(id) for id in sorted(found - applied.store_ids)]
    for ids in _portions(new_stores):
        keys.update((record.id, record) for record in loading.key_records(of=ids))
    opened = XksKeyStore.objects.filter(key_set_id__in=again).values_list("id", flat=True) if again else ()
    for ids in _portions(set(opened) - set(new_stores)):
        keys.update((record.id, record) for record in loading.key_records(of=ids))
    held = (applied.store_ids | found) - set(removed_stores)
    kept = [record for record in keys.values() if record.store_id in held]
    removed_keys = sorted({str(id) for id in key_ids} - {record.id for record in kept})
    return Loaded(
        generation=generation,
        fingerprint=fingerprint,
        full=False,
        stores=stores,
        keys=kept,
        removed_stores=removed_stores,
        removed_keys=removed_keys,
        left_out=loading.left_out,
    )


def fingerprint_of(generation: int) -> Fingerprint:
    """What the log says of that generation. Two histories that share a number do not share this."""
    return _fingerprint(
        GenerationChange.objects.filter(generation=generation).values_list("kind", "object_id", "at")
    )


def _fingerprint(rows: Iterable[tuple[str, UUID, datetime]]) -> Fingerprint:
    told = sorted(f"{kind} {object_id} {at.astimezone(UTC).isoformat()}" for kind, object_id, at in rows)
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:32]


NOTHING_LOGGED: Final = _fingerprint([])
"""Of a generation of which the log says nothing: the one before the first change."""


def _portions(ids: Iterable[UUID]) -> Iterator[Sequence[UUID]]:
    ordered = sorted(ids)
    for start in range(0, len(ordered), IN_LIST):
        yield ordered[start : start + IN_LIST]


class _Loading:
    """One load: the records of stores and keys, and what had to be left out."""

    def __init__(self, max_staleness_s: float, *, every_vault: bool, keks: Keks | None) -> None:
        self._max_staleness_s = max_staleness_s
        self._opening = Opening(every_vault=every_vault, keks=keks)

    @property
    def left_out(self) -> list[LeftOut]:
        """Rows that the data plane does not get."""
        return self._opening.left_out

    def store_records(self, rows: QuerySet[XksKeyStore]) -> list[StoreRecord]:
        """Return records of these stores; one whose vault is destroyed has none."""
        stores = [row for row in rows if not self._opening.is_destroyed(row.vault_id)]
        ids = {row.pk for row in stores}
        narrow = Q(store_id__in=ids) if len(ids) <= IN_LIST else Q()
        credentials: dict[UUID, list[CredentialRecord]] = {}
        for row_id, vault_id, store_id, access_key_id, blob in XksCredential.objects.filter(
            narrow, state=XksCredential.State.ACTIVE
        ).values_list("pk", "vault_id", "store_id", "access_key_id", "secret_access_key"):
            if store_id not in ids:
                continue
            try:
                secret = self._opening.open(XksCredential, "secret_access_key", row_id, vault_id, blob)
            except Unreadable as error:
                self._opening.leave_out("credential", row_id, vault_id, str(error))
            else:
                record = CredentialRecord(access_key_id=access_key_id, secret=secret)
                credentials.setdefault(store_id, []).append(record)
        health_keys = dict(
            CloudKey.objects.filter(narrow, kind=CloudKey.Kind.HEALTH_CHECK)
            .exclude(state=CloudKey.State.DESTROYED)
            .values_list("store_id", "external_key_id")
        )
        rules = rules_by_owner(AccessRuleSet.objects.filter(narrow, cloud_key=None), "store_id")
        limits = limits_by_store(StoreLimits.objects.filter(narrow))
        groups, required = hsms_of(stores)
        records: list[StoreRecord] = []
        for row in stores:
            own = rules.get(row.pk, NO_RULES)
            rate, credential_rate = limits.get(row.pk, (None, None))
            regions = row.allowed_regions
            if not isinstance(regions, list) or not all(isinstance(region, str) for region in regions):
                # A worker could not read the record, and with it none of the others.
                self._opening.leave_out("store", row.pk, row.vault_id, "allowed_regions is no list of names")
                continue
            staleness = row.max_staleness_s
            records.append(
                StoreRecord(
                    id=str(row.pk),
                    path_prefix=row.path_prefix,
                    blocked=row.blocked or not self._opening.vault(row.vault_id).serves,
                    credentials=credentials.get(row.pk, []),
                    health_key_id=health_keys.get(row.pk),
                    allowed_regions=regions,
                    # Longer than the node's own, it would outlast the time for which workers are counted.
                    max_staleness_s=None
                    if staleness is None
                    else min(float(staleness), self._max_staleness_s),
                    rules=own.enforced,
                    shadow_rules=own.shadowed,
                    rate_per_s=rate,
                    credential_rate_per_s=credential_rate,
                    hsm_groups=tuple(sorted(groups.get(row.pk, ()))),
                    hsm_required=required.get(row.key_set_id, ""),
                )
            )
        return records

    def key_records(
        self, *, ids: Sequence[UUID] | None = None, of: Sequence[UUID] | None = None
    ) -> list[KeyRecord]:
        """Return records of the keys with these ids, or of these stores, or (neither given) of all.

        Destroyed keys come without versions, so that their id answers 404.
        """
        which = CloudKey.objects.all()
        versions = KeyVersion.objects.filter(destroyed_at=None)
        rule_sets = AccessRuleSet.objects.exclude(cloud_key=None)
        if ids is not None:
            which, versions = which.filter(pk__in=ids), versions.filter(cloud_key_id__in=ids)
            rule_sets = rule_sets.filter(cloud_key_id__in=ids)
        if of is not None:
            which, versions = which.filter(store_id__in=of), versions.filter(cloud_key__store_id__in=of)
            rule_sets = rule_sets.filter(store_id__in=of)
        rules = {str(owner): found for owner, found in rules_by_owner(rule_sets, "cloud_key_id").items()}
        material, refused = self._opening.versions(versions)
        fields = (
            as_text("pk"), as_text("vault_id"), as_text("store_id"), "external_key_id", "state", "blocked",
            as_text("permitted_uses"), "current_version", as_text("tags"),
        )  # fmt: skip
        vault_ids, store_ids = Ids(), Ids()
        parsed: dict[str, Any] = {}
        records: list[KeyRecord] = []
        for (
            key,
            vault,
            store,
            external_id,
            state,
            blocked,
            uses_text,
            current,
            tags_text,
        ) in which.values_list(*fields).iterator(ROWS_AT_ONCE):
            row_id, vault_id = dashed(key), vault_ids[vault]
            if self._opening.is_destroyed(vault_id):
                continue
            own = material.get(row_id, [])
            uses = parsed_json(uses_text, parsed)
            if state == CloudKey.State.DESTROYED:
                own = []
            elif row_id in refused:
                self._opening.leave_out("key", row_id, vault_id, refused[row_id])
                continue
            elif state not in _STATES or not isinstance(uses, list):
                self._opening.leave_out(
                    "key", row_id, vault_id, "its state or its permitted uses are not known"
                )
                continue
            elif all(version.number != current for version in own):
                self._opening.leave_out(
                    "key", row_id, vault_id, f"its current version {current} has no material"
                )
                continue
            ruled = rules.get(row_id, NO_RULES) if rules else NO_RULES
            records.append(
                KeyRecord(
                    id=row_id,
                    store_id=store_ids.text(store),
                    external_key_id=external_id,
                    state=cast("KeyState", state),
                    blocked=blocked,
                    uses=_USES["ENCRYPT" in uses, "DECRYPT" in uses] if isinstance(uses, list) else [],
                    current_version=current,
                    versions=own,
                    tags=_texts(parsed_json(tags_text, parsed)),
                    rules=ruled.enforced,
                    shadow_rules=ruled.shadowed,
                )
            )
        return records


def _texts(tags: Any) -> dict[str, str]:
    """Return tags as the data plane takes them; what is none cannot be looked at by a rule, and is absent."""
    if not isinstance(tags, dict):
        return {}
    return {str(name): value for name, value in tags.items() if isinstance(value, str)}
