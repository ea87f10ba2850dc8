"""Lists: filters and orderings by explicit allow-lists, and cursor pagination that stays stable while rows come and go."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from django.core import signing
from django.db.models import Count, Field, Model, Q, QuerySet, Window
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from rest_framework.request import Request

from vault.actors import Actor
from vault.api.problems import ApiError
from vault.errors import NotFound, ValidationFailed
from vault.models import Vault
from vault.permissions import Permission

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
MAX_REPEATED = 50
_CURSOR_SALT = "keystead.api.cursor"


@dataclass(frozen=True)
class Filter:
    """One query parameter. `parse` turns text into a value (ValueError says what is wrong), `apply` narrows the rows.

    `scans`: no index answers it, so that the database looks at every row; a first page is then found and counted in one pass.
    """

    name: str
    help: str
    parse: Callable[[str], Any]
    apply: Callable[[QuerySet[Any], list[Any]], QuerySet[Any]]
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    many: bool = False
    example: Any = None
    scans: bool = False


def _lookup(lookup: str) -> Callable[[QuerySet[Any], list[Any]], QuerySet[Any]]:
    def apply(rows: QuerySet[Any], values: list[Any]) -> QuerySet[Any]:
        return rows.filter(**({f"{lookup}__in": values} if len(values) > 1 else {lookup: values[0]}))

    return apply


def choice(name: str, lookup: str, values: Iterable[str], help: str) -> Filter:
    """One of `values`; may be repeated, then any of them."""
    allowed = [str(value) for value in values]

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(
                f"{text[:60]!r} is not one of {', '.join(allowed[:12])}{'...' if len(allowed) > 12 else ''}."
            )
        return text

    return Filter(name, help, parse, _lookup(lookup), {"type": "string", "enum": allowed}, many=True)


def one_of(name: str, values: Iterable[str], help: str) -> Filter:
    """One of `values`, once; it narrows no rows (the form of an export)."""
    return replace(choice(name, "pk", values, help), apply=lambda rows, found: rows, many=False)


def identifier(name: str, lookup: str, help: str) -> Filter:
    """The UUID of a related object; may be repeated."""
    return Filter(name, help, _uuid, _lookup(lookup), {"type": "string", "format": "uuid"}, many=True)


def flag(name: str, lookup: str, help: str) -> Filter:
    """true or false."""
    return Filter(name, help, parse_flag, _lookup(lookup), {"type": "boolean"})


def present(name: str, field_name: str, help: str) -> Filter:
    """true: only rows whose `field_name` is filled; false: only rows where it is null."""

    def apply(rows: QuerySet[Any], values: list[Any]) -> QuerySet[Any]:
        return rows.filter(**{f"{field_name}__isnull": not values[0]})

    return Filter(name, help, parse_flag, apply, {"type": "boolean"})


def text(name: str, lookups: Iterable[str], help: str, *, max_length: int = 200) -> Filter:
    """Free text that any of `lookups` (such as name__icontains) may match."""
    paths = tuple(lookups)

    def parse(value: str) -> str:
        if not value or len(value) > max_length:
            raise ValueError(f"it must have 1 to {max_length} characters.")
        return value

    def apply(rows: QuerySet[Any], values: list[Any]) -> QuerySet[Any]:
        condition = Q()
        for path in paths:
            condition |= Q(**{path: values[0]})
        return rows.filter(condition)

    return Filter(name, help, parse, apply, {"type": "string", "minLength": 1, "maxLength": max_length})


def moment(name: str, lookup: str, help: str) -> Filter:
    """A date-time with offset, or a date (its first moment in UTC); `lookup` says which side, such as at__gte."""
    return Filter(name, help, _moment, _lookup(lookup), {"type": "string"}, example="2026-11-22T14:00:00Z")


def _uuid(value: str) -> UUID:
    if not re.fullmatch(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", value):
        raise ValueError(f"{value[:60]!r} is not a UUID.")
    return UUID(value)


def parse_flag(value: str) -> bool:
    """true or false. Raises ValueError."""
    if value not in ("true", "false"):
        raise ValueError(f"{value[:60]!r} is neither true nor false.")
    return value == "true"


def _moment(value: str) -> datetime:
    try:
        found = parse_datetime(value)
        day = None if found is not None else parse_date(value)
        if day is not None:
            found = datetime(day.year, day.month, day.day, tzinfo=timezone.get_default_timezone())
        if found is None or found.tzinfo is None:
            raise ValueError
        return found.astimezone(timezone.get_default_timezone())
    except (ValueError, OverflowError):
        raise ValueError(
            f"{value[:60]!r} is no date-time with an offset, such as 2026-11-22T14:00:00Z."
        ) from None


@dataclass(frozen=True)
class Listing:
    """What a list takes. `orderings` maps the public name to a model field; the primary key always breaks ties.

    `in_vault` adds the parameter `vault`, which a handler reads with `vault_of(request, permission)`. `fetch` is for
    large tables of wide rows: the page is then found as primary keys alone, which an index can answer, and its rows are taken
    from the queryset that `fetch` returns.
    """

    orderings: dict[str, str]
    default_ordering: str
    filters: tuple[Filter, ...] = ()
    in_vault: bool = True
    default_limit: int = DEFAULT_LIMIT
    fetch: Callable[[], QuerySet[Any]] | None = None

    @property
    def names(self) -> frozenset[str]:
        """Every query parameter that is taken."""
        own = {"limit", "cursor", "ordering", "with_total"} | ({"vault"} if self.in_vault else set())
        return frozenset(own | {f.name for f in self.filters})


def single(request: Request, name: str) -> str | None:
    """The value of a query parameter that may stand once; None when absent. Raises ApiError (400)."""
    values = request.query_params.getlist(name)
    if len(values) > 1:
        raise wrong_parameter(name, "it stands more than once.", "Give it once.")
    if values and "\x00" in values[0]:
        raise wrong_parameter(name, "it holds the character U+0000.", "Remove it.")
    return values[0] if values else None


def wrong_parameter(name: str, cause: str, cure: str = "") -> ApiError:
    """A 400 that names the query parameter."""
    detail = f"Query parameter {name}: {cause}"
    cure = cure or "Correct the parameter; /api/v1/docs lists what it takes."
    errors = [{"field": name, "message": cause, "cure": cure}]
    return ApiError("validation_failed", detail, field=name, cure=cure, errors=errors)


def check_parameters(request: Request, allowed: Iterable[str]) -> None:
    """Raise ApiError (400) for a query parameter that this address does not know."""
    known = sorted(allowed)
    for name in request.query_params:
        if name not in known:
            cure = f"Known here: {', '.join(known)}." if known else "This address takes no query parameters."
            raise wrong_parameter(name[:60].replace("\x00", ""), "it is not known here.", cure)


def parse_parameters(request: Request, filters: Iterable[Filter]) -> dict[str, list[Any]]:
    """The values of those query parameters that the request names. Raises ApiError (400) naming the one that is wrong."""
    found: dict[str, list[Any]] = {}
    for spec in filters:
        texts = request.query_params.getlist(spec.name)
        if not texts:
            continue
        if not spec.many:
            single(request, spec.name)
        if len(texts) > MAX_REPEATED:
            raise wrong_parameter(spec.name, f"it stands more than {MAX_REPEATED} times.")
        values = []
        for value in texts:
            if "\x00" in value:
                raise wrong_parameter(spec.name, "it holds the character U+0000.", "Remove it.")
            try:
                values.append(spec.parse(value))
            except ValueError as error:
                raise wrong_parameter(spec.name, str(error)) from None
        found[spec.name] = values
    return found


def filtered(request: Request, rows: QuerySet[Any], filters: Iterable[Filter]) -> QuerySet[Any]:
    """Apply every filter that the request names. Raises ApiError (400) naming the parameter."""
    specs = {spec.name: spec for spec in filters}
    for name, values in parse_parameters(request, specs.values()).items():
        rows = specs[name].apply(rows, values)
    return rows


@dataclass(frozen=True)
class Page:
    """One page of rows. `next_cursor` is None on the last, `previous_cursor` on the first."""

    rows: list[Any]
    next_cursor: str | None
    total: int | None
    previous_cursor: str | None = None


def paginate(request: Request, rows: QuerySet[Any], listing: Listing, *, backwards: bool = False) -> Page:
    """Filter, order and cut `rows` as the request asks. A few queries, however many rows there are.

    Keyset pagination: the cursor holds the last row's sort value and primary key, signed, so that rows which come or go
    elsewhere neither repeat nor hide others. `backwards` takes the cursor as `previous_cursor` of a page: the rows before it, in the
    same order. When fewer are left than fill a page, it is the first page.
    """
    rows = filtered(request, rows, listing.filters)
    asked = single(request, "ordering")
    ordering = listing.default_ordering if asked is None else asked
    descending, public = ordering.startswith("-"), ordering.removeprefix("-")
    if public not in listing.orderings:
        known = ", ".join(listing.orderings)
        raise wrong_parameter(
            "ordering", f"{ordering[:60]!r} is not known.", f"Known: {known}; with - in front, descending."
        )
    path = listing.orderings[public]
    limit = _limit(request, listing)
    with_total = single(request, "with_total")
    try:
        counted = with_total is not None and parse_flag(with_total)
    except ValueError as error:
        raise wrong_parameter("with_total", str(error)) from None

    cursor = single(request, "cursor")
    after = None if cursor is None else _read_cursor(cursor, ordering)
    if backwards and after is not None:
        found = _rows_before(rows, path, descending, after, limit + 1, listing)
        if len(found) > limit:
            found = found[1:]
            first, last = (_write_cursor(row, path, ordering) for row in (found[0], found[-1]))
            return Page(found, last, rows.count() if counted else None, first)
        after = None
    total = None
    scans = any(spec.scans and spec.name in request.query_params for spec in listing.filters)
    if counted and scans and after is None and _can_count(rows, path, listing):
        found, total = _found_and_counted(rows, path, descending, limit + 1, listing)
    else:
        found = _page_rows(rows, path, descending, after, limit + 1, listing)
    next_cursor = None
    if len(found) > limit:
        found = found[:limit]
        next_cursor = _write_cursor(found[-1], path, ordering)
    previous = _write_cursor(found[0], path, ordering) if found and after is not None else None
    if counted and total is None:
        # What fits on one page is counted by what was found: a search for a part of a name reads every name once, not twice.
        total = len(found) if after is None and next_cursor is None else rows.count()
    return Page(found, next_cursor, total, previous)


def _limit(request: Request, listing: Listing) -> int:
    given = single(request, "limit")
    if given is None:
        return listing.default_limit
    if not given.isascii() or not given.isdigit() or len(given) > 4 or not 1 <= int(given) <= MAX_LIMIT:
        raise wrong_parameter("limit", f"it must be a whole number from 1 to {MAX_LIMIT}.")
    return int(given)


def _model_field(model: type[Model], path: str) -> Field[Any, Any]:
    *relations, last = path.split("__")
    for name in relations:
        model = model._meta.get_field(name).related_model  # type: ignore[assignment]
    return model._meta.get_field("pk" if last == "pk" else last)  # type: ignore[return-value]


def _page_rows(
    rows: QuerySet[Any],
    path: str,
    descending: bool,
    after: tuple[Any, Any] | None,
    count: int,
    listing: Listing,
) -> list[Any]:
    """The first `count` rows after the cursor: those with a value in order, then those without one (NULL).

    Two statements for the two kinds, because the databases disagree about where NULL sorts and an index serves only the order
    that it was made for; the second is sent only when the first did not fill the page.
    """
    by_key = path in ("pk", rows.model._meta.pk.name)  # type: ignore[union-attr]
    nullable = not by_key and _model_field(rows.model, path).null
    found: list[Any] = []
    if not (nullable and after is not None and after[0] is None):
        filled = rows.filter(**{f"{path}__isnull": False}) if nullable else rows
        if after is not None:
            filled = filled.filter(_after(path, descending, *after, by_key=by_key))
        sign = "-" if descending else ""
        found = _fetch(
            filled.order_by(*([f"{sign}pk"] if by_key else [sign + path, f"{sign}pk"])), count, listing
        )
    if nullable and len(found) < count:
        empty = rows.filter(**{f"{path}__isnull": True})
        if after is not None and after[0] is None:
            empty = empty.filter(**{f"pk__{'lt' if descending else 'gt'}": after[1]})
        found += _fetch(empty.order_by("-pk" if descending else "pk"), count - len(found), listing)
    return found


def _rows_before(
    rows: QuerySet[Any],
    path: str,
    descending: bool,
    before: tuple[Any, Any],
    count: int,
    listing: Listing,
) -> list[Any]:
    """The last `count` of the rows before the cursor, in the order of _page_rows: those without a value (NULL) stand last there."""
    value, key = before
    by_key = path in ("pk", rows.model._meta.pk.name)  # type: ignore[union-attr]
    nullable = not by_key and _model_field(rows.model, path).null
    sign, found = ("" if descending else "-"), []
    filled = rows.filter(**{f"{path}__isnull": False}) if nullable else rows
    if value is None and nullable:
        empty = rows.filter(**{f"{path}__isnull": True, f"pk__{'gt' if descending else 'lt'}": key})
        found = _fetch(empty.order_by(f"{sign}pk"), count, listing)
    else:
        filled = filled.filter(_after(path, not descending, value, key, by_key=by_key))
    if len(found) < count:
        order = [f"{sign}pk"] if by_key else [sign + path, f"{sign}pk"]
        found += _fetch(filled.order_by(*order), count - len(found), listing)
    return found[::-1]


def _fetch(rows: QuerySet[Any], count: int, listing: Listing) -> list[Any]:
    """The first `count` of ordered rows."""
    if listing.fetch is None:
        return list(rows[:count])
    return _rows_of(
        list(rows.select_related(None).prefetch_related(None).values_list("pk", flat=True)[:count]), listing
    )


def _rows_of(keys: list[Any], listing: Listing) -> list[Any]:
    by_key = listing.fetch().in_bulk(keys) if keys and listing.fetch is not None else {}
    return [by_key[key] for key in keys if key in by_key]


def _can_count(rows: QuerySet[Any], path: str, listing: Listing) -> bool:
    """Whether one statement answers the whole order: rows without a value (NULL) take a second one."""
    by_key = path in ("pk", rows.model._meta.pk.name)  # type: ignore[union-attr]
    return listing.fetch is not None and not by_key and not _model_field(rows.model, path).null


def _found_and_counted(
    rows: QuerySet[Any], path: str, descending: bool, count: int, listing: Listing
) -> tuple[list[Any], int]:
    """The first `count` rows, and how many there are in all, in one pass over them."""
    sign = "-" if descending else ""
    ordered = rows.select_related(None).prefetch_related(None).order_by(sign + path, f"{sign}pk")
    found = list(ordered.annotate(in_all=Window(Count("*"))).values_list("pk", "in_all")[:count])
    return _rows_of([key for key, _ in found], listing), found[0][1] if found else 0


def _after(path: str, descending: bool, value: Any, key: Any, *, by_key: bool) -> Q:
    """Rows that come after (value, key), which is not NULL."""
    beyond = "lt" if descending else "gt"
    if by_key:
        return Q(**{f"pk__{beyond}": key})
    condition = Q(**{f"{path}__{beyond}": value}) | Q(**{path: value, f"pk__{beyond}": key})
    # Redundant, but lets the database enter its index where the page begins.
    return Q(**{f"{path}__{beyond}e": value}) & condition


def _write_cursor(row: Any, path: str, ordering: str) -> str:
    value = row
    for name in path.split("__"):
        value = getattr(value, name)
    if isinstance(value, datetime | UUID):
        value = str(value)
    key = row.pk if isinstance(row.pk, int) else str(row.pk)
    return signing.dumps([ordering, value, key], salt=_CURSOR_SALT, compress=False)


def _read_cursor(cursor: str, ordering: str) -> tuple[Any, Any]:
    try:
        made_for, value, key = signing.loads(cursor, salt=_CURSOR_SALT)
    except (signing.BadSignature, ValueError, TypeError):
        raise wrong_parameter(
            "cursor", "it is none of ours.", "Send next_cursor of an earlier page unchanged."
        ) from None
    if made_for != ordering:
        raise wrong_parameter(
            "cursor", f"it belongs to ordering={made_for}.", "Keep the ordering while turning pages."
        )
    return value, key


def vault_of(request: Request, permission: Permission, given: UUID | None = None) -> Vault:
    """The vault that a list or a new object belongs to, authorised for `permission`.

    Taken from `given` (a body's field), else from the query parameter `vault`, else the token's vault, else the only one
    that the actor has. Raises NotFound for a foreign one, ValidationFailed when it is left open, PermissionDenied.
    """
    actor: Actor = request.auth  # type: ignore[assignment]
    chosen = given
    if chosen is None and (in_query := single(request, "vault")) is not None:
        try:
            chosen = _uuid(in_query)
        except ValueError as error:
            raise wrong_parameter("vault", str(error)) from None
    rows = actor.visible(Vault)
    if chosen is not None:
        vault = rows.filter(pk=chosen).first()
        if vault is None:
            raise NotFound("There is no such vault, or it is not yours.", field="vault")
    else:
        mine = list(rows[:2])
        if not mine:
            raise NotFound(
                "You are a member of no vault.",
                field="vault",
                cure="Ask a vault admin to add you, or sign in as a member.",
            )
        if len(mine) > 1:
            raise ValidationFailed(
                "You are a member of several vaults, so say which one.",
                field="vault",
                cure="Send the id of one; GET /api/v1/vaults lists yours.",
            )
        vault = mine[0]
    actor.require(permission, vault)
    return vault
