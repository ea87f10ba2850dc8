"""Operations: what runs, waits and failed, each with its steps live, its cause and cure, and what can be done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_noop, ngettext

from cloudkeys.api.operations import LISTING
from cloudkeys.models import CloudKey, Operation
from cloudkeys.operations import KINDS, cancel_operation, require_manage, retry_operation
from cloudkeys.services.bulk import retry_refused
from cloudkeys.web.links import object_url
from cloudkeys.web.progress import progress_of
from vault.errors import Conflict, DomainError, NotFound
from vault.models import Vault
from vault.permissions import Permission
from vault.web.forms import ConfirmForm, confirm, submit
from vault.web.frame import Can, done, page, partial, vault_page
from vault.web.lists import Column, FilterMenu, list_page, read_list
from vault.web.palette import maybe_url

VIEW = Permission.OPERATIONS_VIEW
BULK = ("cloud_keys.bulk", "cloud_keys.csv_create")
PER_PAGE = 100
BULK_WORDS = {
    "disable": gettext_noop("Disable keys"),
    "enable": gettext_noop("Enable keys"),
    "block": gettext_noop("Block keys"),
    "unblock": gettext_noop("Unblock keys"),
    "rotate": gettext_noop("Rotate keys"),
    "retire": gettext_noop("Retire keys"),
    "refresh": gettext_noop("Ask AWS about keys"),
    "update": gettext_noop("Change keys"),
    "tag": gettext_noop("Tag keys"),
    "change_schedule": gettext_noop("Change the keys' schedule"),
    "schedule_deletion": gettext_noop("Schedule keys for deletion"),
    "cancel_deletion": gettext_noop("Cancel the deletion of keys"),
}
COLUMNS = (
    Column("what", gettext_noop("Operation"), always=True),
    Column("state", gettext_noop("State")),
    Column("step", gettext_noop("Step")),
    Column("by", gettext_noop("Asked for by")),
    Column("created", gettext_noop("Asked for"), ordering="created_at"),
    Column("finished", gettext_noop("Ended"), ordering="finished_at"),
    Column("next", gettext_noop("Next try"), ordering="next_try_at", shown=False),
    Column("via", gettext_noop("Through"), shown=False),
    Column("id", gettext_noop("Id"), shown=False),
)
MENUS = (
    FilterMenu(
        "state", gettext_noop("State"), tuple((str(v), str(label)) for v, label in Operation.State.choices)
    ),
    FilterMenu("kind", gettext_noop("Kind"), tuple((kind.name, kind.label) for kind in KINDS.values())),
)
TABS = (
    (gettext_noop("All"), ()),
    (gettext_noop("Under way"), Operation.UNFINISHED),
    (gettext_noop("Failed"), ("FAILED",)),
    (gettext_noop("Done"), ("SUCCEEDED",)),
    (gettext_noop("Cancelled"), ("CANCELLED",)),
)
HELP = {
    "title": gettext_noop("What an operation is"),
    "words": (
        (
            gettext_noop(
                "Work that takes more than a moment, such as making a key in AWS, is an operation. It goes on when you leave the page, "
                "and after a restart it goes on where it was."
            )
        ),
        (
            gettext_noop(
                "When AWS or the network is at fault, Keystead tries again by itself, less and "
                "less often, and says when. When trying again "
                "cannot help, it undoes what it had made and fails with a cause and a cure."
            )
        ),
        gettext_noop(
            "Retry finds what is there already: nothing is made twice. Cancel stops after the present step "
            "and undoes what was made."
        ),
    ),
    "links": ((gettext_noop("Architecture"), "architecture"),),
}


@vault_page(VIEW, methods=("GET", "HEAD"))
def operation_list(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/operations/"""
    path = reverse("operations", args=[vault.pk])
    rows = request.actor.visible(Operation).filter(vault=vault)
    # `memo`, `input` and `result` may be long, and the list shows nothing of them but the act.
    found = read_list(
        request,
        rows.defer("memo", "result"),
        LISTING,
        COLUMNS,
        id="operations",
        row_template="cloudkeys/operations/row.html",
        menus=MENUS,
        search_words=gettext("Search object or person"),
        total=False,
        live_url=request.get_full_path(),
        empty_title=gettext("Nothing has been asked for yet"),
        empty_words=gettext(
            "Making, changing and rotating keys and stores shows here, step by step, while it goes on and afterwards."
        ),
    )
    for row in found.rows:
        row.label = label_of(row)
        row.now = _now(row)
    chosen = set(request.GET.getlist("state"))
    tabs = [
        (
            words,
            f"{path}?{urlencode([('state', s) for s in states])}" if states else path,
            chosen == set(states),
        )
        for words, states in TABS
    ]
    return list_page(request, "cloudkeys/operations/list.html", found, {"help": HELP, "tabs": tabs})


def label_of(operation: Operation) -> str:
    """What it does, in words."""
    if operation.kind == "cloud_keys.bulk":
        action = str(operation.input.get("action", ""))
        count = len(operation.input.get("ids", []))
        return f"{BULK_WORDS.get(action, action)} ({count:,})"
    if operation.kind == "cloud_keys.csv_create":
        return gettext("Create keys from a file (%(input)s)") % {
            "input": f"{len(operation.input.get('rows', [])):,}"
        }
    kind = KINDS.get(operation.kind)
    return kind.label if kind is not None else operation.kind


def _now(operation: Operation) -> str:
    """The step where it is, or why it failed."""
    if operation.state == Operation.State.FAILED:
        return str((operation.error or {}).get("cause", ""))
    if operation.state not in Operation.UNFINISHED or operation.step >= len(operation.steps):
        return ""
    step = operation.steps[operation.step]
    verb = gettext("Undoing: ") if operation.undoing else ""
    return gettext("%(verb)s%(value)s of %(steps)s: %(step)s") % {
        "verb": verb,
        "value": operation.step + 1,
        "steps": len(operation.steps),
        "step": step.get("label", ""),
    }


@dataclass(frozen=True)
class ItemResult:
    """What became of one key or row of a bulk operation."""

    name: str
    url: str
    ok: bool
    message: str = ""
    cure: str = ""


@vault_page(VIEW, methods=("GET", "HEAD"))
def operation_detail(request: Any, vault: Vault, operation_id: UUID) -> HttpResponse:
    """GET /v/<id>/operations/<id>/; htmx asks for the part `operation-live` alone."""
    row = _fetch(request, vault, operation_id)
    return page(
        request,
        "cloudkeys/operations/detail.html",
        _context(request, vault, row),
        part=("operation-live", "cloudkeys/operations/live.html"),
    )


@vault_page(VIEW, methods=("GET", "HEAD"))
def operation_progress(request: Any, vault: Vault, operation_id: UUID) -> HttpResponse:
    """GET /v/<id>/operations/<id>/progress/: steps and results, asked for while it goes on."""
    row = _fetch(request, vault, operation_id)
    return partial(request, "cloudkeys/operations/live.html", _context(request, vault, row))


def _fetch(request: Any, vault: Vault, operation_id: UUID) -> Operation:
    row: Operation = request.actor.fetch(Operation, operation_id, VIEW)
    if row.vault_id != vault.pk:
        raise NotFound("There is no such operation, or it is not yours.")
    return row


def _context(request: Any, vault: Vault, row: Operation) -> dict[str, Any]:
    under_way = row.state in Operation.UNFINISHED
    url = reverse("operation-progress", args=[vault.pk, row.pk])
    progress = {**progress_of(row, url, gettext("Steps")), "live": False, "actions_template": ""}
    error = row.error or {}
    kind = KINDS.get(row.kind)
    manage = _can_manage(request, row)
    cancel = manage
    if manage and under_way and kind is not None and not kind.may_cancel_at(row.step):
        cancel = Can(
            False,
            gettext(
                "It is past the step after which there is no way back. Let it finish, then do the opposite."
            ),
        )
    elif manage and row.cancel_requested:
        cancel = Can(False, gettext("Cancelling was asked for: it stops after the present step."))
    return {
        "row": row,
        "label": label_of(row),
        "progress": progress,
        "live_url": url if under_way else "",
        "waits": error.get("cause", "") if under_way else "",
        "waits_cure": error.get("cure", "") if under_way else "",
        "target_url": object_url(vault, row.target_type, row.target_id) if row.target_type != "vault" else "",
        "request_url": _audit_url(vault, request_id=row.request_id) if row.request_id else "",
        "under_way": under_way,
        "can_cancel": cancel,
        "can_retry": manage,
        "results": _results(request, vault, row) if row.kind in BULK else None,
        "help": HELP,
    }


def _audit_url(vault: Vault, **query: str) -> str:
    found = maybe_url("audit", vault_id=vault.pk)
    return f"{found}?{urlencode(query)}" if found else ""


def _can_manage(request: Any, row: Operation) -> Can:
    try:
        require_manage(request.actor, row)
    except DomainError as error:
        return Can(False, f"{error.message} {error.cure}".strip())
    return Can(True)


def _results(request: Any, vault: Vault, row: Operation) -> dict[str, Any]:
    """Refused first. One query for the names of what one page shows, whatever the number of keys."""
    failed, good = list(row.result.get("failed", [])), list(row.result.get("done", []))
    asked = len(row.input.get("ids") or row.input.get("rows") or [])
    at = request.GET.get("from", "")
    start = int(at) if at.isascii() and at.isdigit() and len(at) < 9 else 0
    together = [(each, False) for each in failed] + [(each, True) for each in good]
    start = min(start - start % PER_PAGE, max(len(together) - 1, 0) // PER_PAGE * PER_PAGE)
    shown = together[start : start + PER_PAGE]
    ids = [each["id"] for each, _ in shown if each.get("id")]
    names = {
        str(pk): name
        for pk, name in CloudKey.objects.filter(vault=vault, pk__in=ids).values_list("pk", "name")
    }
    items = []
    for each, ok in shown:
        pk = each.get("id", "")
        name = names.get(pk) or each.get("name") or pk
        url = object_url(vault, "cloud_key", pk) if pk in names else ""
        items.append(ItemResult(name, url, ok, each.get("message", ""), each.get("cure", "")))
    return {
        "items": items,
        "asked": asked,
        "done": len(good),
        "failed": len(failed),
        "left": max(asked - len(together), 0),
        "first": start + 1,
        "last": start + len(shown),
        "total": len(together),
        "next": start + PER_PAGE if start + PER_PAGE < len(together) else None,
        "previous": start - PER_PAGE if start else None,
    }


@vault_page(VIEW)
def operation_retry(request: Any, vault: Vault, operation_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/operations/<id>/retry/"""
    row = _fetch(request, vault, operation_id)
    require_manage(request.actor, row)
    back = reverse("operation", args=[vault.pk, row.pk])
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST":
        again = submit(request, form, lambda values: retry_operation(request.actor, row))
        if again is not None:
            return done(request, back, gettext("It begins again."))
    elif row.state != Operation.State.FAILED:
        raise Conflict("Only a failed operation can be retried.", cure="Look at the operation again.")
    cure = (row.error or {}).get("cure", "")
    return confirm(
        request,
        form,
        title=gettext("Retry: %(label_of)s?") % {"label_of": label_of(row)},
        words=gettext("It failed because: %(value)s")
        % {"value": (row.error or {}).get("cause", "it did not say why")},
        consequences=[
            *([("wrench", gettext("First: %(cure)s") % {"cure": cure})] if cure else []),
            ("repeat", gettext("Each step finds what is there already. Nothing is made twice.")),
        ],
        button=gettext("Retry"),
        cancel=back,
    )


@vault_page(VIEW)
def operation_cancel(request: Any, vault: Vault, operation_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/operations/<id>/cancel/"""
    row = _fetch(request, vault, operation_id)
    require_manage(request.actor, row)
    back = reverse("operation", args=[vault.pk, row.pk])
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST":
        asked = submit(request, form, lambda values: cancel_operation(request.actor, row))
        if asked is not None:
            return done(request, back, gettext("It stops after the present step and undoes what it made."))
    elif row.state not in Operation.UNFINISHED:
        raise Conflict("This operation is over already.", cure="Nothing is left to cancel.")
    bulk = row.kind in BULK
    return confirm(
        request,
        form,
        title=gettext("Cancel: %(label_of)s?") % {"label_of": label_of(row)},
        words=gettext("It stops after the present step."),
        consequences=[
            ("key-round", gettext("Keys that were done already stay done."))
            if bulk
            else (
                "undo-2",
                gettext("What it made so far in AWS and here is undone, and you see how far that is."),
            ),
        ],
        button=gettext("Cancel operation"),
        cancel=back,
        danger=True,
    )


@vault_page(VIEW)
def operation_retry_refused(request: Any, vault: Vault, operation_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/operations/<id>/retry-refused/"""
    row = _fetch(request, vault, operation_id)
    request.actor.require(Permission.OPERATIONS_MANAGE, row)
    back = reverse("operation", args=[vault.pk, row.pk])
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST":
        begun = submit(request, form, lambda values: retry_refused(request.actor, row.pk))
        if begun is not None:
            return done(request, reverse("operation", args=[vault.pk, begun.pk]), gettext("It has begun."))
    count = len(row.result.get("failed", []))
    return confirm(
        request,
        form,
        title=ngettext("Do it again for %(count)s key?", "Do it again for %(count)s keys?", count)
        % {"count": f"{count:,}"},
        words=gettext("A new operation does the same with those that were refused, and with no other."),
        consequences=[
            ("user", gettext("It acts with your rights. Who asked the first time keeps their own record."))
        ],
        button=gettext("Do it again"),
        cancel=back,
    )
