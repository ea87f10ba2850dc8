"""HSMs, for the appliance admin: connections at a glance, members live, what works, keys and dependents, test, PIN, root key.

No page asks an HSM anything: what is shown was written by the keeper (vault/hsm_keeper.py) and by the last test.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_noop, ngettext

from vault.api.listing import Listing, choice, text
from vault.errors import NotFound
from vault.hsm_pins import variable_of
from vault.models import AuditEvent, HsmConnection, HsmKey, HsmKeyPlacement, HsmMember
from vault.permissions import Permission
from vault.services import hsm as service
from vault.web import once
from vault.web.frame import appliance_page, can, page
from vault.web.hsm_profile import documented_of, profile_of
from vault.web.lists import Column, FilterMenu, list_page, read_list
from vault.web.palette import maybe_url

PIN_REFUSED = gettext_noop("PIN refused")
LEVELS = ("danger", "warn", "neutral", "ok")
SEE, MANAGE = Permission.APPLIANCE_VIEW_HSMS, Permission.APPLIANCE_MANAGE_HSMS
TABS = {
    "overview": gettext_noop("Members"),
    "capabilities": gettext_noop("What works"),
    "keys": gettext_noop("Keys and dependents"),
    "audit": gettext_noop("Audit"),
}
MOST_EVENTS = 50
KEY_COLUMNS = (
    Column("key", gettext_noop("Key"), always=True),
    Column("purpose", gettext_noop("For")),
    Column("vault", gettext_noop("Vault")),
    Column("members", gettext_noop("Where it is")),
    Column("replication", gettext_noop("How it got there")),
    Column("created", gettext_noop("Made"), ordering="created_at"),
)
KEY_MENUS = (
    FilterMenu(
        "purpose", gettext_noop("For"), tuple((str(v), str(label)) for v, label in HsmKey.Purpose.choices)
    ),
    FilterMenu(
        "state", gettext_noop("State"), tuple((str(v), str(label)) for v, label in HsmKey.State.choices)
    ),
)
KEYS = Listing(
    orderings={"created_at": "created_at"},
    default_ordering="-created_at",
    filters=(
        choice("purpose", "purpose", HsmKey.Purpose.values, "What the key is for."),
        choice("state", "state", HsmKey.State.values, "State."),
        text(
            "search",
            ("label__icontains", "cka_id__istartswith"),
            "Part of the label, or the beginning of the CKA_ID.",
        ),
    ),
    in_vault=False,
)
NO_KEYS = (0, 0)
PLACED = Coalesce(
    Subquery(
        HsmKeyPlacement.objects.filter(key=OuterRef("pk"))
        .order_by()
        .values("key")
        .annotate(number=Count("pk"))
        .values("number")
    ),
    0,
)
"""On how many members a key is."""
HELP = {
    "title": gettext_noop("What an HSM is for here"),
    "words": (
        (
            gettext_noop(
                "An HSM keeps keys in hardware that does not give them out. It can hold the root key, wrap the keys of a key set, or be "
                "the only place where keys exist; the vault's admins choose for each key set."
            )
        ),
        (
            gettext_noop(
                "Its members hold the same keys, so that one may fail. Each is tried at least once a minute; a member that fails is "
                "left out and comes back by itself."
            )
        ),
        gettext_noop(
            "A PIN is typed once and never shown again. If the HSM refuses it, nobody tries it again until you change it."
        ),
    ),
    "links": (
        (gettext_noop("HSMs: protections, vendors, troubleshooting"), "hsm"),
        (gettext_noop("Threat model"), "threat-model"),
    ),
}


# --- at a glance ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MemberSeen:
    """A member as the pages show it."""

    row: HsmMember
    model: str
    firmware: str
    hosts: list[tuple[str, str, str]]
    """What each host sees, where there are several: (host, level, words)."""


@dataclass(frozen=True)
class HsmSeen:
    """A connection as the pages show it."""

    row: HsmConnection
    members: list[HsmMember]
    serving: int
    level: str
    state_words: str
    detail: str
    latency_ms: float | None
    checked_at: datetime | None
    for_trying: bool
    model: str
    keys: int = 0
    alone: int = 0
    vaults: int = 0


def is_for_trying(members: list[HsmMember], module_path: str) -> bool:
    """Whether it is SoftHSM: by what a member said of itself, or by the module's name while none has spoken."""
    said = [str(each.identity.get("manufacturer", "")) for each in members if each.identity]
    return (
        any("softhsm" in each.lower() for each in said) or "softhsm" in module_path.rsplit("/", 1)[-1].lower()
    )


def look_at(row: HsmConnection, *, keys: int = 0, alone: int = 0, vaults: int = 0) -> HsmSeen:
    """One connection put together; its members are prefetched."""
    members = sorted(row.members.all(), key=lambda each: each.position)  # type: ignore[attr-defined]
    states = HsmMember.State
    good = [each for each in members if each.state == states.ACTIVE]
    fair = [each for each in members if each.state == states.DEGRADED]
    refused = row.needs_pin and any(each.pin_refused_version == row.pin_version for each in members)
    unknown = all(each.state == states.UNKNOWN for each in members)
    worst = next(
        (each for each in members if each.state == states.UNAVAILABLE and each.message), None
    ) or next((each for each in fair if each.message), None)
    detail = f"{worst.token_label or worst.token_serial}: {worst.message}" if worst is not None else ""
    if refused:
        level, words = "danger", PIN_REFUSED
    elif unknown:
        level, words = "neutral", gettext("Not checked yet")
    elif len(good) == len(members):
        level, words = "ok", gettext("All members serve") if len(members) > 1 else gettext("Serves")
    elif good or fair:
        down = len(members) - len(good) - len(fair)
        level = "warn"
        words = (
            gettext("%(down)s of %(members)s members down") % {"down": down, "members": len(members)}
            if down
            else gettext("Look at its members")
        )
    else:
        level, words = "danger", gettext("No member answers")
    latencies = [each.latency_ms for each in good + fair if each.latency_ms is not None]
    checked = [each.checked_at for each in members if each.checked_at is not None]
    return HsmSeen(
        row=row,
        members=members,
        serving=len(good),
        level=level,
        state_words=words,
        detail=detail,
        latency_ms=max(latencies, default=None),
        checked_at=min(checked, default=None),
        for_trying=is_for_trying(members, row.module_path),
        model=", ".join(
            dict.fromkeys(str(each.identity["model"]) for each in members if each.identity.get("model"))
        ),
        keys=keys,
        alone=alone,
        vaults=vaults,
    )


def _all_seen() -> list[HsmSeen]:
    """Every connection. Three queries, however many there are."""
    rows = list(
        HsmConnection.objects.prefetch_related("members")
        .annotate(vault_count=Count("vaults", distinct=True))
        .order_by("name")
    )
    counted = (
        HsmKey.objects.filter(state=HsmKey.State.ACTIVE)
        .annotate(placed=PLACED)
        .order_by()
        .values("connection_id")
        .annotate(number=Count("pk"), alone=Count("pk", filter=Q(placed=1)))
    )
    keys = {each["connection_id"]: (each["number"], each["alone"]) for each in counted}
    return [
        look_at(
            row,
            keys=keys.get(row.pk, NO_KEYS)[0],
            alone=keys.get(row.pk, NO_KEYS)[1] if len(row.members.all()) > 1 else 0,  # type: ignore[attr-defined]
            vaults=row.vault_count,
        )
        for row in rows
    ]


@appliance_page(SEE, methods=("GET", "HEAD"))
def hsm_list(request: Any) -> HttpResponse:
    """GET /appliance/hsms/; the table refreshes itself."""
    found = _all_seen()
    worst = min((LEVELS.index(each.level) for each in found), default=0)
    bad = sum(each.level == "danger" for each in found)
    words = {
        "danger": ngettext("One HSM needs you", "%(count)s HSMs need you", bad) % {"count": bad},
        "warn": gettext("A member is down, or slow"),
        "neutral": gettext("Some were not checked yet"),
        "ok": gettext("Every HSM serves") if len(found) > 1 else gettext("It serves"),
    }
    context = {
        "hsms": found,
        "at_a_glance": {"level": LEVELS[worst], "words": words[LEVELS[worst]]},
        "keeper_alive": service.keeper_alive(),
        "can_manage": can(request.actor, MANAGE),
        "help": HELP,
    }
    return page(request, "vault/hsm/list.html", context, part=("hsms", "vault/hsm/connections.html"))


# --- one connection ---------------------------------------------------------------------------------------------------


def _tab_url(row: HsmConnection, tab: str) -> str:
    return reverse("hsm", args=[row.pk]) if tab == "overview" else reverse("hsm-tab", args=[row.pk, tab])


def _context(request: Any, row: HsmConnection, tab: str) -> dict[str, Any]:
    seen = look_at(row)
    return {
        "row": row,
        "hsm": seen,
        "pin_refused": seen.state_words == PIN_REFUSED,
        "tabs": [(label, _tab_url(row, name), name == tab) for name, label in TABS.items()],
        "can_manage": can(request.actor, MANAGE),
        "test_once": once.new_token(),
        "help": HELP,
    }


def _login_words(row: HsmConnection) -> str:
    if not row.needs_pin:
        return str(row.get_login_display())
    if row.pin_source == HsmConnection.PinSource.STORED:
        return gettext("PIN, kept here, encrypted")
    name = variable_of(row)
    return gettext("PIN, read by each host from %(name)s or the file that %(name)s_FILE names") % {
        "name": name
    }


_LEVEL_OF = {"ACTIVE": "ok", "DEGRADED": "warn", "UNAVAILABLE": "danger"}


def _member(row: HsmMember) -> MemberSeen:
    told = row.identity or {}
    hosts = []
    if len(row.hosts) > 1:
        # With one host its sight is the member's own state.
        for host, sight in sorted(row.hosts.items()):
            state, taken = str(sight.get("state", "")), sight.get("latency_ms")
            words = (gettext("from %(host)s: %(state)s") % {"host": host, "state": state.lower()}) + (
                gettext(", %(taken)s ms") % {"taken": f"{taken:.1f}"}
                if isinstance(taken, int | float)
                else ""
            )
            hosts.append((host, _LEVEL_OF.get(state, "neutral"), words))
    return MemberSeen(row, str(told.get("model", "")), str(told.get("firmware", "")), hosts)


@appliance_page(SEE, methods=("GET", "HEAD"))
def hsm_detail(request: Any, connection_id: UUID) -> HttpResponse:
    """GET /appliance/hsms/<id>/; the members refresh themselves."""
    row = service.view_connection(request.actor, connection_id)
    context = _context(request, row, "overview")
    context.update(
        members=[_member(each) for each in context["hsm"].members],
        vaults=list(row.vaults.all()),
        login_words=_login_words(row),
        routing_words=row.get_routing_display(),
    )
    waiting = row.test_wanted is not None
    context.update(
        waiting=waiting, report=row.test_report, keeper_alive=not waiting or service.keeper_alive()
    )
    part = "test" if request.htmx and request.htmx.target == "test" else "members"
    return page(request, "vault/hsm/overview.html", context, part=(part, f"vault/hsm/{part}.html"))


@appliance_page(SEE, methods=("GET", "HEAD"))
def hsm_tab(request: Any, connection_id: UUID, tab: str) -> HttpResponse:
    """GET /appliance/hsms/<id>/<tab>/"""
    row = service.view_connection(request.actor, connection_id)
    views = {"capabilities": _capabilities, "keys": _keys, "audit": _audit}
    if tab not in views:
        raise NotFound("There is no such part of this page.")
    return views[tab](request, row)


def _capabilities(request: Any, row: HsmConnection) -> HttpResponse:
    context = _context(request, row, "capabilities")
    members = context["hsm"].members
    title, facts, proven = documented_of(members, row.module_path)
    context.update(
        profiles=[profile_of(each) for each in members],
        vendor_title=title,
        documented=facts,
        documented_proven=proven,
    )
    return page(request, "vault/hsm/capabilities.html", context)


_MARKS = {"root": "key-round", "wrapping": "layers", "resident": "cpu"}


def dependents_in_words(row: HsmConnection) -> list[tuple[str, str, str]]:
    """What would be lost or stand still without this HSM: (icon, words, address)."""
    found = []
    for each in sorted(service.dependents_of(row), key=lambda each: each.kind != "root"):
        url = reverse("vault-detail", args=[each.vault_id]) if each.vault_id is not None else ""
        words = f"{each.words[:1].upper()}{each.words[1:]}."
        found.append((_MARKS.get(each.kind, "layers"), words, url))
    return found


def _keys(request: Any, row: HsmConnection) -> HttpResponse:
    context = _context(request, row, "keys")
    members = context["hsm"].members
    rows = HsmKey.objects.filter(connection=row).select_related("vault").annotate(placed=PLACED)
    found = read_list(
        request,
        rows,
        KEYS,
        KEY_COLUMNS,
        id="hsm-keys",
        row_template="vault/hsm/key_row.html",
        menus=KEY_MENUS,
        search_words=gettext("Label or CKA_ID"),
        empty_title=gettext("No key yet"),
        empty_words=gettext(
            "A key is made here when the root key moves in, or a vault makes a key set that an HSM protects."
        ),
    )
    _explain_keys(found.rows, members)
    context["alone"] = rows.filter(state=HsmKey.State.ACTIVE, placed=1).count() if len(members) > 1 else 0
    context["dependents"] = dependents_in_words(row)
    return list_page(request, "vault/hsm/keys.html", found, context)


def _explain_keys(rows: list[Any], members: list[HsmMember]) -> None:
    """Say of each key of the page where it is. One query."""
    holding: dict[UUID, set[UUID]] = {}
    for key_id, member_id in HsmKeyPlacement.objects.filter(key__in=rows).values_list("key_id", "member_id"):
        holding.setdefault(key_id, set()).add(member_id)
    for row in rows:
        on = holding.get(row.pk, set())
        row.purpose_words = row.get_purpose_display()
        row.replication_words = row.get_replication_display()
        row.missing = [each.token_label or each.token_serial for each in members if each.pk not in on]
        row.alone = len(members) > 1 and len(on) == 1
        row.placed_words = (
            (
                gettext("On one member only")
                if row.alone
                else gettext("On %(on)s of %(members)s") % {"on": len(on), "members": len(members)}
                if row.missing
                else gettext("On all members")
            )
            if len(members) > 1
            else (gettext("In the HSM") if on else gettext("Not seen yet"))
        )


def _audit(request: Any, row: HsmConnection) -> HttpResponse:
    context = _context(request, row, "audit")
    request.actor.require(Permission.APPLIANCE_VIEW_AUDIT)
    ids = [str(row.pk), *(str(each.pk) for each in context["hsm"].members)]
    rows = AuditEvent.objects.filter(vault=None, target_id__in=ids).order_by("-sequence")
    events = list(rows[: MOST_EVENTS + 1])
    context["more"] = len(events) > MOST_EVENTS
    context["events"] = [
        {
            "icon": "circle-alert" if event.outcome != AuditEvent.Outcome.SUCCESS else "circle-dot",
            "title": event_words(event),
            "at": event.at,
            "by": event.actor_name,
            "words": event.reason,
            "url": maybe_url("appliance-audit-event", event_id=event.id),
        }
        for event in events[:MOST_EVENTS]
    ]
    return page(request, "vault/hsm/audit.html", context)


def event_words(event: AuditEvent) -> str:
    """vault:hsm_member:state is "HSM member: state", with what it was about."""
    subject, _, verb = event.action.partition(":")[2].partition(":")
    words = (
        f"{subject.replace('_', ' ').replace('hsm', 'HSM').replace('pin', 'PIN')}: {verb.replace('_', ' ')}"
    )
    after = event.after or {}
    state = after.get("state") if isinstance(after, dict) else None
    return (
        f"{words[:1].upper()}{words[1:]}"
        + (f" {str(state).lower()}" if state else "")
        + (f" ({event.target_name})" if event.target_name else "")
    )
