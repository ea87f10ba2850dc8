"""Key sets: list, overview, keys, schedule with its effects, what AWS has of them, dependents, change, delete."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django import forms
from django.conf import settings
from django.db.models import Count
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys import naming
from cloudkeys.api.key_sets import LISTING
from cloudkeys.models import AwsStoreLink, CloudKey, KeySet, Operation, XksCredential, XksKeyStore
from cloudkeys.schedules import parse_expiration, parse_schedule
from cloudkeys.services import drafts, key_sets
from cloudkeys.services.effects import key_set_deletion, schedule_effects
from cloudkeys.services.protection import protections_of
from cloudkeys.services.trial import simulator_offered, trial_account
from cloudkeys.services.wizard import (
    PROTECTIONS,
    console_steps,
    console_steps_of,
    expiration_words,
    schedule_words,
)
from cloudkeys.web.cloud_keys import ROWS
from cloudkeys.web.csp_accounts import explain_schedule, group_choices
from cloudkeys.web.key_set_protection import protection_tab
from cloudkeys.web.key_set_wizard import HELP, show_created
from cloudkeys.web.progress import progress_of
from cloudkeys.web.schedules import ExpirationFields, RotationFields, expiration_initial, rotation_initial
from vault.errors import NotFound
from vault.models import Vault
from vault.permissions import Permission
from vault.web.forms import ConfirmForm, Difference, PageForm, confirm, submit
from vault.web.frame import Can, can, done, page, partial, vault_page
from vault.web.lists import Column, FilterMenu, list_page, read_list

VIEW, MANAGE = Permission.KEY_SETS_VIEW, Permission.KEY_SETS_MANAGE
TABS = {
    "overview": gettext_noop("Overview"),
    "keys": gettext_noop("Keys"),
    "schedule": gettext_noop("Schedule"),
    "protection": gettext_noop("Protection"),
    "aws": gettext_noop("AWS key stores"),
    "dependents": gettext_noop("Dependents"),
}
COLUMNS = (
    Column("name", gettext_noop("Name"), ordering="name", always=True),
    Column("account", gettext_noop("CSP account")),
    Column("store", gettext_noop("External key store")),
    Column("keys", gettext_noop("Keys"), num=True),
    Column("rotation", gettext_noop("Rotation")),
    Column("expiry", gettext_noop("Expiry"), shown=False),
    Column("protection", gettext_noop("Protection")),
    Column("group", gettext_noop("Admin group"), shown=False),
    Column("created", gettext_noop("Created"), ordering="created_at"),
    Column("id", gettext_noop("Id"), shown=False),
)
MENUS = (
    FilterMenu(
        "external_key_store",
        gettext_noop("External key store"),
        (("true", gettext_noop("Used as external key store")), ("false", gettext_noop("Not"))),
        many=False,
    ),
    FilterMenu(
        "protection",
        gettext_noop("Protection"),
        tuple((str(v), str(label)) for v, label in KeySet.Protection.choices),
    ),
)
KEY_COLUMNS = (
    Column("name", gettext_noop("Name"), ordering="name", always=True),
    Column("state", gettext_noop("State"), ordering="state"),
    Column("pointer", gettext_noop("In AWS")),
    Column("region", gettext_noop("Region")),
    Column("rotation", gettext_noop("Next rotation"), ordering="next_rotation_at"),
    Column("schedule", gettext_noop("Schedule")),
    Column("created", gettext_noop("Created"), ordering="created_at", shown=False),
)
KEY_MENUS = (
    FilterMenu(
        "state", gettext_noop("State"), tuple((str(v), str(label)) for v, label in CloudKey.State.choices)
    ),
    FilterMenu(
        "pointer_state",
        gettext_noop("In AWS"),
        tuple((str(v), str(n)) for v, n in CloudKey.PointerState.choices),
    ),
)


def _living_keys(rows: Iterable[KeySet]) -> dict[UUID, int]:
    """How many keys of these sets are not destroyed. Counted for the sets shown only, by an index alone."""
    return dict(
        CloudKey.objects.filter(key_set__in=[row.pk for row in rows], kind=CloudKey.Kind.USER)
        .exclude(state=CloudKey.State.DESTROYED)
        .order_by()
        .values_list("key_set")
        .annotate(number=Count("*"))
    )


def _url(name: str, vault: Vault, **more: Any) -> str:
    return reverse(name, kwargs={"vault_id": vault.pk, **more})


def _tab_url(vault: Vault, row: KeySet, tab: str) -> str:
    if tab == "overview":
        return _url("key-set", vault, key_set_id=row.pk)
    return _url("key-set-tab", vault, key_set_id=row.pk, tab=tab)


def _fetch(request: Any, vault: Vault, key_set_id: UUID, permission: Permission = VIEW) -> KeySet:
    row: KeySet = request.actor.fetch(KeySet, key_set_id, permission)
    if row.vault_id != vault.pk:
        raise NotFound("There is no such key set in this vault.")
    return row


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_set_list(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/key-sets/"""
    rows = (
        request.actor.visible(KeySet)
        .filter(vault=vault)
        .select_related("csp_account", "group", "xks_key_store")
        .prefetch_related("xks_key_store__links")
    )
    allowed = can(request.actor, MANAGE, vault)
    no_account = not vault.csp_accounts.exists()  # type: ignore[attr-defined]
    may_try = (
        no_account
        and simulator_offered()
        and request.actor.may(Permission.CSP_ACCOUNTS_MANAGE, vault)
        and trial_account(vault) is None
    )
    found = read_list(
        request,
        rows,
        LISTING,
        COLUMNS,
        id="key-sets",
        row_template="cloudkeys/key_sets/row.html",
        menus=MENUS,
        search_words=gettext("Search name or description"),
        empty_template="cloudkeys/key_sets/empty.html",
        can_add=allowed,
        new_url=_url("key-set-new", vault),
        no_account=no_account,
        offer_trial=may_try,
    )
    living = _living_keys(found.rows)
    for row in found.rows:
        row.living = living.get(row.pk, 0)
        row.rotation_words = schedule_words(parse_schedule(row.rotation_schedule))
        row.expiry_words = expiration_words(parse_expiration(row.expiration))
    begun = drafts.open_drafts(request.actor, vault) if allowed else []
    return list_page(
        request,
        "cloudkeys/key_sets/list.html",
        found,
        {"help": HELP, "can_add": allowed, "drafts": begun},
    )


# --- one key set ----------------------------------------------------------------------------------------------------


def _context(request: Any, vault: Vault, row: KeySet, tab: str) -> dict[str, Any]:
    store = XksKeyStore.objects.filter(key_set=row).first()
    return {
        "row": row,
        "tab": tab,
        "store": store,
        "account": row.csp_account,
        "tabs": [
            (label, _tab_url(vault, row, name), name == tab)
            for name, label in TABS.items()
            if name != "aws" or store is not None
        ],
        "can_manage": can(request.actor, MANAGE, row),
        "help": HELP,
    }


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_set_detail(request: Any, vault: Vault, key_set_id: UUID) -> HttpResponse:
    """GET /v/<id>/key-sets/<id>/"""
    row = _fetch(request, vault, key_set_id)
    context = _context(request, vault, row, "overview")
    counts = (
        CloudKey.objects.filter(key_set=row, kind=CloudKey.Kind.USER)
        .order_by()
        .values("state")
        .annotate(number=Count("*"))
        .values_list("state", "number")
    )
    store: XksKeyStore | None = context["store"]
    context.update(
        counts=sorted(counts, key=lambda pair: list(CloudKey.State.values).index(pair[0])),
        schedule=schedule_words(parse_schedule(row.rotation_schedule)),
        expiry=expiration_words(parse_expiration(row.expiration)),
        protection=PROTECTIONS[row.protection],
        standing=protections_of(row),
    )
    if store is not None:
        context["links"] = list(store.links.order_by("region"))
        context["credentials"] = store.credentials.filter(state=XksCredential.State.ACTIVE).count()
        context["path"] = store.path_prefix + naming.XKS_API_PATH
    return page(request, "cloudkeys/key_sets/overview.html", context)


@vault_page(VIEW)
def key_set_tab(request: Any, vault: Vault, key_set_id: UUID, tab: str) -> HttpResponse:
    """GET /v/<id>/key-sets/<id>/<tab>/; POST saves the schedule or the protection on its tab."""
    row = _fetch(request, vault, key_set_id)
    views = {
        "keys": _keys,
        "schedule": _schedule,
        "protection": _protection,
        "aws": _aws,
        "dependents": _dependents,
    }
    if tab not in views:
        raise NotFound("There is no such part of this page.")
    return views[tab](request, vault, row)


def _keys(request: Any, vault: Vault, row: KeySet) -> HttpResponse:
    rows = request.actor.visible(CloudKey).filter(vault=vault, key_set=row, kind=CloudKey.Kind.USER)
    found = read_list(
        request,
        rows,
        ROWS,
        KEY_COLUMNS,
        id="key-set-keys",
        row_template="cloudkeys/key_sets/key_row.html",
        menus=KEY_MENUS,
        search_words=gettext("Part of the name, or a whole id"),
        empty_template="cloudkeys/key_sets/keys_empty.html",
    )
    return list_page(
        request,
        "cloudkeys/key_sets/keys.html",
        found,
        _context(request, vault, row, "keys"),
    )


class ScheduleForm(RotationFields, ExpirationFields):
    """The default of the set's keys."""


class KeySetForm(PageForm):
    """What a key set is called, and who looks after it."""

    name = forms.CharField(max_length=100)
    description = forms.CharField(max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": "2"}))
    group = forms.ChoiceField(
        required=False,
        label=gettext_lazy("Admin group"),
        help_text=gettext_lazy("Cloud admins outside this group can look, but change nothing."),
    )

    def __init__(self, *args: Any, vault: Vault, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["group"].choices = group_choices(vault)  # type: ignore[attr-defined]


def _schedule(request: Any, vault: Vault, row: KeySet) -> HttpResponse:
    zone = getattr(request.user, "time_zone", "") or "UTC"
    initial = {
        "revision": row.revision,
        **rotation_initial(row.rotation_schedule, zone),
        **expiration_initial(row.expiration),
    }
    form = ScheduleForm(request.POST or None, initial=initial)
    if request.method == "POST":
        request.actor.require(MANAGE, row)

        def work(values: dict[str, Any]) -> KeySet:
            changes = {"rotation_schedule": form.rotation_schedule(), "expiration": form.expiration()}
            return key_sets.update_key_set(request.actor, row.pk, changes, expected_revision=form.expected)

        if submit(request, form, work, target=row) is not None:
            return done(
                request,
                _tab_url(vault, row, "schedule"),
                gettext("Saved. Keys without dates of their own follow at once."),
            )
        explain_schedule(form, row)
        if form.stale is not None and form.is_valid():
            fresh = KeySet.objects.get(pk=row.pk)
            theirs = expiration_words(parse_expiration(fresh.expiration))
            yours = expiration_words(parse_expiration(form.expiration()))
            if theirs != yours:
                form.stale = (*form.stale, Difference(gettext("Expiry"), theirs, yours))
    right = form.is_bound and not form.errors
    context = {
        **_context(request, vault, row, "schedule"),
        "form": form,
        "effects": schedule_effects(
            request.actor,
            row.pk,
            rotation_schedule=form.rotation_schedule() if right else None,
            expiration=form.expiration() if right else None,
        ),
        "schedule": schedule_words(parse_schedule(row.rotation_schedule)),
        "expiry": expiration_words(parse_expiration(row.expiration)),
    }
    return page(request, "cloudkeys/key_sets/schedule.html", context, status=form.status)


@vault_page(VIEW, methods=("GET",))
def key_set_effects(request: Any, vault: Vault, key_set_id: UUID) -> HttpResponse:
    """GET .../effects/?...: which keys would follow what is typed, for htmx."""
    row = _fetch(request, vault, key_set_id)
    form = ScheduleForm(request.GET)
    context: dict[str, Any] = {"row": row, "wrong": not form.is_valid()}
    if not context["wrong"]:
        rotation, expiration = form.rotation_schedule(), form.expiration()
        context["effects"] = schedule_effects(
            request.actor, row.pk, rotation_schedule=rotation, expiration=expiration
        )
        context["schedule"] = schedule_words(parse_schedule(rotation))
        context["expiry"] = expiration_words(parse_expiration(expiration))
    return partial(request, "cloudkeys/key_sets/effects.html", context)


def _protection(request: Any, vault: Vault, row: KeySet) -> HttpResponse:
    return protection_tab(request, vault, row, _context(request, vault, row, "protection"))


def _aws(request: Any, vault: Vault, row: KeySet) -> HttpResponse:
    """What there is in AWS: one link at a time, ?region=; for one that a person makes, the console's steps."""
    context = _context(request, vault, row, "aws")
    store: XksKeyStore | None = context["store"]
    if store is None:
        raise NotFound("This key set is not used as external key store.")
    request.actor.require(Permission.XKS_STORES_VIEW, row)
    links = list(store.links.order_by("region"))
    wanted = request.GET.get("region", "")
    link = next((each for each in links if each.region == wanted), links[0] if links else None)
    base = _tab_url(vault, row, "aws")
    context["links"], context["link"] = links, link
    context["region_tabs"] = [(each, f"{base}?region={each.region}", each is link) for each in links]
    if link is None:
        context["steps"] = console_steps(
            name=row.name, region="<region>", endpoint=_endpoint(), uri_path=store.path_prefix + naming.XKS_API_PATH,
            access_key_id=_access_key_id(store),
        )  # fmt: skip
        return page(request, "cloudkeys/key_sets/aws.html", context)
    if link.linked:
        work = _latest(request, link)
        if work is not None:
            context["progress"] = progress_of(
                work,
                _url("key-set-progress", vault, key_set_id=row.pk, operation_id=work.pk),
                gettext("%(name)s in %(region)s") % {"name": link.name, "region": link.region},
            )
    else:
        context.update(_steps(request, link, base))
    return page(request, "cloudkeys/key_sets/aws.html", context)


def _steps(request: Any, link: AwsStoreLink, base: str) -> dict[str, Any]:
    """The console's steps as the link says, or, to compare, of the other way: ?way=."""
    ways = AwsStoreLink.Connectivity
    way = request.GET.get("way", link.connectivity)
    way = way if way in ways.values else link.connectivity
    if way == link.connectivity:
        steps = console_steps_of(request.actor, link.pk)
    else:
        steps = console_steps(
            name=link.name,
            region=link.region,
            endpoint=link.endpoint,
            uri_path=link.store.path_prefix + naming.XKS_API_PATH,
            access_key_id=_access_key_id(link.store),
            connectivity=way,
            custom_key_store_id=link.custom_key_store_id,
        )
    tabs = [
        (str(label), f"{base}?region={link.region}&way={value}", value == way)
        for value, label in ways.choices
    ]
    return {"steps": steps, "way_tabs": tabs, "other_way": way != link.connectivity}


def _endpoint() -> str:
    return str(settings.KEYSTEAD_XKS_PUBLIC_ENDPOINT)


def _access_key_id(store: XksKeyStore) -> str:
    found = store.credentials.filter(state=XksCredential.State.ACTIVE).order_by("-created_at").first()
    return found.access_key_id if found is not None else ""


def _latest(request: Any, link: AwsStoreLink) -> Operation | None:
    # A mere look at AWS hides neither the making nor what failed of it.
    rows = request.actor.visible(Operation).filter(target_id=link.pk).exclude(kind="store_link.refresh")
    found: Operation | None = rows.order_by("-created_at").first()
    return found


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_set_progress(request: Any, vault: Vault, key_set_id: UUID, operation_id: UUID) -> HttpResponse:
    """GET .../progress/<id>/: the work on an AWS key store of this set, for htmx."""
    row = _fetch(request, vault, key_set_id)
    operation = request.actor.visible(Operation).filter(pk=operation_id).first()
    link = (
        AwsStoreLink.objects.filter(store__key_set=row, pk=operation.target_id).first() if operation else None
    )
    if operation is None or link is None:
        raise NotFound("There is no such operation, or it is not yours.")
    title = gettext("%(name)s in %(region)s") % {"name": link.name, "region": link.region}
    response = partial(
        request, "parts/progress.html", {"progress": progress_of(operation, request.path, title)}
    )
    if operation.state not in Operation.UNFINISHED:
        response["HX-Refresh"] = "true"  # the page's head and tabs tell the new state too
    return response


def _dependents(request: Any, vault: Vault, row: KeySet) -> HttpResponse:
    context = _context(request, vault, row, "dependents")
    context["end"] = key_set_deletion(request.actor, row.pk)
    context["can_delete"] = (
        Can(False, gettext("Something still hangs on it."))
        if context["end"].obstacles
        else context["can_manage"]
    )
    return page(request, "cloudkeys/key_sets/dependents.html", context)


# --- changes --------------------------------------------------------------------------------------------------------


@vault_page(MANAGE)
def key_set_edit(request: Any, vault: Vault, key_set_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/key-sets/<id>/edit/"""
    row = _fetch(request, vault, key_set_id, MANAGE)
    initial = {
        "name": row.name,
        "description": row.description,
        "group": str(row.group_id or ""),
        "revision": row.revision,
    }
    form = KeySetForm(request.POST or None, vault=vault, initial=initial)
    back = _tab_url(vault, row, "overview")
    if request.method == "POST":

        def work(values: dict[str, Any]) -> KeySet:
            values["group"] = UUID(values["group"]) if values["group"] else None
            return key_sets.update_key_set(request.actor, row.pk, values, expected_revision=form.expected)

        if submit(request, form, work, target=row) is not None:
            return done(request, back, gettext("Saved."))
        if form.stale is not None:
            form.stale = tuple(each for each in form.stale if each.label != "Admin group")
    context = {"form": form, "row": row, "back": back, "help": HELP}
    return page(request, "cloudkeys/key_sets/edit.html", context, status=form.status)


@vault_page(MANAGE)
def key_set_use(request: Any, vault: Vault, key_set_id: UUID) -> HttpResponse:
    """GET, POST .../use-as-external-key-store/: its answer shows the credential, so it is a page and no dialog."""
    row = _fetch(request, vault, key_set_id, MANAGE)
    form = PageForm(request.POST or None, initial={"revision": row.revision})
    back = _tab_url(vault, row, "overview")
    if request.method == "POST":
        made = submit(
            request,
            form,
            lambda values: key_sets.use_as_external_key_store(
                request.actor, row.pk, expected_revision=form.expected
            ),
            target=row,
        )
        if made is not None:
            return show_created(request, vault, made)
    context = {"form": form, "row": row, "back": back, "help": HELP}
    return page(request, "cloudkeys/key_sets/use.html", context, status=form.status)


@vault_page(MANAGE)
def key_set_delete(request: Any, vault: Vault, key_set_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/key-sets/<id>/delete/"""
    row = _fetch(request, vault, key_set_id, MANAGE)
    end = key_set_deletion(request.actor, row.pk)
    form = ConfirmForm(request.POST or None, reason="", typed=row.name, initial={"revision": row.revision})
    if request.method == "POST":

        def work(values: dict[str, Any]) -> bool:
            key_sets.delete_key_set(request.actor, row.pk, expected_revision=form.expected)
            return True

        if submit(request, form, work, target=row):
            return done(
                request, _url("key-sets", vault), gettext("Key set %(name)s is deleted.") % {"name": row.name}
            )
    consequences = [("triangle-alert", words) for words in end.consequences]
    consequences.append(("scroll-text", gettext("What was done with it stays in the audit record.")))
    return confirm(
        request,
        form,
        title=gettext("Delete %(name)s?") % {"name": row.name},
        words=gettext(
            "A key set can be deleted when all its keys are destroyed and AWS has none of its key stores."
        ),
        consequences=consequences,
        button=gettext("Delete key set"),
        cancel=_tab_url(vault, row, "overview"),
        danger=True,
        template="cloudkeys/confirm_obstacles.html",
        obstacles=end.obstacles,
        obstacle_links=[(gettext("Its keys"), _tab_url(vault, row, "keys"))] if end.living_keys else [],
    )
