"""One act on many cloud keys: selected in the list, confirmed with what it would do, then done one key after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django import forms
from django.db.models import Count, Q
from django.http import HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext, gettext_lazy, gettext_noop, ngettext

from cloudkeys.models import CloudKey, Operation
from cloudkeys.services import bulk, uses
from cloudkeys.web import key_selection
from cloudkeys.web.cloud_keys import HELP
from cloudkeys.web.progress import operation_url
from cloudkeys.web.schedules import RotationFields
from vault.errors import Conflict, NotFound
from vault.generations import Confirmation, current_generation, wait_for_generation
from vault.models import Vault
from vault.permissions import Permission
from vault.web.forms import ConfirmForm, submit
from vault.web.frame import done, page, partial, toast, uuid_or_none, vault_page
from vault.web.palette import maybe_url

MOST_EXAMPLES = 12
MOST_SHOWN = 200
KINDS = ("cloud_keys.bulk", "cloud_keys.csv_create")


class SealedForm(ConfirmForm):
    """A confirmation of exactly those keys that were shown."""

    seal = forms.CharField(required=False, max_length=64, widget=forms.HiddenInput)


class TagForm(SealedForm):
    """Tags to set and to take away; others stay."""

    add = forms.CharField(
        required=False,
        label=gettext_lazy("Set"),
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": "3", "placeholder": "team=payments"}),
        help_text=gettext_lazy(
            "One to a line, as name=value. A tag that is there already gets the new value."
        ),
    )
    remove = forms.CharField(
        required=False,
        label=gettext_lazy("Take away"),
        max_length=8_000,
        widget=forms.Textarea(attrs={"rows": "2", "placeholder": "old-name"}),
        help_text=gettext_lazy("Names, one to a line."),
    )
    field_order = ("add", "remove")

    def clean_add(self) -> dict[str, str]:
        """Name and value of each line."""
        return read_tags(self.cleaned_data["add"])

    def clean_remove(self) -> list[str]:
        """The names."""
        return [line.strip() for line in str(self.cleaned_data["remove"]).splitlines() if line.strip()]


def read_tags(text: str) -> dict[str, str]:
    """name=value, one to a line. Raises forms.ValidationError naming the line."""
    found: dict[str, str] = {}
    for number, line in enumerate(str(text).splitlines(), start=1):
        if not line.strip():
            continue
        name, _, value = line.partition("=")
        if not name.strip():
            raise forms.ValidationError(f"Line {number} has no name. Write it as name=value.")
        if name.strip() in found:
            raise forms.ValidationError(f"Line {number}: {name.strip()} stands there twice. Keep one.")
        found[name.strip()] = value.strip()
    return found


class ScheduleForm(RotationFields, SealedForm):
    """The key set's schedule, none, or one of their own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["rotation"].choices = [  # type: ignore[attr-defined]
            ("inherited", gettext("As the key set says, now and whenever that changes")),
            ("every", gettext("On a schedule of their own")),
            ("none", gettext("Never by itself")),
        ]
        self.fields["rotation"].initial = "inherited"


@dataclass(frozen=True)
class Act:
    """What one act says and sends. `applies`: the keys that it changes; the others answer for themselves."""

    action: str
    permission: Permission
    verb: str
    words: str
    applies: Q
    others: str
    consequences: tuple[tuple[str, str], ...] = ()
    form: type[SealedForm] = SealedForm
    reason: str = ""
    danger: bool = False
    stops: bool = False
    params: Callable[[Any, dict[str, Any]], dict[str, Any]] = lambda form, values: (
        {"reason": values["reason"]} if values.get("reason") else {}
    )


_GOES_ON = (
    "clock",
    gettext_noop("Services that already hold a data key in memory go on until they next ask."),
)
ACTS = {
    "enable": Act(
        "enable", Permission.CLOUD_KEYS_ENABLE, gettext_noop("Enable"),
        gettext_noop("Data under these keys can be read again as soon as the nodes have learnt of it, in most cases within a second."),
        Q(state="DISABLED"), gettext_noop("not disabled"), reason="optional",
    ),
    "disable": Act(
        "disable", Permission.CLOUD_KEYS_DISABLE, gettext_noop("Disable"),
        gettext_noop("From now on every new use of these keys is refused, on every node."),
        Q(state="ENABLED"), gettext_noop("not enabled"),
        (("ban", gettext_noop("Data under them cannot be read by any service that asks for it.")), _GOES_ON,
         ("undo-2", gettext_noop("Nothing is lost: enabling makes it readable again."))),
        reason="required", danger=True, stops=True,
    ),
    "rotate": Act(
        "rotate", Permission.CLOUD_KEYS_ROTATE, gettext_noop("Rotate"),
        gettext_noop("Each key gets a new version, with which new data is encrypted."),
        Q(state="ENABLED", retired_at=None), gettext_noop("not enabled, or retired"),
        (("book-open", gettext_noop("What earlier versions encrypted stays readable; nothing has to be encrypted anew.")),
         ("calendar-clock", gettext_noop("Schedules count from the new version."))),
    ),
    "schedule": Act(
        "change_schedule", Permission.CLOUD_KEYS_UPDATE, gettext_noop("Change the schedule of"),
        gettext_noop("Says when these keys rotate by themselves."),
        ~Q(state="DESTROYED") & Q(retired_at=None), gettext_noop("destroyed or retired"),
        (("rotate-cw", gettext_noop("A key whose new date lies in the past already rotates soon after.")),),
        form=ScheduleForm,
        params=lambda form, values: {
            "rotation_schedule": {"kind": "inherited"} if values["rotation"] == "inherited" else form.rotation_schedule()
        },
    ),
    "tag": Act(
        "tag", Permission.CLOUD_KEYS_UPDATE, gettext_noop("Tag"),
        gettext_noop("Sets and takes away single tags; the others stay. Linked KMS keys get the same tags in AWS."),
        ~Q(state="DESTROYED"), "destroyed", form=TagForm,
        params=lambda form, values: {"tags": {k: v for k, v in (("add", values["add"]), ("remove", values["remove"])) if v}},
    ),
    "block": Act(
        "block", Permission.CLOUD_KEYS_BLOCK, gettext_noop("Block"),
        gettext_noop("From now on every new use of these keys is refused by the data plane. Nothing changes in AWS."),
        Q(blocked=False) & ~Q(state="DESTROYED"), gettext_noop("blocked already, or destroyed"),
        (("ban", gettext_noop("Data under them cannot be read by any service that asks for it.")), _GOES_ON,
         ("users", gettext_noop("Unblocking may need another person's consent."))),
        reason="required", danger=True, stops=True,
    ),
    "unblock": Act(
        "unblock", Permission.CLOUD_KEYS_UNBLOCK, gettext_noop("Unblock"),
        gettext_noop("These keys serve again, each as its own state says."),
        Q(blocked=True), gettext_noop("not blocked"), reason="optional",
    ),
}  # fmt: skip


@vault_page(Permission.CLOUD_KEYS_VIEW)
def bulk_begin(request: Any, vault: Vault, verb: str) -> HttpResponse:
    """POST /v/<id>/cloud-keys/bulk/<verb>/: the list's selection; leads to its confirmation. Changes nothing."""
    _act(request, vault, verb)
    back = reverse("cloud-keys", args=[vault.pk])
    if request.method != "POST":
        return HttpResponseRedirect(back)
    if request.POST.get("all_found"):
        token = key_selection.of_query(request.POST.get("query", "")[:4000])
    else:
        picked = [uuid_or_none(each) for each in request.POST.getlist("pick")]
        ids = [pk for pk in picked if pk is not None]
        if not ids:
            toast(request, gettext("No key is selected. Tick some first."), level=30)
            query = request.POST.get("query", "")[:4000]
            return HttpResponseRedirect(f"{back}?{query}" if query else back, status=303)
        token = key_selection.of_ids(ids)
    return HttpResponseRedirect(reverse("cloud-keys-bulk-confirm", args=[vault.pk, verb, token]), status=303)


def _act(request: Any, vault: Vault, verb: str) -> Act:
    act = ACTS.get(verb)
    if act is None:
        raise NotFound("There is no such act.")
    request.actor.require(act.permission, vault)
    return act


@vault_page(Permission.CLOUD_KEYS_VIEW)
def bulk_confirm(request: Any, vault: Vault, verb: str, token: str) -> HttpResponse:
    """GET, POST /v/<id>/cloud-keys/bulk/<verb>/<selection>/"""
    act = _act(request, vault, verb)
    selection = key_selection.read(request, vault, token)
    form = act.form(request.POST or None, reason=act.reason, initial={"seal": selection.seal})
    if request.method == "POST":

        def work(values: dict[str, Any]) -> Operation:
            if values.pop("seal", "") != selection.seal:
                # What the form shows from now on is what there is now: sending again confirms that.
                data = form.data.copy()  # type: ignore[attr-defined]
                data["seal"] = selection.seal
                form.data = data
                raise Conflict(
                    f"The selection has changed since you looked: it is {_count(len(selection.ids))} now.",
                    cure="Nothing was done. Read it again below, and confirm if it is still what you want.",
                )
            return bulk.start_bulk(request.actor, vault, act.action, selection.ids, act.params(form, values))

        begun = submit(request, form, work)
        if begun is not None:
            return done(request, reverse("cloud-keys-work", args=[vault.pk, begun.pk]))
    count = len(selection.ids)
    context = {
        "form": form,
        "act": act,
        "title": gettext("%(verb)s %(keys)s?") % {"verb": gettext(act.verb), "keys": _count(count)},
        "button": gettext("%(verb)s %(keys)s") % {"verb": gettext(act.verb), "keys": _count(count)},
        "selection": selection,
        "back": _back(vault, selection),
        "help": HELP,
        **_summary(vault, act, selection),
    }
    return page(request, "cloudkeys/cloud_keys/bulk.html", context, status=form.status)


def _summary(vault: Vault, act: Act, selection: key_selection.Selection) -> dict[str, Any]:
    rows = CloudKey.objects.filter(vault=vault, pk__in=selection.ids)
    sums = rows.aggregate(applies=Count("pk", filter=act.applies), simulated=Count("pk", filter=_SIMULATED))
    states = rows.values_list("state").annotate(count=Count("pk")).order_by("-count")
    reach = uses.reader().reach(selection.ids, timezone.now()) if act.stops else None
    return {
        "applies": sums["applies"],
        "others": len(selection.ids) - sums["applies"],
        "simulated": sums["simulated"],
        "states": list(states),
        "examples": list(rows.order_by("name", "pk").only("name")[:MOST_EXAMPLES]),
        "more": max(0, len(selection.ids) - MOST_EXAMPLES),
        "reach": reach,
        "known_since": uses.reader().known_since() if act.stops else None,
    }


_SIMULATED = Q(csp_account__partition="simulator")


def _back(vault: Vault, selection: key_selection.Selection) -> str:
    address = reverse("cloud-keys", args=[vault.pk])
    return f"{address}?{selection.query}" if selection.query else address


def _count(number: int) -> str:
    return ngettext("%(count)s key", "%(count)s keys", number) % {"count": f"{number:,}"}


# --- progress and result --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What became of one key or row."""

    name: str
    url: str
    row: int
    message: str = ""
    cure: str = ""


@vault_page(Permission.OPERATIONS_VIEW, methods=("GET", "HEAD"))
def bulk_work(request: Any, vault: Vault, operation_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/work/<operation_id>/: how far it is, and a result for each key."""
    work: Operation = request.actor.fetch(Operation, operation_id, Permission.OPERATIONS_VIEW)
    if work.vault_id != vault.pk or work.kind not in KINDS:
        raise NotFound("There is no such work on keys in this vault.")
    context = _progress(work)
    if getattr(request, "htmx", None) and request.htmx.target == "work":
        return partial(request, "cloudkeys/cloud_keys/work_part.html", context)
    return page(request, "cloudkeys/cloud_keys/work.html", {**context, "help": HELP})


_DOING = {
    "enable": (gettext_noop("Enable"), gettext_noop("enabled")),
    "disable": (gettext_noop("Disable"), gettext_noop("disabled")),
    "rotate": (gettext_noop("Rotate"), gettext_noop("rotated")),
    "change_schedule": (gettext_noop("Change the schedule of"), gettext_noop("changed")),
    "tag": (gettext_noop("Tag"), gettext_noop("tagged")),
    "block": (gettext_noop("Block"), gettext_noop("blocked")),
    "unblock": (gettext_noop("Unblock"), gettext_noop("unblocked")),
}
_PROVEN = frozenset({"enable", "disable", "block", "unblock"})


def _progress(work: Operation) -> dict[str, Any]:
    creating = work.kind == "cloud_keys.csv_create"
    action = "create" if creating else str(work.input.get("action", ""))
    items = list(work.input.get("rows" if creating else "ids", []))
    done_rows, refused = list(work.result.get("done", [])), list(work.result.get("failed", []))
    verb, participle = (
        (gettext_noop("Create"), gettext_noop("created"))
        if creating
        else _DOING.get(action, (gettext_noop("Work on"), gettext_noop("done")))
    )
    under_way = work.state in Operation.UNFINISHED
    shown = refused[:MOST_SHOWN] + done_rows[-MOST_SHOWN:]
    ids = [pk for pk in (uuid_or_none(str(row.get("id", ""))) for row in shown) if pk is not None]
    names = dict(CloudKey.objects.filter(vault_id=work.vault_id, pk__in=ids).values_list("pk", "name"))
    verbs = {act.action: name for name, act in ACTS.items()}
    again = ""
    if refused and not creating and not under_way and action in verbs:
        token = key_selection.of_refused(work)
        again = reverse("cloud-keys-bulk-confirm", args=[work.vault_id, verbs[action], token])
    return {
        "work": work,
        "title": gettext("%(verb)s %(keys)s") % {"verb": gettext(verb), "keys": _count(len(items))},
        "creating": creating,
        "participle": gettext(participle),
        "total": len(items),
        "count": len(done_rows) + len(refused),
        "under_way": under_way,
        "done_count": len(done_rows),
        "refused_count": len(refused),
        "left": len(items) - len(done_rows) - len(refused),
        "refused": [_outcome(work, row, names) for row in refused[:MOST_SHOWN]],
        "done": [_outcome(work, row, names) for row in reversed(done_rows[-MOST_SHOWN:])],
        "most": MOST_SHOWN,
        "error": work.error or {},
        "reason": (work.input.get("params") or {}).get("reason", ""),
        "confirmation": _confirmation() if action in _PROVEN and not under_way and done_rows else None,
        "again_url": again,
        "part_url": reverse("cloud-keys-work", args=[work.vault_id, work.pk]),
        "operation_url": operation_url(work),
    }


def _confirmation() -> Confirmation:
    """How far the data plane has got with all that is committed now, and so with every key of this work. Does not wait."""
    return wait_for_generation(current_generation(), timeout_s=0.0)


def _outcome(work: Operation, row: dict[str, Any], names: dict[UUID, str]) -> Outcome:
    found = uuid_or_none(str(row.get("id", "")))
    name = names.get(found, "") if found is not None else ""
    url = maybe_url("cloud-key", vault_id=work.vault_id, key_id=found) if found is not None and name else ""
    return Outcome(
        name or str(row.get("name", "")) or str(row.get("id", "")),
        url,
        int(row.get("row", 0)) + 1,
        str(row.get("message", "")),
        str(row.get("cure", "")),
    )
