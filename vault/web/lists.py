"""Lists as pages: the same Listing as the API (filters, order, cursor), with columns, chips and a pager around it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from django.db.models import QuerySet
from django.http import HttpResponse, QueryDict
from django.utils.translation import gettext, gettext_noop

from vault.api.listing import Listing, paginate
from vault.api.problems import ApiError
from vault.web.frame import page

_OWN = ("cursor", "at", "limit", "ordering", "columns", "restore", "with_total")


@dataclass(frozen=True)
class Column:
    """One column. `ordering` is a name of the Listing when it can be sorted by; `shown` says whether it is at first."""

    name: str
    label: str
    ordering: str = ""
    num: bool = False
    shown: bool = True
    always: bool = False


@dataclass(frozen=True)
class FilterMenu:
    """A filter of the Listing as a menu. `options` are (value, label), and with `names` people gave the labels; `many` lets
    several be chosen."""

    name: str
    label: str
    options: tuple[tuple[str, str], ...]
    many: bool = True
    names: bool = False


@dataclass(frozen=True)
class Chip:
    """A filter in force, and the address without it."""

    label: str
    value: str
    without: str


@dataclass(frozen=True)
class Head:
    """A column's head."""

    column: Column
    url: str
    direction: str


@dataclass(frozen=True)
class Sort:
    """An order that can be chosen where a narrow window shows no heads: `value` as the address has it."""

    value: str
    label: str
    chosen: bool


@dataclass
class ListPage:
    """What parts/list.html draws."""

    id: str
    path: str
    rows: list[Any]
    total: int | None
    first: int
    heads: list[Head]
    columns: tuple[Column, ...]
    sorts: list[Sort]
    shown: frozenset[str]
    menus: list[tuple[FilterMenu, list[str]]]
    chips: list[Chip]
    search: str
    kept: list[tuple[str, str]]
    next_url: str
    previous_url: str
    first_url: str
    query: str
    error: str = ""
    cure: str = ""
    searchable: bool = True
    search_words: str = gettext_noop("Search")
    selectable: bool = False
    row_template: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def last(self) -> int:
        """The number of the last row that is shown."""
        return self.first + len(self.rows) - 1

    @property
    def is_filtered(self) -> bool:
        """Whether a filter or a search hides rows."""
        return bool(self.chips or self.search)

    @property
    def width(self) -> int:
        """The number of columns that are drawn."""
        return len(self.heads) + (1 if self.selectable else 0)


class _Query:
    """As much of a REST request as a Listing reads."""

    def __init__(self, request: Any, given: QueryDict, total: bool) -> None:
        self.query_params = given.copy()
        if total:
            self.query_params["with_total"] = "true"
        self.auth = request.actor
        self.path = request.path


def filled(given: QueryDict) -> QueryDict:
    """The query without empty fields, which a form sends and the API refuses."""
    found = QueryDict(mutable=True)
    for name, values in given.lists():
        texts = [value for value in values if value.strip()]
        if texts:
            found.setlist(name, texts)
    return found


def read_list(
    request: Any,
    rows: QuerySet[Any],
    listing: Listing,
    columns: Iterable[Column],
    *,
    id: str,
    row_template: str,
    menus: Iterable[FilterMenu] = (),
    search_words: str = "Search",
    selectable: bool = False,
    total: bool = True,
    **extra: Any,
) -> ListPage:
    """Filter, order and cut `rows` as the address says. `rows` is already what the actor may see, in this vault.

    `id` names the list for remembering columns and for saved views; `row_template` draws one <tr> from `row`, `list` and `list.extra`.
    """
    given = filled(request.GET)
    names = {f.name for f in listing.filters}
    columns = tuple(columns)
    shown = _columns(request, given, columns, id)
    known = QueryDict(mutable=True)
    for name, values in given.lists():
        if name in names or name in ("cursor", "ordering", "limit"):
            known.setlist(name, [value.strip() for value in values])
    found_rows: list[Any] = []
    next_cursor, previous_cursor, count, error, cure = None, None, None, "", ""
    try:
        asked: Any = _Query(request, known, total)
        found = paginate(asked, rows, listing, backwards="back" in given)
        found_rows, next_cursor, count = found.rows, found.next_cursor, found.total
        previous_cursor = found.previous_cursor
    except ApiError as refused:
        error = str(refused).removeprefix("Query parameter ")
        cure = gettext("Take the filter away, or correct it in the address.")
    at = given.get("at", "")
    start = int(at) if at.isascii() and at.isdigit() and len(at) < 9 and previous_cursor else 0
    limit = given.get("limit", "")
    size = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 5 else listing.default_limit
    menu_list = [(_spoken(menu), given.getlist(menu.name)) for menu in menus if menu.name in names]
    ordering = given.get("ordering", listing.default_ordering)
    return ListPage(
        id=id,
        path=request.path,
        rows=found_rows,
        total=count,
        first=start + 1,
        heads=[_head(given, column, ordering, listing) for column in columns if column.name in shown],
        columns=columns,
        sorts=_sorts(columns, ordering, listing),
        shown=shown,
        menus=menu_list,
        chips=_chips(given, names, {menu.name: menu for menu, _ in menu_list}),
        search=given.get("search", ""),
        kept=[(n, v) for n, vs in given.lists() if n in names | {"ordering"} for v in vs],
        next_url=_with(given, cursor=next_cursor, at=str(start + len(found_rows)), back=None)
        if next_cursor
        else "",
        previous_url=_with(given, cursor=previous_cursor, at=str(max(0, start - size)), back="1")
        if previous_cursor
        else "",
        first_url=_with(given, cursor=None, at=None, back=None) if "cursor" in given else "",
        query=_with(given, cursor=None, at=None, back=None, restore=None).removeprefix("?"),
        error=error,
        cure=cure,
        searchable="search" in names,
        search_words=gettext(search_words),
        selectable=selectable,
        row_template=row_template,
        extra=extra,
    )


def list_page(
    request: Any, template: str, found: ListPage, context: dict[str, Any] | None = None
) -> HttpResponse:
    """Render the page that holds a list; only the list when htmx asks for it."""
    values = {"list": found, **(context or {})}
    return page(
        request, template, values, part=("list", "parts/list.html"), status=400 if found.error else 200
    )


def _with(given: QueryDict, **changes: str | None) -> str:
    query = given.copy()
    for name, value in changes.items():
        if value is None:
            query.pop(name, None)
        else:
            query[name] = value
    return f"?{query.urlencode()}"


def _head(given: QueryDict, column: Column, ordering: str, listing: Listing) -> Head:
    if not column.ordering or column.ordering not in listing.orderings:
        return Head(column, "", "")
    now = {column.ordering: "ascending", f"-{column.ordering}": "descending"}.get(ordering, "")
    then = f"-{column.ordering}" if now == "ascending" else column.ordering
    return Head(column, _with(given, ordering=then, cursor=None, at=None, back=None), now)


def _sorts(columns: tuple[Column, ...], ordering: str, listing: Listing) -> list[Sort]:
    """Both directions of every column that can be sorted by, shown or not; the order in force is always among them."""
    found = []
    for column in columns:
        if column.ordering and column.ordering in listing.orderings:
            for value, words in (
                (column.ordering, gettext("%(column)s, ascending")),
                (f"-{column.ordering}", gettext("%(column)s, descending")),
            ):
                found.append(Sort(value, words % {"column": gettext(column.label)}, value == ordering))
    if found and not any(each.chosen for each in found):
        found.insert(0, Sort(ordering, gettext("Usual order"), True))
    return found


def _spoken(menu: FilterMenu) -> FilterMenu:
    """In the reader's language; names that people gave stay as they are."""
    options = menu.options if menu.names else tuple((value, gettext(label)) for value, label in menu.options)
    return replace(menu, label=gettext(menu.label), options=options)


def _chips(given: QueryDict, names: set[str], menus: dict[str, FilterMenu]) -> list[Chip]:
    found = []
    for name, values in given.lists():
        if name not in names or name == "search":
            continue
        menu = menus.get(name)
        labels = dict(menu.options) if menu is not None else {}
        label = menu.label if menu is not None else name.replace("_", " ").capitalize()
        for value in values:
            without = given.copy()
            left = [other for other in values if other != value]
            if left:
                without.setlist(name, left)
            else:
                without.pop(name, None)
            without.pop("cursor", None)
            without.pop("at", None)
            without.pop("back", None)
            found.append(Chip(label, labels.get(value, value), f"?{without.urlencode()}"))
    return found


def _columns(request: Any, given: QueryDict, columns: tuple[Column, ...], id: str) -> frozenset[str]:
    """Chosen in the address, else as chosen last in this session, else as the page proposes."""
    names = {column.name for column in columns}
    always = {column.name for column in columns if column.always}
    remembered: dict[str, list[str]] = request.session.get("columns", {})
    if "columns" in given:
        chosen = [name for name in given.getlist("columns") if name in names]
        if remembered.get(id) != chosen:
            request.session["columns"] = {**remembered, id: chosen}
    else:
        chosen = [name for name in remembered.get(id, []) if name in names]
    if not chosen:
        chosen = [column.name for column in columns if column.shown]
    return frozenset(chosen) | always
