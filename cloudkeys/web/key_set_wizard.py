"""Making a key set step by step. What is typed is kept on the server as a draft (cloudkeys/services/drafts.py)."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

from django.http import HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext, gettext_noop

from cloudkeys.models import KeySetDraft
from cloudkeys.services import drafts
from cloudkeys.services.key_sets import KeySetCreated
from cloudkeys.services.trial import simulator_offered, trial_account
from cloudkeys.services.wizard import STEPS, check_key_set
from cloudkeys.web.key_set_steps import (
    LABELS,
    AccountForm,
    ProtectionForm,
    StepForm,
    StoreForm,
    Walk,
    regions,
)
from vault.errors import NotFound, StaleRevision
from vault.models import Vault
from vault.permissions import Permission
from vault.web import once
from vault.web.forms import Difference, PageForm, submit
from vault.web.frame import can, done, page, partial, uuid_or_none, vault_page

MANAGE = Permission.KEY_SETS_MANAGE
ALL = (*STEPS, "summary")
HELP = {
    "title": gettext_noop("What a key set is"),
    "words": (
        (
            gettext_noop(
                "A key set holds keys of one kind, under one CSP account, with one protection and one default schedule. Used as "
                "external key store, AWS keeps no key material: it calls Keystead for every use of a key."
            )
        ),
        (
            gettext_noop(
                "What you type here is kept as you go, for you alone. Nothing is made until you press Create key set on the last "
                "step."
            )
        ),
    ),
    "links": (
        (gettext_noop("Quick start"), "quickstart"),
        (gettext_noop("Topologies and reachability"), "topologies"),
        (gettext_noop("How keys are protected"), "hsm"),
    ),
}


def _url(name: str, vault: Vault, **more: Any) -> str:
    return reverse(name, kwargs={"vault_id": vault.pk, **more})


def _step_url(vault: Vault, draft_id: UUID, step: str) -> str:
    return _url("key-set-step", vault, draft_id=draft_id, step=step)


@vault_page(MANAGE, methods=("GET", "HEAD"))
def new(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/key-sets/new/: a draft's address of its own; nothing is written yet. ?account= proposes one."""
    url = _step_url(vault, uuid4(), "what")
    account = uuid_or_none(request.GET.get("account", ""))
    return HttpResponseRedirect(f"{url}?account={account}" if account is not None else url)


def _used(request: Any, vault: Vault, error: drafts.DraftUsed) -> HttpResponse:
    url = (
        _url("key-set", vault, key_set_id=error.key_set_id)
        if error.key_set_id is not None
        else _url("key-sets", vault)
    )
    return done(request, url, gettext("This key set was made already."))


def _find(request: Any, vault: Vault, draft_id: UUID) -> tuple[KeySetDraft | None, Walk]:
    draft = drafts.find_draft(request.actor, vault, draft_id)
    if draft is not None and draft.made_at is not None:
        raise drafts.DraftUsed(draft.key_set_id)
    return draft, Walk(request.actor, vault, draft.steps if draft is not None else {})


def _revision(draft: KeySetDraft | None, step: str) -> int:
    found = draft.steps.get(step) if draft is not None else None
    return int(found["revision"]) if found else 0


@vault_page(MANAGE)
def step_page(request: Any, vault: Vault, draft_id: UUID, step: str) -> HttpResponse:
    """GET, POST /v/<id>/key-sets/new/<draft>/<step>/"""
    if step not in ALL:
        raise NotFound("There is no such step.")
    try:
        draft, walk = _find(request, vault, draft_id)
        if step == "summary":
            return _summary(request, vault, draft_id, walk)
        return _step(request, vault, draft_id, draft, walk, step)
    except drafts.DraftUsed as error:
        return _used(request, vault, error)


def _step(
    request: Any, vault: Vault, draft_id: UUID, draft: KeySetDraft | None, walk: Walk, step: str
) -> HttpResponse:
    if request.method == "POST":
        return _send(request, vault, draft_id, draft, walk, step)
    if step == "account" and (proposed := uuid_or_none(request.GET.get("account", ""))) is not None:
        # Come back from adding an account: it is what they want here.
        initial: dict[str, Any] = {"csp_account": str(proposed)}
    else:
        initial = dict(draft.steps.get(step, {}).get("fields", {})) if draft is not None else {}
    if step == "schedule" and "time_zone" not in initial:
        initial["time_zone"] = getattr(request.user, "time_zone", "") or "UTC"
    if step == "what" and "group" not in initial:
        initial["group"] = _own_group(request, vault)
    form = walk.form(step, initial={**initial, "revision": _revision(draft, step)})
    return _show(request, vault, draft_id, walk, step, form)


def _own_group(request: Any, vault: Vault) -> str:
    membership = request.actor.membership(vault.pk)
    group = membership.groups.order_by("name").first() if membership is not None else None
    return str(group.pk) if group is not None else ""


def _send(
    request: Any, vault: Vault, draft_id: UUID, draft: KeySetDraft | None, walk: Walk, step: str
) -> HttpResponse:
    form = walk.form(step, request.POST)
    act = request.POST.get("act", "next")
    typed = form.typed
    if isinstance(form, StoreForm):
        typed = _changed_rows(typed, form.count, act)
    seen = request.POST.get("revision", "")
    try:
        drafts.save_step(
            request.actor, vault, draft_id, step, typed,
            seen=int(seen) if seen.isascii() and seen.isdigit() else 0, window=request.POST.get("once", "")[:64],
        )  # fmt: skip
    except StaleRevision as error:
        form.is_valid()
        _explain(form, error)
        return _show(request, vault, draft_id, walk, step, form)
    if act == "back":
        at = ALL.index(step)
        return HttpResponseRedirect(_step_url(vault, draft_id, ALL[max(at - 1, 0)]), status=303)
    if act != "next":
        return HttpResponseRedirect(_step_url(vault, draft_id, step) + "#regions", status=303)
    if not walk.check(step, form):
        form.status = 422
        return _show(request, vault, draft_id, walk, step, form)
    following = ALL[ALL.index(step) + 1]
    return HttpResponseRedirect(_step_url(vault, draft_id, following), status=303)


def _changed_rows(typed: dict[str, str], count: int, act: str) -> dict[str, str]:
    """With one region more, or without one."""
    names = ("region", "by", "way", "service", "endpoint")
    if act == "more":
        return {**typed, "rows": str(count + 1)}
    if not act.startswith("less-") or not act[5:].isdigit() or count < 2:
        return typed
    gone = int(act[5:])
    kept = {name: value for name, value in typed.items() if name.rpartition("_")[0] not in names}
    rows = [index for index in range(count) if index != gone]
    for new, old in enumerate(rows):
        kept.update({f"{name}_{new}": typed.get(f"{name}_{old}", "") for name in names})
    return {**kept, "rows": str(len(rows))}


def _explain(form: StepForm, error: StaleRevision) -> None:
    theirs: dict[str, str] = error.context["fields"]
    form.status = 412
    form.problem = error
    form.changed_by = gettext("Another window of yours")
    form.stale = tuple(
        Difference(str(form.fields[name].label or name.replace("_", " ")), theirs.get(name, ""), typed)
        for name, typed in form.typed.items()
        if theirs.get(name, "") != typed and not form.fields[name].widget.is_hidden
    )
    data = form.data.copy()  # type: ignore[attr-defined]
    data["revision"] = str(error.context["current"])
    form.data = data


def _stepper(vault: Vault, draft_id: UUID, walk: Walk, step: str) -> list[tuple[str, str, str]]:
    found = []
    open_until = walk.first_wrong or "summary"
    for name in ALL:
        state = "now" if name == step else "done" if walk.right.get(name) else "todo"
        reachable = ALL.index(name) <= ALL.index(open_until)
        found.append(
            (LABELS[name], _step_url(vault, draft_id, name) if reachable and name != step else "", state)
        )
    return found


def _show(request: Any, vault: Vault, draft_id: UUID, walk: Walk, step: str, form: StepForm) -> HttpResponse:
    context: dict[str, Any] = {
        "form": form,
        "step": step,
        "label": LABELS[step],
        "draft_id": draft_id,
        "draft_text": str(draft_id),
        "steps": _stepper(vault, draft_id, walk, step),
        "is_first": step == ALL[0],
        "save_url": _url("key-set-draft-save", vault, draft_id=draft_id, step=step),
        "help": HELP,
        "step_template": f"cloudkeys/key_sets/step_{step}.html",
    }
    if step == "what":
        context["others"] = drafts.open_drafts(request.actor, vault, but=draft_id)
    if step == "account":
        context["options"] = form.options() if isinstance(form, AccountForm) else []
        context["can_add"] = can(request.actor, Permission.CSP_ACCOUNTS_MANAGE, vault)
        context["offer_trial"] = (
            simulator_offered() and bool(context["can_add"]) and trial_account(vault) is None
        )
    if isinstance(form, StoreForm):
        context["regions"] = regions(form.account)
    if isinstance(form, ProtectionForm):
        context["protections"] = form.options()
        context["replications"] = form.ways()
        context["connections"] = [each for each in form.choices if each.possible]
    return page(request, "cloudkeys/key_sets/wizard.html", context, status=form.status)


@vault_page(MANAGE, methods=("POST",))
def draft_save(request: Any, vault: Vault, draft_id: UUID, step: str) -> HttpResponse:
    """POST .../<step>/save/: keep what is typed while somebody types; answers the note beside the buttons."""
    if step not in STEPS:
        raise NotFound("There is no such step.")
    context: dict[str, Any] = {"save_url": request.path}
    seen = request.POST.get("revision", "")
    try:
        _, walk = _find(request, vault, draft_id)
        form = walk.form(step, request.POST)
        draft = drafts.save_step(
            request.actor, vault, draft_id, step, form.typed,
            seen=int(seen) if seen.isascii() and seen.isdigit() else 0, window=request.POST.get("once", "")[:64],
        )  # fmt: skip
        context.update(kept_at=draft.updated_at)
    except StaleRevision:
        context["stale"] = True
    except drafts.DraftUsed:
        context["used"] = True
    return partial(request, "cloudkeys/key_sets/kept.html", context)


@vault_page(MANAGE)
def draft_discard(request: Any, vault: Vault, draft_id: UUID) -> HttpResponse:
    """POST .../discard/"""
    if request.method == "POST":
        drafts.discard_draft(request.actor, vault, draft_id)
        return done(
            request, _url("key-sets", vault), gettext("The draft is discarded. Nothing was made of it.")
        )
    return done(request, _step_url(vault, draft_id, "what"))


def _summary(request: Any, vault: Vault, draft_id: UUID, walk: Walk) -> HttpResponse:
    if walk.first_wrong is not None:
        return HttpResponseRedirect(_step_url(vault, draft_id, walk.first_wrong), status=303)
    form = PageForm(request.POST or None)
    if request.method == "POST":
        made = submit(
            request,
            form,
            lambda values: drafts.create_from_draft(request.actor, vault, draft_id, **walk.create_values()),
        )
        if isinstance(form.problem, drafts.DraftUsed):
            return _used(request, vault, form.problem)
        if made is not None:
            return show_created(request, vault, made)
    checked = check_key_set(request.actor, vault, walk.values)
    links = walk.values.get("links", ())
    context = {
        "form": form,
        "step": "summary",
        "draft_id": draft_id,
        "steps": _stepper(vault, draft_id, walk, "summary"),
        "summary": checked.summary,
        "linked": [link["region"] for link in links if link["linked"]],
        "unlinked": [link["region"] for link in links if not link["linked"]],
        "external": walk.values.get("use_as_external_key_store"),
        "back_url": _step_url(vault, draft_id, "schedule"),
        "help": HELP,
    }
    return page(request, "cloudkeys/key_sets/summary.html", context, status=form.status)


def show_created(request: Any, vault: Vault, made: KeySetCreated) -> HttpResponse:
    """The answer to the POST that made it: with a store, its credential, this once; then on to AWS."""
    if made.store is None or made.credential is None:
        url = _url("key-set", vault, key_set_id=made.key_set.pk)
        return done(request, url, gettext("Key set %(name)s is made.") % {"name": made.key_set.name})
    url = _url("key-set-tab", vault, key_set_id=made.key_set.pk, tab="aws")
    once.remember(request, url)
    credential = made.credential
    console_file = credential.console_file()
    context = {
        "key_set": made.key_set,
        "operations": made.operations,
        "plain": [
            (gettext("Proxy URI path"), console_file["XksProxyUriPath"]),
            (gettext("Access key id"), credential.credential.access_key_id),
        ],
        "secrets": [(gettext("Secret access key"), credential.secret.reveal_text())],
        "download": console_file,
        "filename": f"{made.key_set.name}-xks-credential.json",
        "then": url,
        "help": HELP,
    }
    return page(request, "cloudkeys/key_sets/created.html", context)
