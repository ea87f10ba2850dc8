"""Access rules of a store and of its keys: what is enforced, the editor, history, dry run, shadow and enforcing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpResponse, HttpResponseRedirect
from django.utils import timezone
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys.models import CloudKey, XksKeyStore
from vault.errors import Conflict, NotFound, ValidationFailed
from vault.generations import wait_for_generation
from vault.models import Vault
from vault.permissions import Permission
from vault.web.forms import ConfirmForm, confirm, submit
from vault.web.frame import done, page, partial, uuid_or_none, vault_page
from vault.web.vaults import confirmation_words
from xks.dry_run import DryRun
from xks.models import AccessRuleSet, AccessRuleVersion
from xks.policy_lint import locks_everybody_out
from xks.rules_input import check_rules
from xks.services import access_rules, dry_runs
from xks.web.rule_editor import (
    FIELD_CHOICES,
    RuleRow,
    RulesForm,
    act,
    diff_rows,
    json_of,
    parsed_json,
    put_errors,
    read_rows,
    rows_of,
    words_of,
)
from xks.web.store_frame import find_store, store_context, store_url

SEE = Permission.ACCESS_RULES_VIEW
MANAGE = Permission.ACCESS_RULES_MANAGE
MOST_KEYS = 200
MOST_TOLD = 50
DAYS = (1, 7, 30)
HELP = {
    "title": gettext_noop("What access rules are"),
    "words": (
        (
            gettext_noop(
                "AWS IAM decides who may use a KMS key, and Keystead trusts that. Access rules "
                "decide once more, outside AWS: no IAM policy, "
                "however wrong, lets through what they refuse."
            )
        ),
        (
            gettext_noop(
                "The first denial that matches refuses. Then, if there is any allow rule, one must "
                "match. A condition on something that the "
                "request does not have never holds, negated or not. Rules of the store and of the key must both let a use through."
            )
        ),
        gettext_noop(
            "Write a version, try it on recorded traffic, put it in the shadow, and enforce it when it "
            "denies nobody that you need."
        ),
    ),
    "links": ((gettext_noop("Access rules and limits"), "access-rules"),),
}


@dataclass(frozen=True)
class Owner:
    """Whose rules: a store's, or one of its keys'."""

    store: XksKeyStore
    key: CloudKey | None
    rule_set: AccessRuleSet | None

    @property
    def name(self) -> str:
        """As people call it."""
        return self.key.name if self.key is not None else self.store.key_set.name

    @property
    def what(self) -> str:
        """Store or key."""
        return "key" if self.key is not None else "store"

    def url(self, name: str) -> str:
        """An address of these rules."""
        return store_url(name, self.store, **({"key_id": self.key.pk} if self.key is not None else {}))

    @property
    def enforce_url(self) -> str:
        """Where a version is enforced."""
        return self.url("xks-rules-enforce")

    @property
    def shadow_url(self) -> str:
        """Where a version is put in the shadow."""
        return self.url("xks-rules-shadow")

    @property
    def dry_run_url(self) -> str:
        """Where a version is tried."""
        return self.url("xks-rules-dry-run")

    @property
    def diff_url(self) -> str:
        """Where two versions are compared."""
        return self.url("xks-rules-diff")

    @property
    def must(self) -> AccessRuleSet:
        """The rules, which must be there. Raises NotFound."""
        if self.rule_set is None:
            raise NotFound("There are no access rules here yet.", cure="Write the first version.")
        return self.rule_set


def _owner(
    request: Any, vault: Vault, store_id: UUID, key_id: UUID | None, permission: Permission = SEE
) -> Owner:
    store = find_store(request, vault, store_id, permission)
    key: CloudKey | None = None
    if key_id is not None:
        key = request.actor.fetch(CloudKey, key_id, permission)
        if key.store_id != store.pk:
            raise NotFound("This store has no such key.")
    rows = AccessRuleSet.objects.select_related(
        "vault", "store__key_set", "cloud_key", "enforced", "shadowed"
    )
    return Owner(store, key, rows.filter(store=store, cloud_key=key).first())


@dataclass(frozen=True)
class VersionRow:
    """A version in the history."""

    row: AccessRuleVersion
    is_enforced: bool
    is_shadowed: bool
    words: list[tuple[str, str, str]]
    findings: list[Any]
    before: int | None


def _context(request: Any, owner: Owner) -> dict[str, Any]:
    return {
        **store_context(request, owner.store, "xks-store-rules"),
        "owner": owner,
        "rule_set": owner.rule_set,
        "edit_url": owner.url("xks-rules-edit"),
        "here": owner.url("xks-store-rules"),
        "help": HELP,
    }


@vault_page(SEE, methods=("GET", "HEAD"))
def rules(request: Any, vault: Vault, store_id: UUID, key_id: UUID | None = None) -> HttpResponse:
    """GET /v/<id>/stores/<store>/rules/ and .../rules/keys/<key>/"""
    wanted = request.GET.get("key", "")
    owner = _owner(request, vault, store_id, key_id)
    if wanted and key_id is None:
        found = owner.store.cloud_keys.filter(pk=uuid_or_none(wanted) or UUID(int=0)).first()
        if found is None:
            raise NotFound("This store has no such key.")
        return HttpResponseRedirect(store_url("xks-store-rules", owner.store, key_id=found.pk))
    rule_set = owner.rule_set
    versions: list[VersionRow] = []
    shadow = None
    if rule_set is not None:
        rows = list(rule_set.versions.order_by("-number")[:MOST_TOLD])
        versions = [
            VersionRow(
                row,
                row.pk == rule_set.enforced_id,
                row.pk == rule_set.shadowed_id,
                [(rule["name"], rule["effect"], words_of(rule)) for rule in row.rules],
                access_rules.lint_rules(row.rules),
                rows[number + 1].number if number + 1 < len(rows) else None,
            )
            for number, row in enumerate(rows)
        ]
        if rule_set.shadowed is not None:
            shadow = access_rules.sum_shadow(rule_set.shadowed)
    of_keys: list[AccessRuleSet] = []
    keys: list[CloudKey] = []
    if owner.key is None:
        of_keys = list(
            owner.store.access_rule_sets.exclude(cloud_key=None)
            .select_related("cloud_key", "enforced", "shadowed")
            .order_by("cloud_key__name")[:MOST_KEYS]
        )
        keys = list(
            owner.store.cloud_keys.filter(kind=CloudKey.Kind.USER)
            .exclude(state=CloudKey.State.DESTROYED)
            .order_by("name")[:MOST_KEYS]
        )
    current = next((each for each in versions if each.is_enforced), None)
    if rule_set is not None and rule_set.enforced is not None and current is None:
        row = rule_set.enforced
        current = VersionRow(
            row, True, False, [(r["name"], r["effect"], words_of(r)) for r in row.rules], [], None
        )
    context = {
        **_context(request, owner),
        "versions": versions,
        "current": current,
        "shadow": shadow,
        "shadow_principals": list(shadow.principals.items())[:MOST_TOLD] if shadow else [],
        "of_keys": of_keys,
        "keys": keys,
    }
    return page(request, "xks/stores/rules.html", context)


# --- the editor -----------------------------------------------------------------------------------------------------


@vault_page(MANAGE)
def rules_edit(request: Any, vault: Vault, store_id: UUID, key_id: UUID | None = None) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/rules/edit/?from=<version>"""
    owner = _owner(request, vault, store_id, key_id, MANAGE)
    rule_set = owner.rule_set
    if request.method != "POST":
        rows = rows_of(_begin(request, rule_set))
        initial = {"revision": rule_set.revision} if rule_set is not None else {}
        return _editor(request, owner, RulesForm(initial=initial, rows=rows), rows, "form", "")
    view = request.POST.get("view", "form")
    do = request.POST.get("do", "")
    text = request.POST.get("json", "")
    if view == "json":
        try:
            rules_given = parsed_json(text)
        except ValidationFailed as error:
            form = RulesForm(request.POST, rows=[])
            form.is_valid()
            form.refuse(error)
            return _editor(request, owner, form, [], "json", text, status=422)
        rows = rows_of(rules_given)
    else:
        rows = read_rows(request.POST)
        rules_given = json_of(rows)
    form = RulesForm(request.POST, rows=rows)
    if do != "save":
        act(rows, do)
        view = {"json": "json", "form": "form"}.get(do, view)
        text = json.dumps(rules_given if do == "json" else json_of(rows), indent=2) if view == "json" else ""
        form.is_valid()
        return _editor(request, owner, form, rows, view, text)

    def save(values: dict[str, Any]) -> AccessRuleVersion | AccessRuleSet:
        if rule_set is not None:
            return access_rules.add_version(
                request.actor, rule_set.pk, rules=rules_given, expected_revision=form.expected, **values
            )
        key = owner.key
        return access_rules.create_rule_set(
            request.actor,
            store_id=owner.store.pk if key is None else None,
            cloud_key_id=key.pk if key is not None else None,
            rules=rules_given,
            **values,
        )

    saved = submit(request, form, save, target=rule_set)
    if saved is not None:
        number = saved.number if isinstance(saved, AccessRuleVersion) else 1
        url = f"{owner.url('xks-rules-dry-run')}?version={number}"
        return done(
            request,
            url,
            gettext("Version %(number)s is written. Nothing is enforced by it; this is what it would do.")
            % {"number": number},
        )
    return _editor(request, owner, form, rows, view, text, status=form.status)


def _begin(request: Any, rule_set: AccessRuleSet | None) -> Any:
    if rule_set is None:
        return [
            {
                "name": "AWS itself",
                "effect": "ALLOW",
                "conditions": [{"field": "service", "values": ["AWS Internal", "*.amazonaws.com"]}],
            },
            {"name": "", "effect": "ALLOW", "conditions": [{"field": "role", "values": []}]},
        ]
    number = request.GET.get("from", "")
    if number.isascii() and number.isdigit() and len(number) < 9:
        return access_rules.find_version(rule_set, int(number)).rules
    last = rule_set.versions.order_by("-number").first()
    return last.rules if last is not None else []


def _editor(
    request: Any,
    owner: Owner,
    form: RulesForm,
    rows: list[RuleRow],
    view: str,
    text: str,
    *,
    status: int = 200,
) -> HttpResponse:
    context = {
        **_context(request, owner),
        "form": form,
        "rows": rows,
        "view": view,
        "text": text,
        "fields": FIELD_CHOICES,
        "check_url": store_url("xks-rules-check", owner.store),
        **_findings(json_of(rows) if view == "form" or not text else _or_none(text)),
    }
    response = page(
        request,
        "xks/stores/rules_edit.html",
        context,
        part=("editor", "xks/stores/editor.html"),
        status=status,
    )
    if status in (409, 412, 422):
        response["HX-Form"] = "1"
    return response


def _or_none(text: str) -> Any:
    try:
        return parsed_json(text)
    except ValidationFailed:
        return None


@vault_page(MANAGE, methods=("POST",))
def rules_check(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """POST /v/<id>/stores/<store>/rules/check/: what the linter says of what is typed."""
    find_store(request, vault, store_id, MANAGE)
    if request.POST.get("view") == "json":
        try:
            found: Any = parsed_json(request.POST.get("json", ""))
        except ValidationFailed as error:
            return partial(
                request,
                "xks/stores/findings.html",
                {"faults": [error.message], "findings": [], "checked": True},
            )
    else:
        found = json_of(read_rows(request.POST))
    return partial(request, "xks/stores/findings.html", _findings(found))


def _findings(rules_given: Any) -> dict[str, Any]:
    """Faults and findings of what is typed."""
    if rules_given is None:
        return {"faults": [], "findings": [], "checked": False}
    try:
        checked = check_rules(rules_given)
    except ValidationFailed as error:
        return {"faults": put_errors(rows_of(rules_given), error), "findings": [], "checked": True}
    return {"faults": [], "findings": access_rules.lint_rules(checked), "checked": True}


# --- history, dry run ---------------------------------------------------------------------------------------------


def _number(request: Any, name: str) -> int | None:
    text = request.GET.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 9 else None


@vault_page(SEE, methods=("GET", "HEAD"))
def rules_diff(request: Any, vault: Vault, store_id: UUID, key_id: UUID | None = None) -> HttpResponse:
    """GET /v/<id>/stores/<store>/rules/diff/?from=&to="""
    owner = _owner(request, vault, store_id, key_id)
    newer = access_rules.find_version(owner.must, _number(request, "to") or 0)
    older = access_rules.find_version(owner.must, _number(request, "from") or 0)
    context = {
        **_context(request, owner),
        "newer": newer,
        "older": older,
        "rows": diff_rows(older.rules, newer.rules),
        "reordered": older.rules != newer.rules,
        "both": ((older, json.dumps(older.rules, indent=2)), (newer, json.dumps(newer.rules, indent=2))),
    }
    return page(request, "xks/stores/rules_diff.html", context)


@vault_page(SEE, methods=("GET", "HEAD"))
def rules_dry_run(request: Any, vault: Vault, store_id: UUID, key_id: UUID | None = None) -> HttpResponse:
    """GET /v/<id>/stores/<store>/rules/dry-run/?version=&days="""
    owner = _owner(request, vault, store_id, key_id)
    version = access_rules.find_version(owner.must, _number(request, "version") or 0)
    days = _number(request, "days") or 7
    days = days if days in DAYS else 7
    found, refused = _tried(request, owner, version, days)
    context = {
        **_context(request, owner),
        "version": version,
        "days": days,
        "all_days": [(each, each == days) for each in DAYS],
        "found": found,
        "refused": refused,
        "principals": list(found.principals.items())[:MOST_TOLD] if found else [],
        "services": list(found.services.items())[:MOST_TOLD] if found else [],
        "by_rule": list(found.by_rule.items())[:MOST_TOLD] if found else [],
        "is_enforced": version.pk == owner.must.enforced_id,
        "is_shadowed": version.pk == owner.must.shadowed_id,
        "findings": access_rules.lint_rules(version.rules),
    }
    return page(request, "xks/stores/rules_dry_run.html", context)


def _tried(
    request: Any, owner: Owner, version: AccessRuleVersion, days: int
) -> tuple[DryRun | None, ValidationFailed | None]:
    now = timezone.now()
    try:
        return dry_runs.dry_run_rules(
            request.actor, owner.must.pk, version=version.number, since=now - timedelta(days=days), until=now
        ), None
    except ValidationFailed as error:
        return None, error


# --- enforce, shadow ------------------------------------------------------------------------------------------------


class EnforceForm(ConfirmForm):
    """Asked once more when the rules would refuse everybody."""

    even_if_it_locks_out = forms.BooleanField(
        required=False,
        label=gettext_lazy("Enforce them although they refuse everybody, AWS's own services included"),
    )

    def __init__(self, *args: Any, locks_out: bool, **kwargs: Any) -> None:
        super().__init__(*args, reason="required", **kwargs)
        if not locks_out:
            del self.fields["even_if_it_locks_out"]


@vault_page(MANAGE)
def rules_enforce(request: Any, vault: Vault, store_id: UUID, key_id: UUID | None = None) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/rules/enforce/?version= (none: trust AWS IAM)"""
    owner = _owner(request, vault, store_id, key_id, MANAGE)
    number = _number(request, "version")
    version = access_rules.find_version(owner.must, number) if number is not None else None
    locks_out = version is not None and locks_everybody_out(access_rules.lint_rules(version.rules))
    form = EnforceForm(request.POST or None, locks_out=locks_out, initial={"revision": owner.must.revision})
    back = owner.url("xks-store-rules")
    if request.method == "POST":

        def enforce(values: dict[str, Any]) -> tuple[AccessRuleSet, int]:
            return access_rules.enforce_version(
                request.actor, owner.must.pk, version=number, expected_revision=form.expected, **values
            )

        changed = submit(request, form, enforce)
        if changed is not None:
            told = confirmation_words(wait_for_generation(changed[1]))
            what = (
                gettext("Version %(number)s is enforced") % {"number": number}
                if number is not None
                else gettext("AWS IAM alone is trusted again")
            )
            return done(request, back, f"{what}. {told}")
    if version is None:
        return confirm(
            request, form, title=gettext("Trust AWS IAM for %(name)s?") % {"name": owner.name},
            words=gettext("From now on Keystead refuses nothing on account of these rules: what AWS IAM allows is answered."),
            consequences=(("history", gettext("The versions stay, and can be enforced again.")),),
            button=gettext("Trust AWS IAM"), cancel=back,
        )  # fmt: skip
    found, refused = _tried(request, owner, version, 7)
    told = found.sentence if found is not None else (refused.message if refused is not None else "")
    first = (
        gettext("On the last 7 days' traffic it %(told)s.") % {"told": told}
        if found is not None and found.judged
        else told
    )
    consequences = [
        ("activity", first),
        (
            "ban",
            gettext(
                "What it refuses gets AccessDeniedException at once; CloudTrail shows the rule's name to the caller."
            ),
        ),
    ]
    if owner.key is None:
        consequences.append(
            ("key-round", gettext("It judges every key of this store; a key's own rules come on top."))
        )
    return confirm(
        request,
        form,
        title=gettext("Enforce version %(number)s for %(name)s?") % {"number": number, "name": owner.name},
        words=gettext("From now on every use is judged by these rules, after AWS IAM has allowed it."),
        consequences=consequences,
        button=gettext("Enforce version %(number)s") % {"number": number},
        cancel=back,
        danger=True,
    )


@vault_page(MANAGE)
def rules_shadow(request: Any, vault: Vault, store_id: UUID, key_id: UUID | None = None) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/rules/shadow/?version= (none: end it)"""
    owner = _owner(request, vault, store_id, key_id, MANAGE)
    number = _number(request, "version")
    if number is not None:
        access_rules.find_version(owner.must, number)
    elif owner.must.shadowed_id is None:
        raise Conflict("No version is in the shadow.", cure="Look at the rules again.")
    form = ConfirmForm(request.POST or None, initial={"revision": owner.must.revision})
    back = owner.url("xks-store-rules")
    if request.method == "POST":

        def shadow(values: dict[str, Any]) -> tuple[AccessRuleSet, int]:
            return access_rules.shadow_version(
                request.actor, owner.must.pk, version=number, expected_revision=form.expected, **values
            )

        if submit(request, form, shadow) is not None:
            told = (
                gettext("Version %(number)s is in the shadow.") % {"number": number}
                if number is not None
                else gettext("Nothing is in the shadow.")
            )
            return done(request, back, told)
    if number is None:
        return confirm(
            request, form, title=gettext("End the shadow?"), words=gettext("Nothing is counted any more; what is enforced stays."),
            button=gettext("End shadow"), cancel=back,
        )  # fmt: skip
    return confirm(
        request,
        form,
        title=gettext("Put version %(number)s in the shadow?") % {"number": number},
        words=gettext(
            "Live traffic is judged by it beside what is enforced. What it would deny is counted, and nothing is denied."
        ),
        consequences=(("rotate-ccw", gettext("Counting begins at nought.")),),
        button=gettext("Shadow version %(number)s") % {"number": number},
        cancel=back,
    )
