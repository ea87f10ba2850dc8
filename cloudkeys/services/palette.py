"""Go to any object of a vault by name, id, alias or ARN: a few bounded queries, best matches first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import connection
from django.db.models import Case, IntegerField, Q, QuerySet, Value, When

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySet, Operation, XksKeyStore
from vault.actors import Actor
from vault.models import Membership, Vault
from vault.permissions import Permission

MAX_TEXT = 2048
MOST = 50
EXACT, PREFIX, PART = 0, 1, 2


@dataclass(frozen=True)
class Found:
    """One object. type: cloud_key, key_set, csp_account, xks_store, aws_store_link, operation or member."""

    type: str
    id: UUID
    name: str
    detail: str
    state: str
    rank: int


def find_objects(actor: Actor, vault: Vault, text: str, limit: int = 20) -> list[Found]:
    """Objects that `text` names, at most `limit`: whole ids and names first, then beginnings, then parts of names.

    An id, ARN or access key id must be whole. What the role may not see is left out. Raises NotFound, PermissionDenied.
    """
    actor.require(Permission.VAULT_VIEW, vault)
    wanted = text.strip()[:MAX_TEXT].replace("\x00", "")
    limit = max(1, min(limit, MOST))
    if not wanted:
        return []
    found = [
        *_keys(actor, vault, wanted, limit),
        *_key_sets(actor, vault, wanted, limit),
        *_accounts(actor, vault, wanted, limit),
        *_links(actor, vault, wanted, limit),
        *_by_id(actor, vault, wanted),
        *_members(actor, vault, wanted, limit),
    ]
    unique = {(each.type, each.id): each for each in sorted(found, key=lambda each: -each.rank)}
    return sorted(unique.values(), key=lambda each: (each.rank, each.name.lower(), each.type, str(each.id)))[
        :limit
    ]


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text) if len(text) in (32, 36) else None
    except ValueError:
        return None


def _ranked(rows: QuerySet[Any], column: str, wanted: str) -> QuerySet[Any]:
    """Rows whose `column` holds the text, ranked."""
    rank = Case(
        When(**{f"{column}__iexact": wanted}, then=Value(EXACT)),
        When(**{f"{column}__istartswith": wanted}, then=Value(PREFIX)),
        default=Value(PART),
        output_field=IntegerField(),
    )
    return rows.filter(**{f"{column}__icontains": wanted}).annotate(rank=rank).order_by("rank", column, "pk")


def _keys(actor: Actor, vault: Vault, wanted: str, limit: int) -> list[Found]:
    if not actor.may(Permission.CLOUD_KEYS_VIEW, vault):
        return []
    keys = CloudKey.objects.filter(vault=vault)
    exact = Q(external_key_id=wanted) | Q(kms_key_id=wanted)
    name = wanted.removeprefix("alias/")
    if wanted.startswith("arn:") and (tail := wanted.rpartition(":")[2]).startswith(("key/", "alias/")):
        kind, _, rest = tail.partition("/")
        exact |= Q(kms_key_id=rest) if kind == "key" else Q(name=rest, region=wanted.split(":")[3])
    if (uuid := _uuid(wanted)) is not None:
        exact |= Q(pk=uuid)
    columns = ("pk", "name", "state", "region", "key_set__name")
    found = {
        row[0]: _key(row, EXACT)
        for row in keys.filter(exact).order_by("name", "pk").values_list(*columns)[:limit]
    }
    if not found and name:
        ranks = _by_name(keys.filter(kind=CloudKey.Kind.USER), name, limit)
        for row in CloudKey.objects.filter(pk__in=list(ranks)).values_list(*columns):
            found[row[0]] = _key(row, ranks[row[0]])
    return list(found.values())


def _by_name(keys: QuerySet[CloudKey], name: str, limit: int) -> dict[UUID, int]:
    """Keys by name, with ranks, in the order of the index on names, so that each look ends with enough rows.

    Beginnings are looked for as typed. A part of a name is a scan of that index, which holds all that it looks at.
    """
    by_name = keys.order_by("name", "pk")
    exact = by_name.filter(name=name)
    if connection.vendor == "sqlite":
        # Names sort by their bytes there; LIKE would not use the index.
        beginning = by_name.filter(name__gte=name, name__lt=name + chr(0x10FFFF))
    else:
        beginning = by_name.filter(name__startswith=name)
    ranks: dict[UUID, int] = {}
    for rows in (exact, beginning, by_name.filter(name__holds=name)):
        if len(ranks) < limit:
            for pk, text in rows.values_list("pk", "name")[:limit]:
                ranks.setdefault(pk, _rank(text, name))
    return ranks


def _rank(text: str, wanted: str) -> int:
    lower, sought = text.lower(), wanted.lower()
    return EXACT if lower == sought else PREFIX if lower.startswith(sought) else PART


def _key(row: tuple[Any, ...], rank: int) -> Found:
    pk, name, state, region, key_set = row
    return Found("cloud_key", pk, name, f"{key_set}, {region}" if region else key_set, state, rank)


def _key_sets(actor: Actor, vault: Vault, wanted: str, limit: int) -> list[Found]:
    if not actor.may(Permission.KEY_SETS_VIEW, vault):
        return []
    rows = _ranked(KeySet.objects.filter(vault=vault), "name", wanted).select_related("csp_account")[:limit]
    return [
        Found("key_set", row.pk, row.name, row.csp_account.name if row.csp_account else "", "", row.rank)
        for row in rows
    ]


def _accounts(actor: Actor, vault: Vault, wanted: str, limit: int) -> list[Found]:
    if not actor.may(Permission.CSP_ACCOUNTS_VIEW, vault):
        return []
    accounts = CspAccount.objects.filter(vault=vault)
    exact = (
        Q(access_key_id=wanted) | Q(cloud_account_id=wanted) | Q(role_arn=wanted) | Q(principal_arn=wanted)
    )
    rows = [(row, EXACT) for row in accounts.filter(exact).order_by("name")[:limit]]
    rows += [(row, row.rank) for row in _ranked(accounts, "name", wanted)[:limit]]
    return [
        Found(
            "csp_account",
            row.pk,
            row.name,
            row.cloud_account_id or row.get_partition_display(),
            row.health,
            rank,
        )
        for row, rank in rows
    ]


def _links(actor: Actor, vault: Vault, wanted: str, limit: int) -> list[Found]:
    if not actor.may(Permission.XKS_STORES_VIEW, vault):
        return []
    links = AwsStoreLink.objects.filter(vault=vault)
    store_id = wanted.rpartition("/")[2] if wanted.startswith("arn:") else wanted
    rows = (
        [(row, EXACT) for row in links.filter(custom_key_store_id=store_id).order_by("name")[:limit]]
        if store_id
        else []
    )
    rows += [(row, row.rank) for row in _ranked(links, "name", wanted)[:limit]]
    return [Found("aws_store_link", row.pk, row.name, row.region, row.state, rank) for row, rank in rows]


def _by_id(actor: Actor, vault: Vault, wanted: str) -> list[Found]:
    """Stores and operations by their ids, and stores by path, credential, or the name of their key set."""
    found: list[Found] = []
    uuid = _uuid(wanted)
    if actor.may(Permission.XKS_STORES_VIEW, vault):
        exact = Q(path_prefix=wanted) | Q(
            pk__in=XksKeyStore.objects.filter(credentials__access_key_id=wanted).values("pk")
        )
        if uuid is not None:
            exact |= Q(pk=uuid)
        rows = XksKeyStore.objects.filter(vault=vault).filter(exact)
        found += [
            Found(
                "xks_store",
                row.pk,
                row.key_set.name,
                row.path_prefix,
                "BLOCKED" if row.blocked else "",
                EXACT,
            )
            for row in rows.select_related("key_set").order_by("created_at")[:5]
        ]
    if uuid is None:
        return found
    if actor.may(Permission.OPERATIONS_VIEW, vault):
        found += [
            Found("operation", row.pk, row.target_name or row.kind, row.kind, row.state, EXACT)
            for row in Operation.objects.filter(vault=vault, pk=uuid)
        ]
    if actor.may(Permission.KEY_SETS_VIEW, vault):
        for model, kind in (
            (KeySet, "key_set"),
            (CspAccount, "csp_account"),
            (AwsStoreLink, "aws_store_link"),
        ):
            named = model._default_manager.filter(vault=vault, pk=uuid).values_list("pk", "name")
            found += [Found(kind, pk, name, "", "", EXACT) for pk, name in named]
    return found


def _members(actor: Actor, vault: Vault, wanted: str, limit: int) -> list[Found]:
    if not actor.may(Permission.MEMBERS_VIEW, vault):
        return []
    members = Membership.objects.filter(vault=vault).select_related("user")
    by_mail = _ranked(members, "user__email", wanted)[:limit]
    by_name = _ranked(members, "user__name", wanted)[:limit]
    return [
        Found("member", row.pk, row.user.get_full_name(), row.user.email, row.role, row.rank)
        for row in (*by_mail, *by_name)
    ]
