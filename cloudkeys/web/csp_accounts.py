"""CSP accounts: list, add, test the connection, rotate the credential, change, delete; and the account on the simulator."""

from __future__ import annotations

import secrets
from itertools import groupby
from typing import Any
from uuid import UUID

from django import forms
from django.db.models import Count
from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys import naming
from cloudkeys.api.accounts import LISTING
from cloudkeys.models import CspAccount, Operation
from cloudkeys.providers import aws_policy
from cloudkeys.schedules import parse_schedule
from cloudkeys.services import accounts
from cloudkeys.services.effects import account_dependents
from cloudkeys.services.trial import simulator_offered, trial_account, try_simulator
from cloudkeys.services.wizard import schedule_words
from cloudkeys.web.progress import operation_url, progress_of
from cloudkeys.web.schedules import RotationFields, rotation_initial
from vault.errors import NotFound
from vault.models import Group, Vault
from vault.permissions import Permission
from vault.secret import Secret
from vault.web.forms import ConfirmForm, Difference, confirm, submit
from vault.web.frame import Can, can, done, page, partial, toast, uuid_or_none, vault_page
from vault.web.lists import Column, FilterMenu, list_page, read_list

VIEW, MANAGE = Permission.CSP_ACCOUNTS_VIEW, Permission.CSP_ACCOUNTS_MANAGE
ROTATE = "csp_account.rotate_credential"
TABS = ("connection", "credential", "policy", "used-by")
_HISTORY = 20
COLUMNS = (
    Column("name", gettext_noop("Name"), ordering="name", always=True),
    Column("health", gettext_noop("Connection")),
    Column("account", gettext_noop("Cloud account")),
    Column("region", gettext_noop("Default region"), shown=False),
    Column("key_sets", gettext_noop("Key sets"), num=True),
    Column("credential", gettext_noop("Credential made")),
    Column("rotation", gettext_noop("Next rotation"), ordering="next_rotation_at"),
    Column("group", gettext_noop("Admin group"), shown=False),
    Column("id", gettext_noop("Id"), shown=False),
)
MENUS = (
    FilterMenu(
        "health",
        gettext_noop("Connection"),
        (
            ("OK", gettext_noop("Works")),
            ("DEGRADED", gettext_noop("Lacks permissions")),
            ("FAILING", gettext_noop("Does not work")),
            ("UNKNOWN", gettext_noop("Not tested yet")),
        ),
    ),
    FilterMenu(
        "partition",
        gettext_noop("Partition"),
        tuple((str(v), str(label)) for v, label in CspAccount.Partition.choices),
    ),
)
HELP = {
    "title": gettext_noop("What a CSP account is"),
    "words": (
        (
            gettext_noop(
                "A CSP account is how Keystead signs in at a cloud service provider: an access key, or a role that it assumes with "
                "one. Key sets work through it: Keystead makes KMS keys and external key stores in that account."
            )
        ),
        (
            gettext_noop(
                "Its secret is kept encrypted and never shown again. The connection test says, action by action, what the "
                "credential may do and which feature needs it. Keystead needs no permission to read your data."
            )
        ),
    ),
    "links": (
        (gettext_noop("Credentials and their rotation"), "credentials"),
        (gettext_noop("Quick start"), "quickstart"),
    ),
}


class _AccountFields(RotationFields):
    """What can be said of an account at any time."""

    name = forms.CharField(
        max_length=100, help_text=gettext_lazy("Such as aws-prod. It can be changed later.")
    )
    description = forms.CharField(max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": "2"}))
    group = forms.ChoiceField(
        required=False,
        label=gettext_lazy("Admin group"),
        help_text=gettext_lazy("Cloud admins outside this group can look, but change nothing."),
    )
    auth_method = forms.ChoiceField(
        choices=CspAccount.AuthMethod.choices,
        widget=forms.RadioSelect,
        initial=CspAccount.AuthMethod.ACCESS_KEY,
        label=gettext_lazy("How Keystead signs in"),
    )
    access_key_id = forms.CharField(
        max_length=128,
        label=gettext_lazy("Access key id"),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false", "class": "mono"}),
        help_text=gettext_lazy("Of an IAM user made for Keystead. It begins with AKIA."),
    )
    secret_access_key = forms.CharField(
        max_length=200,
        label=gettext_lazy("Secret access key"),
        strip=True,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password", "data-secret": ""}),
        help_text=gettext_lazy("Kept encrypted, never shown again, in no draft."),
    )
    role_arn = forms.CharField(
        required=False,
        max_length=2048,
        label=gettext_lazy("Role to assume (ARN)"),
        widget=forms.TextInput(attrs={"spellcheck": "false", "class": "mono"}),
    )
    external_id = forms.CharField(
        required=False,
        max_length=1224,
        label=gettext_lazy("External id"),
        widget=forms.TextInput(attrs={"spellcheck": "false", "class": "mono"}),
        help_text=gettext_lazy(
            "The role's trust policy should demand it, so that nobody else can make Keystead's user act for them."
        ),
    )
    default_region = forms.CharField(
        max_length=32,
        label=gettext_lazy("Default region"),
        widget=forms.TextInput(attrs={"list": "regions", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, vault: Vault, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["group"].choices = group_choices(vault)  # type: ignore[attr-defined]

    def sign_in(self) -> dict[str, Any]:
        """The values that say how Keystead signs in; a role's only where one is assumed."""
        given = self.cleaned_data
        assumes = given["auth_method"] == CspAccount.AuthMethod.ASSUME_ROLE
        return {
            "auth_method": given["auth_method"],
            "access_key_id": given["access_key_id"].strip(),
            "role_arn": given["role_arn"].strip() if assumes else "",
            "external_id": given["external_id"].strip() if assumes else "",
            "default_region": given["default_region"].strip(),
        }

    def about(self) -> dict[str, Any]:
        """Name, description, group."""
        given = self.cleaned_data
        group = UUID(given["group"]) if given["group"] else None
        return {"name": given["name"], "description": given["description"], "group": group}


class NewAccountForm(_AccountFields):
    """A credential at a cloud."""

    partition = forms.ChoiceField(label=gettext_lazy("Cloud"), initial=CspAccount.Partition.AWS)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["partition"].choices = [  # type: ignore[attr-defined]
            (value, label)
            for value, label in CspAccount.Partition.choices
            if value != CspAccount.Partition.SIMULATOR or simulator_offered()
        ]


class AccountForm(_AccountFields):
    """What of an account may change. The secret only when it is replaced."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["secret_access_key"].required = False
        self.fields["secret_access_key"].label = gettext("New secret access key")
        self.fields["secret_access_key"].help_text = gettext(
            "Leave it empty to keep the one there is. A new access key id needs its secret."
        )


class RotationForm(RotationFields):
    """When the access key is replaced by itself."""


def group_choices(vault: Vault) -> list[tuple[str, str]]:
    """The vault's groups for a choice, with none first."""
    rows = Group.objects.filter(vault=vault).order_by("name").values_list("pk", "name")
    return [("", gettext("None: every cloud admin of the vault")), *((str(pk), name) for pk, name in rows)]


def _zone(request: Any) -> str:
    return getattr(request.user, "time_zone", "") or "UTC"


def _url(name: str, vault: Vault, **more: Any) -> str:
    return reverse(name, kwargs={"vault_id": vault.pk, **more})


def _fetch(request: Any, vault: Vault, account_id: UUID, permission: Permission = VIEW) -> CspAccount:
    row: CspAccount = request.actor.fetch(CspAccount, account_id, permission)
    if row.vault_id != vault.pk:
        raise NotFound("There is no such CSP account in this vault.")
    return row


def _trial(request: Any, vault: Vault) -> bool:
    """Whether to propose the simulator: it runs, the vault has no account there, and this person may make one."""
    return simulator_offered() and request.actor.may(MANAGE, vault) and trial_account(vault) is None


@vault_page(VIEW, methods=("GET", "HEAD"))
def account_list(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/csp-accounts/"""
    rows = (
        request.actor.visible(CspAccount)
        .filter(vault=vault)
        .select_related("group")
        .annotate(set_count=Count("key_sets"))
    )
    offer = _trial(request, vault)
    allowed = can(request.actor, MANAGE, vault)
    found = read_list(
        request,
        rows,
        LISTING,
        COLUMNS,
        id="csp-accounts",
        row_template="cloudkeys/csp_accounts/row.html",
        menus=MENUS,
        search_words=gettext("Search name, access key id or account number"),
        empty_template="cloudkeys/csp_accounts/empty.html",
        offer_trial=offer,
        can_add=allowed,
        new_url=_url("csp-account-new", vault),
    )
    context = {"help": HELP, "can_add": allowed, "offer_trial": offer}
    return list_page(request, "cloudkeys/csp_accounts/list.html", found, context)


@vault_page(MANAGE)
def account_new(request: Any, vault: Vault) -> HttpResponse:
    """GET, POST /v/<id>/csp-accounts/new/"""
    initial = {"external_id": secrets.token_hex(16), "time_zone": _zone(request)}
    draft = request.GET.get("draft", "")
    form = NewAccountForm(request.POST or None, vault=vault, initial=initial)
    if request.method == "POST":

        def work(values: dict[str, Any]) -> CspAccount:
            return accounts.create_csp_account(
                request.actor,
                vault,
                **form.about(),
                **form.sign_in(),
                partition=values["partition"],
                secret_access_key=Secret(values["secret_access_key"]),
                rotation_schedule=form.rotation_schedule(),
            )

        made = submit(request, form, work)
        if made is not None:
            back = _wizard(vault, draft, made)
            if back:
                return done(request, back, gettext("%(name)s is added.") % {"name": made.name})
            # Its page tests the connection as soon as it is open.
            url = _url("csp-account", vault, account_id=made.pk)
            return done(
                request,
                url,
                gettext("%(name)s is added. Its connection is being tested.") % {"name": made.name},
            )
    context = {
        "form": form,
        "help": HELP,
        "regions": sorted(naming.regions_of("aws")),
        "policy": aws_policy.least_privilege_policy("aws"),
        "offer_trial": _trial(request, vault),
    }
    return page(request, "cloudkeys/csp_accounts/new.html", context, status=form.status)


@vault_page(MANAGE)
def account_try(request: Any, vault: Vault) -> HttpResponse:
    """POST /v/<id>/csp-accounts/try/: the account on the bundled simulator, made when there is none."""
    if request.method != "POST":
        return done(request, _url("csp-accounts", vault))
    trial = try_simulator(request.actor, vault)
    words = (
        gettext("%(name)s is added. Everything in it is simulated.") % {"name": trial.account.name}
        if trial.created
        else gettext("This vault has %(name)s already.") % {"name": trial.account.name}
    )
    back = _wizard(vault, request.POST.get("draft", ""), trial.account)
    return done(request, back or _url("csp-account", vault, account_id=trial.account.pk), words)


def _wizard(vault: Vault, draft: str, account: CspAccount) -> str:
    """Back to the key set that is being made, with the new account chosen; empty when nobody came from there."""
    found = uuid_or_none(draft)
    if found is None:
        return ""
    return _url("key-set-step", vault, draft_id=found, step="account") + f"?account={account.pk}"


# --- one account ----------------------------------------------------------------------------------------------------


def _context(request: Any, vault: Vault, row: CspAccount, tab: str) -> dict[str, Any]:
    labels = {
        "connection": gettext("Connection"),
        "credential": gettext("Credential"),
        "policy": gettext("IAM policy"),
        "used-by": gettext("Used by"),
    }
    tabs = [
        (
            labels[name],
            _url("csp-account", vault, account_id=row.pk)
            if name == "connection"
            else _url("csp-account-tab", vault, account_id=row.pk, tab=name),
            name == tab,
        )
        for name in TABS
    ]
    return {"row": row, "tab": tab, "tabs": tabs, "help": HELP, "can_manage": can(request.actor, MANAGE, row)}


def _checks(row: CspAccount) -> dict[str, Any]:
    """The outcome of the last test: by feature, what lacks something first."""
    checks = (row.health_detail or {}).get("checks") or []
    order = {"denied": 0, "unknown": 1, "allowed": 2}
    features = []
    for feature, group in groupby(sorted(checks, key=lambda c: c["feature"]), key=lambda c: c["feature"]):
        members = sorted(group, key=lambda c: (order.get(c["result"], 1), c["action"]))
        features.append(
            {"name": feature, "checks": members, "worst": min(order.get(c["result"], 1) for c in members)}
        )
    features.sort(key=lambda f: (f["worst"], f["name"]))
    counted = {result: sum(1 for check in checks if check["result"] == result) for result in order}
    return {
        "features": features,
        "total": len(checks),
        **counted,
        "error": (row.health_detail or {}).get("error"),
        "lost_features": [f["name"] for f in features if f["worst"] == 0],
    }


@vault_page(VIEW, methods=("GET", "HEAD"))
def account_detail(request: Any, vault: Vault, account_id: UUID) -> HttpResponse:
    """GET /v/<id>/csp-accounts/<id>/: the connection."""
    row = _fetch(request, vault, account_id)
    context = {**_context(request, vault, row, "connection"), "test": _checks(row)}
    # Never tested: the page itself asks, once, and only for somebody who may.
    context["test_now"] = row.health_checked_at is None and bool(context["can_manage"])
    return page(request, "cloudkeys/csp_accounts/connection.html", context)


@vault_page(MANAGE)
def account_test(request: Any, vault: Vault, account_id: UUID) -> HttpResponse:
    """POST /v/<id>/csp-accounts/<id>/test/: ask the cloud now. By htmx it answers the part of the page."""
    url = _url("csp-account", vault, account_id=account_id)
    row = _fetch(request, vault, account_id)
    if request.method != "POST":
        return done(request, url)
    row = accounts.probe_csp_account(request.actor, row.pk)
    words = {
        CspAccount.Health.OK: gettext("Tested: the credential works and may do all that Keystead needs."),
        CspAccount.Health.DEGRADED: gettext("Tested: the credential works, but lacks permissions."),
        CspAccount.Health.FAILING: gettext("Tested: the credential does not work."),
    }[CspAccount.Health(row.health)]
    if not request.headers.get("HX-Request"):
        return done(request, url, words)
    toast(request, words)
    context = {**_context(request, vault, row, "connection"), "test": _checks(row), "tested": True}
    return partial(request, "cloudkeys/csp_accounts/connection_part.html", context)


@vault_page(VIEW)
def account_tab(request: Any, vault: Vault, account_id: UUID, tab: str) -> HttpResponse:
    """GET /v/<id>/csp-accounts/<id>/<tab>/; POST changes the rotation schedule on its tab."""
    row = _fetch(request, vault, account_id)
    if tab == "credential":
        return _credential(request, vault, row)
    context = _context(request, vault, row, tab)
    if tab == "policy":
        context["policy"] = accounts.least_privilege_policy(request.actor, row.pk)
        if row.auth_method == CspAccount.AuthMethod.ASSUME_ROLE:
            user = (
                f"arn:{naming.arn_partition(row.partition)}:iam::<account>:user/<user of {row.access_key_id}>"
            )
            context["trust"] = aws_policy.trust_policy(user, row.external_id)
        return page(request, "cloudkeys/csp_accounts/policy.html", context)
    if tab == "used-by":
        context["used"] = account_dependents(request.actor, row.pk)
        return page(request, "cloudkeys/csp_accounts/used_by.html", context)
    raise NotFound("There is no such part of this page.")


def _credential(request: Any, vault: Vault, row: CspAccount) -> HttpResponse:
    initial = {"revision": row.revision, **rotation_initial(row.rotation_schedule, _zone(request))}
    form = RotationForm(request.POST or None, initial=initial)
    if request.method == "POST":
        request.actor.require(MANAGE, row)

        def work(values: dict[str, Any]) -> CspAccount:
            return accounts.update_csp_account(
                request.actor,
                row.pk,
                {"rotation_schedule": form.rotation_schedule()},
                expected_revision=form.expected,
            )

        changed = submit(request, form, work, target=row)
        if changed is not None:
            url = _url("csp-account-tab", vault, account_id=row.pk, tab="credential")
            return done(
                request,
                url,
                gettext("Saved: %(schedule_words)s.")
                % {"schedule_words": schedule_words(parse_schedule(changed.rotation_schedule)).lower()},
            )
        explain_schedule(form, row)
    history = list(
        request.actor.visible(Operation)
        .filter(target_id=row.pk, kind=ROTATE)
        .order_by("-created_at")[:_HISTORY]
    )
    running = next((op for op in history if op.state in Operation.UNFINISHED), None)
    context = {
        **_context(request, vault, row, "credential"),
        "form": form,
        "schedule": schedule_words(parse_schedule(row.rotation_schedule)),
        "history": [
            {
                "icon": {"SUCCEEDED": "circle-check", "FAILED": "circle-x"}.get(op.state, "circle-dot"),
                "title": {
                    "SUCCEEDED": "Access key replaced",
                    "FAILED": "Rotation failed",
                    "CANCELLED": "Rotation cancelled",
                }.get(op.state, "Rotation under way"),
                "at": op.finished_at or op.created_at,
                "by": op.requested_by_name,
                "words": (op.error or {}).get("cause", "") if op.state == "FAILED" else "",
                "url": operation_url(op),
            }
            for op in history
        ],
        "can_rotate": Can(False, gettext("A rotation is under way."))
        if running or row.rotation_state != CspAccount.Rotation.IDLE
        else can(request.actor, MANAGE, row),
    }
    shown = running or (history[0] if history and history[0].state == Operation.State.FAILED else None)
    if shown is not None:
        url = _url("csp-account-progress", vault, account_id=row.pk, operation_id=shown.pk)
        context["progress"] = progress_of(shown, url, gettext("Rotation of the access key"))
    return page(request, "cloudkeys/csp_accounts/credential.html", context, status=form.status)


def explain_schedule(form: RotationFields, row: Any) -> None:
    """After a stale revision: what the schedule is now beside what was typed, in words."""
    if form.stale is None or not form.is_valid():
        return
    fresh = type(row)._default_manager.get(pk=row.pk)
    theirs = schedule_words(parse_schedule(fresh.rotation_schedule))
    yours = schedule_words(parse_schedule(form.rotation_schedule()))
    if theirs != yours:
        form.stale = (*form.stale, Difference(gettext("Rotation"), theirs, yours))


@vault_page(VIEW, methods=("GET", "HEAD"))
def account_progress(request: Any, vault: Vault, account_id: UUID, operation_id: UUID) -> HttpResponse:
    """GET .../progress/<id>/: the part alone, for htmx."""
    row = _fetch(request, vault, account_id)
    operation = request.actor.visible(Operation).filter(pk=operation_id, target_id=row.pk).first()
    if operation is None:
        raise NotFound("There is no such operation, or it is not yours.")
    context = {"progress": progress_of(operation, request.path, gettext("Rotation of the access key"))}
    return partial(request, "parts/progress.html", context)


@vault_page(MANAGE)
def account_rotate(request: Any, vault: Vault, account_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/csp-accounts/<id>/rotate/"""
    row = _fetch(request, vault, account_id, MANAGE)
    back = _url("csp-account-tab", vault, account_id=row.pk, tab="credential")
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST":
        begun = submit(request, form, lambda values: accounts.rotate_csp_credential(request.actor, row.pk))
        if begun is not None:
            return done(request, back, gettext("The rotation has begun."))
    return confirm(
        request,
        form,
        title=gettext("Rotate the access key of %(name)s?") % {"name": row.name},
        words=gettext("Keystead makes a second access key in IAM, tries it, and uses it from then on."),
        consequences=(
            (
                "circle-check",
                gettext("At no moment is Keystead without a working credential; keys go on serving."),
            ),
            (
                "key-round",
                gettext(
                    "%(access_key_id)s is switched off, and deleted after a time in which it could be switched on "
                    "again."
                )
                % {"access_key_id": row.access_key_id},
            ),
            (
                "triangle-alert",
                gettext(
                    "Anything else that signs in with this access key stops working. Keystead's should be its own."
                ),
            ),
        ),
        button=gettext("Rotate access key"),
        cancel=back,
    )


@vault_page(MANAGE)
def account_edit(request: Any, vault: Vault, account_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/csp-accounts/<id>/edit/"""
    row = _fetch(request, vault, account_id, MANAGE)
    initial = {
        "revision": row.revision,
        "group": str(row.group_id or ""),
        **{
            name: getattr(row, name)
            for name in (
                "name",
                "description",
                "auth_method",
                "access_key_id",
                "role_arn",
                "external_id",
                "default_region",
            )
        },
        **rotation_initial(row.rotation_schedule, _zone(request)),
    }
    initial["external_id"] = initial["external_id"] or secrets.token_hex(16)
    form = AccountForm(request.POST or None, vault=vault, initial=initial)
    back = _url("csp-account", vault, account_id=row.pk)
    if request.method == "POST":

        def work(values: dict[str, Any]) -> CspAccount:
            secret = values["secret_access_key"]
            changes = {**form.about(), **form.sign_in(), "rotation_schedule": form.rotation_schedule()}
            return accounts.update_csp_account(
                request.actor,
                row.pk,
                changes,
                secret_access_key=Secret(secret) if secret else None,
                expected_revision=form.expected,
            )

        changed = submit(request, form, work, target=row)
        if changed is not None:
            return done(request, back, gettext("Saved. Test the connection to see that it still works."))
        if form.stale is not None:
            # Never beside each other in a diff; and a group is shown by its name, not by an id.
            form.stale = tuple(
                d
                for d in form.stale
                if d.label != form.fields["secret_access_key"].label and d.label != "Admin group"
            )
            explain_schedule(form, row)
    context = {
        "form": form,
        "row": row,
        "help": HELP,
        "regions": sorted(naming.regions_of(row.partition)),
        "back": back,
    }
    return page(request, "cloudkeys/csp_accounts/edit.html", context, status=form.status)


@vault_page(MANAGE)
def account_delete(request: Any, vault: Vault, account_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/csp-accounts/<id>/delete/"""
    row = _fetch(request, vault, account_id, MANAGE)
    back = _url("csp-account", vault, account_id=row.pk)
    used = account_dependents(request.actor, row.pk)
    form = ConfirmForm(request.POST or None, reason="", typed=row.name, initial={"revision": row.revision})
    if request.method == "POST":

        def work(values: dict[str, Any]) -> bool:
            accounts.delete_csp_account(request.actor, row.pk, expected_revision=form.expected)
            return True

        if submit(request, form, work, target=row):
            return done(
                request, _url("csp-accounts", vault), gettext("%(name)s is deleted.") % {"name": row.name}
            )
    return confirm(
        request,
        form,
        title=gettext("Delete %(name)s?") % {"name": row.name},
        words=gettext("Keystead forgets this credential."),
        consequences=(
            ("trash-2", gettext("The stored secret is erased. Nobody can bring it back.")),
            (
                "cloud",
                gettext(
                    "Nothing changes in the cloud: access key %(access_key_id)s stays valid until you delete it "
                    "there."
                )
                % {"access_key_id": row.access_key_id},
            ),
            ("scroll-text", gettext("What was done with it stays in the audit record.")),
        ),
        button=gettext("Delete account"),
        cancel=back,
        danger=True,
        template="cloudkeys/confirm_obstacles.html",
        obstacles=used.obstacles,
        obstacle_links=[
            (each.name, _url("key-set", vault, key_set_id=each.id)) for each in used.key_set_examples
        ],
    )
