"""External key stores: the list, a store with its regions and nodes, block and unblock, its traffic and its limits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.db.models import Count, Max, Min, OuterRef, Q, Subquery
from django.http import HttpResponse
from django.utils import timezone
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys.api.stores import STORES
from cloudkeys.models import AwsStoreLink, CloudKey, Operation, XksCredential, XksKeyStore
from cloudkeys.naming import XKS_API_PATH
from cloudkeys.providers.connection_errors import Reason, cause_and_cure
from cloudkeys.services import stores
from cloudkeys.web.progress import progress_of
from vault.actions import Action
from vault.generations import Confirmation, bound_of, counted_workers, current_generation, wait_for_generation
from vault.models import Vault, WorkerProcess
from vault.permissions import Permission
from vault.services.confirmations import confirm_switch
from vault.web import charts
from vault.web.forms import ConfirmForm, PageForm, confirm, submit
from vault.web.frame import Can, can, done, page, partial, vault_page
from vault.web.lists import Column, FilterMenu, list_page, read_list
from vault.web.vaults import confirmation_words
from xks.models import DoctorReport
from xks.services import limits
from xks.services.requests import SPANS, Course, traffic_of_store, traffic_of_vault
from xks.web.store_frame import find_store, is_simulated, store_context, store_state, store_url

VIEW = Permission.XKS_STORES_VIEW
MOST_UNLINKED = 20
COLUMNS = (
    Column("name", gettext_noop("Key set"), ordering="key_set", always=True),
    Column("connection", gettext_noop("Connection in AWS")),
    Column("path", gettext_noop("Path")),
    Column("credentials", gettext_noop("Live credentials"), num=True),
    Column("used", gettext_noop("Last used")),
    Column("doctor", gettext_noop("Doctor")),
    Column("created", gettext_noop("Created"), ordering="created_at", shown=False),
    Column("id", gettext_noop("Id"), shown=False),
)
MENUS = (
    FilterMenu(
        "blocked",
        gettext_noop("Blocked"),
        (("true", gettext_noop("Blocked")), ("false", gettext_noop("Not blocked"))),
        many=False,
    ),
)
HELP = {
    "title": gettext_noop("What an external key store is"),
    "words": (
        (
            gettext_noop(
                "The face that a key set shows to AWS KMS: an endpoint with a path and credentials. AWS calls it for every use of a key, "
                "so that the keys themselves never leave Keystead."
            )
        ),
        (
            gettext_noop(
                "In each AWS region it has a key store of its own. Linked: Keystead makes, connects and updates it. Not linked: you do, in "
                "the AWS console, and can link it later."
            )
        ),
    ),
    "links": (
        (gettext_noop("XKS credentials"), "credentials"),
        (gettext_noop("Access rules and limits"), "access-rules"),
        (gettext_noop("The doctor"), "doctor"),
    ),
}


@dataclass(frozen=True)
class StoreRow:
    """What the list tells of a store beside its columns."""

    state: str
    simulated: bool
    links: tuple[AwsStoreLink, ...]


@vault_page(VIEW, methods=("GET", "HEAD"))
def store_list(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/stores/"""
    live = Q(credentials__state=XksCredential.State.ACTIVE)
    rows = (
        request.actor.visible(XksKeyStore)
        .filter(vault=vault)
        .select_related("vault", "key_set__csp_account")
        .prefetch_related("links")
        .annotate(
            live=Count("credentials", filter=live, distinct=True),
            oldest=Min("credentials__created_at", filter=live),
            used=Max("credentials__regions__last_used_at"),
            doctor=Subquery(DoctorReport.objects.filter(store=OuterRef("pk")).values("severity")[:1]),
            doctor_at=Subquery(DoctorReport.objects.filter(store=OuterRef("pk")).values("examined_at")[:1]),
        )
    )
    found = read_list(
        request,
        rows,
        STORES,
        COLUMNS,
        id="xks-stores",
        row_template="xks/stores/row.html",
        menus=MENUS,
        search_words=gettext("Search key set or path"),
        empty_title=gettext("No external key store yet"),
        empty_words=gettext(
            "One is made with a key set that is used as external key store. AWS KMS then calls it for every "
            "use of its keys."
        ),
        empty_url=_url_or_nothing("key-set-create", vault),
        empty_button=gettext("Create key set"),
    )
    for row in found.rows:
        links = tuple(row.links.all())
        row.told = StoreRow(store_state(row, list(links)), is_simulated(row), links)
    return list_page(request, "xks/stores/list.html", found, {"help": HELP})


def _url_or_nothing(name: str, vault: Vault) -> str:
    from vault.templatetags.keystead import vault_url

    return str(vault_url(name, vault))


# --- one store ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LinkCard:
    """An AWS key store with what is under way and, when AWS could not connect, why."""

    link: AwsStoreLink
    reason: Reason | None
    progress: dict[str, Any] | None
    busy: bool
    can_connect: Can
    can_disconnect: Can
    can_delete: Can
    keys: int


@dataclass(frozen=True)
class NodeRow:
    """One node as this store meets it."""

    name: str
    workers: int
    confirmed: int
    last_seen_at: datetime
    bound_s: float


@vault_page(VIEW, methods=("GET", "HEAD"))
def store_detail(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET /v/<id>/stores/<store>/"""
    store = find_store(request, vault, store_id)
    cards = _cards(request, store)
    unlinked = store.cloud_keys.filter(
        kind=CloudKey.Kind.USER, pointer_state=CloudKey.PointerState.NOT_LINKED
    ).exclude(state=CloudKey.State.DESTROYED)
    generation = request.GET.get("generation", "")
    context = {
        **store_context(request, store, "xks-store", [card.link for card in cards]),
        "cards": cards,
        "live": any(card.busy for card in cards),
        "nodes": _nodes(),
        "unlinked": list(unlinked.order_by("name")[: MOST_UNLINKED + 1]),
        "most_unlinked": MOST_UNLINKED,
        "can_link_keys": can(request.actor, Permission.CLOUD_KEYS_UPDATE, vault),
        "staleness": store.max_staleness_s or settings.KEYSTEAD_XKS_MAX_STALENESS,
        **_confirmation(generation),
        "help": HELP,
    }
    return page(request, "xks/stores/detail.html", context, part=("links", "xks/stores/links.html"))


@vault_page(VIEW, methods=("GET", "HEAD"))
def store_confirmation(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET /v/<id>/stores/<store>/confirmation/?generation="""
    store = find_store(request, vault, store_id)
    return partial(
        request,
        "xks/stores/confirmation.html",
        {"store": store, **_confirmation(request.GET.get("generation", ""))},
    )


def _confirmation(text: str) -> dict[str, Any]:
    """How far a change has got by now, when the address asks for one."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        return {"confirmation": None}
    found = wait_for_generation(int(text), timeout_s=0)
    words = gettext("Confirmed by %(confirmed)s of %(counted)s workers: every node acts on it.") % {
        "confirmed": found.confirmed,
        "counted": found.counted,
    }
    return {"confirmation": found, "words": words, "generation": text}


def _cards(request: Any, store: XksKeyStore) -> list[LinkCard]:
    last = Operation.objects.filter(target_id=OuterRef("pk")).order_by("-created_at").values("pk")[:1]
    running = (
        Operation.objects.filter(target_id=OuterRef("pk"), state__in=Operation.UNFINISHED)
        .order_by("created_at")
        .values("pk")[:1]
    )
    keys = Count(
        "cloud_keys",
        filter=~Q(cloud_keys__state=CloudKey.State.DESTROYED) & Q(cloud_keys__kind=CloudKey.Kind.USER),
    )
    links = list(
        store.links.annotate(last=Subquery(last), running=Subquery(running), keys=keys).order_by("region")
    )
    operations = Operation.objects.in_bulk({pk for link in links for pk in (link.last, link.running) if pk})
    found = []
    for link in links:
        operation = operations.get(link.running) or operations.get(link.last)
        failed = operation is not None and operation.state == Operation.State.FAILED
        shown = operation if operation is not None and (link.running or failed) else None
        progress = progress_of(shown, store_url("xks-store", store), id=f"work-{link.pk}") if shown else None
        if progress is not None:
            progress["live"] = False  # the whole part of all regions refreshes itself
        code = link.connection_error_code
        found.append(
            LinkCard(
                link=link,
                reason=cause_and_cure(code)
                if code or (link.state == AwsStoreLink.State.FAILED and link.custom_key_store_id)
                else None,
                progress=progress,
                busy=bool(link.running),
                can_connect=_drives(link, "CONNECTED"),
                can_disconnect=_drives(link, "DISCONNECTED"),
                can_delete=Can(
                    False,
                    gettext("%(keys)s keys here still use it: schedule their deletion first.")
                    % {"keys": link.keys},
                )
                if link.linked and link.keys
                else Can(True),
                keys=link.keys,
            )
        )
    return found


def _drives(link: AwsStoreLink, already: str) -> Can:
    if not link.linked or not link.custom_key_store_id:
        return Can(
            False,
            gettext("Keystead does not drive this key store: do it in the AWS console, or link it first."),
        )
    if link.state == already:
        return Can(
            False,
            gettext("It is %(get_state_display)s already.")
            % {"get_state_display": link.get_state_display().lower()},
        )
    return Can(True)


def _nodes() -> list[NodeRow]:
    generation = current_generation()
    by_node: dict[str, list[WorkerProcess]] = {}
    for worker in counted_workers():
        by_node.setdefault(worker.node.name, []).append(worker)
    return [
        NodeRow(
            name,
            len(workers),
            sum(worker.applied_generation >= generation for worker in workers),
            max(worker.last_seen_at for worker in workers),
            max(bound_of(worker) for worker in workers),
        )
        for name, workers in sorted(by_node.items())
    ]


# --- block and unblock ----------------------------------------------------------------------------------------------


@vault_page(Permission.XKS_STORES_BLOCK)
def store_block(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/block/"""
    store = find_store(request, vault, store_id)
    day = traffic_of_store(request.actor, store.pk, "day").total.requests
    used = (
        gettext("AWS has called it %(day)s times in the last day: all such calls would be refused.")
        % {"day": f"{day:,}"}
        if day
        else gettext("No call was recorded in the last day.")
    )
    return _switch(
        request,
        store,
        Action.XKS_STORE_BLOCK,
        title=gettext("Block %(name)s?") % {"name": store.key_set.name},
        words=gettext("From now on every call for this store is refused on every node, health checks too."),
        consequences=(
            ("activity", used),
            (
                "ban",
                (
                    gettext(
                        "Data under its keys cannot be read as soon as a service asks KMS. Services "
                        "that already hold a data key in memory go "
                        "on until they next ask."
                    )
                ),
            ),
            (
                "cloud",
                gettext("AWS is not told: its key store shows as connected until health checks fail there."),
            ),
            ("users", gettext("Unblocking may need another person's consent.")),
        ),
        button=gettext("Block store"),
        danger=True,
    )


@vault_page(Permission.XKS_STORES_UNBLOCK)
def store_unblock(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/unblock/"""
    store = find_store(request, vault, store_id)
    return _switch(
        request,
        store,
        Action.XKS_STORE_UNBLOCK,
        title=gettext("Unblock %(name)s?") % {"name": store.key_set.name},
        words=gettext("Calls are answered again, each key as its own state says."),
        consequences=(
            (
                "circle-check",
                gettext(
                    "Data becomes readable as soon as the nodes have confirmed, in most cases within a second."
                ),
            ),
            (
                "message-square",
                gettext("It was blocked because: %(value)s.")
                % {"value": store.blocked_reason or "no reason was given"},
            ),
        ),
        button=gettext("Unblock store"),
    )


def _switch(
    request: Any, store: XksKeyStore, action: Action, *, danger: bool = False, **words: Any
) -> HttpResponse:
    back = store_url("xks-store", store)
    form = ConfirmForm(request.POST or None, reason="required" if danger else "optional")
    if request.method == "POST":
        service = stores.block_xks_store if danger else stores.unblock_xks_store
        changed = submit(
            request, form, lambda values: service(request.actor, store.pk, reason=values["reason"])
        )
        if changed is not None:
            row, generation = changed
            confirmation = confirm_switch(request.actor, action, row, generation)
            told = f" {confirmation_words(confirmation)}" if confirmation is not None else ""
            verb = "blocked" if danger else "unblocked"
            return done(
                request,
                f"{back}?generation={generation}",
                gettext("%(name)s is %(verb)s.%(told)s")
                % {"name": store.key_set.name, "verb": verb, "told": told},
            )
    return confirm(request, form, cancel=back, danger=danger, **words)


# --- traffic --------------------------------------------------------------------------------------------------------


@vault_page(VIEW, methods=("GET", "HEAD"))
def store_traffic(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET /v/<id>/stores/<store>/traffic/?span=hour|day"""
    store = find_store(request, vault, store_id)
    span = _span(request)
    course = traffic_of_store(request.actor, store.pk, span)
    context = {
        **store_context(request, store, "xks-store-traffic"),
        **_charts(request, course),
        "requests_url": store_url("xks-store-requests", store),
        "help": HELP,
    }
    return page(request, "xks/stores/traffic.html", context, part=("traffic", "xks/stores/traffic_part.html"))


@vault_page(VIEW, methods=("GET", "HEAD"))
def vault_traffic(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/stores/traffic/?span=hour|day"""
    context = {**_charts(request, traffic_of_vault(request.actor, vault, _span(request))), "help": HELP}
    return page(
        request, "xks/stores/vault_traffic.html", context, part=("traffic", "xks/stores/traffic_part.html")
    )


def _span(request: Any) -> str:
    wanted = request.GET.get("span", "hour")
    return wanted if wanted in SPANS else "hour"


def _charts(request: Any, course: Course) -> dict[str, Any]:
    zone = timezone.get_current_timezone()
    places = [point.at.astimezone(zone) for point in course.points]
    good = charts.Series(gettext("Answered"), [point.requests - point.errors for point in course.points])
    bad = charts.Series(gettext("Refused or failed"), [point.errors for point in course.points])

    def in_ms(us: int | None) -> float | None:
        return None if us is None else us / 1000

    p50 = charts.Series("p50", [in_ms(point.p50_us) for point in course.points])
    p99 = charts.Series("p99", [in_ms(point.p99_us) for point in course.points])
    each = "minute" if course.seconds == 60 else "hour"
    return {
        "span": course.span,
        "spans": [
            ("hour", gettext("Last hour"), course.span == "hour"),
            ("day", gettext("Last day"), course.span == "day"),
        ],
        "course": course,
        "p50_ms": in_ms(course.total.p50_us),
        "p99_ms": in_ms(course.total.p99_us),
        "requests_chart": charts.bars(gettext("Requests by %(each)s") % {"each": each}, places, [good, bad]),
        "latency_chart": charts.lines(
            gettext("Our own time for a request, by %(each)s") % {"each": each}, places, [p50, p99], unit="ms"
        ),
        "part_url": f"{request.path}?span={course.span}",
    }


# --- limits and bounds ----------------------------------------------------------------------------------------------


class RatesForm(PageForm):
    """Requests a second."""

    units = {  # noqa: RUF012
        "requests_per_s": gettext_noop("requests a second"),
        "credential_requests_per_s": gettext_noop("requests a second"),
    }
    requests_per_s = forms.IntegerField(
        required=False,
        min_value=limits.LEAST_PER_S,
        max_value=limits.MOST_PER_S,
        label=gettext_lazy("The store as a whole"),
        help_text=gettext_lazy("For all nodes together. Empty: no limit."),
    )
    credential_requests_per_s = forms.IntegerField(
        required=False,
        min_value=limits.LEAST_PER_S,
        max_value=limits.MOST_PER_S,
        label=gettext_lazy("Each credential"),
        help_text=gettext_lazy("Keeps one caller from using up the whole. Empty: no limit."),
    )


class BoundsForm(PageForm):
    """How long a node serves without news, and whose signatures it takes."""

    units = {"max_staleness_s": "seconds"}  # noqa: RUF012
    max_staleness_s = forms.IntegerField(required=False, min_value=1, label=gettext_lazy("Staleness"))
    allowed_regions = forms.CharField(
        required=False,
        max_length=1000,
        label=gettext_lazy("Accepted signing regions"),
        help_text=gettext_lazy(
            "AWS regions, separated by spaces. A request that is signed for another region is refused. Empty: any."
        ),
    )

    def clean_allowed_regions(self) -> list[str]:
        """Names, whatever stands between them."""
        return str(self.cleaned_data["allowed_regions"]).replace(",", " ").split()


@vault_page(VIEW)
def store_limits(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/limits/"""
    store = find_store(request, vault, store_id)
    row = limits.fetch_store_limits(request.actor, store.pk)
    sent = request.POST.get("what", "") if request.method == "POST" else ""
    rates = RatesForm(
        request.POST if sent == "rates" else None,
        initial={
            "requests_per_s": row.requests_per_s,
            "credential_requests_per_s": row.credential_requests_per_s,
            "revision": row.revision,
        },
        auto_id="rates_%s",
    )
    bounds = BoundsForm(
        request.POST if sent == "bounds" else None,
        initial={
            "max_staleness_s": store.max_staleness_s,
            "allowed_regions": " ".join(store.allowed_regions),
            "revision": store.revision,
        },
        auto_id="bounds_%s",
    )
    most = settings.KEYSTEAD_XKS_MAX_STALENESS
    bounds.fields["max_staleness_s"].help_text = gettext(
        "So long a node goes on serving when it hears nothing new; then it refuses. A disable is sure "
        "to hold after it. Empty: the installation's %(most)s seconds, which is also the most."
    ) % {"most": f"{most:g}"}
    here = store_url("xks-store-limits", store)
    if sent == "rates":
        saved = submit(
            request,
            rates,
            lambda values: limits.update_store_limits(
                request.actor, store.pk, values, expected_revision=rates.expected
            ),
            target=row,
        )
        if saved is not None:
            return done(request, here, gettext("Limits saved. %(told)s") % {"told": _told(saved[1])})
    elif sent == "bounds":
        changed = submit(
            request,
            bounds,
            lambda values: stores.update_xks_store(
                request.actor, store.pk, values, expected_revision=bounds.expected
            ),
            target=store,
        )
        if changed is not None:
            return done(request, here, gettext("Saved."))
    context = {
        **store_context(request, store, "xks-store-limits"),
        "rates": rates,
        "bounds": bounds,
        "limits": row,
        "help": HELP,
    }
    status = max(rates.status, bounds.status)
    return page(request, "xks/stores/limits.html", context, status=status)


def _told(generation: int) -> str:
    confirmation: Confirmation | None = wait_for_generation(generation) if generation else None
    return confirmation_words(confirmation) if confirmation is not None else gettext("Nothing has changed.")


def path_of(store: XksKeyStore) -> str:
    """What AWS is told, behind the endpoint."""
    return store.path_prefix + XKS_API_PATH
