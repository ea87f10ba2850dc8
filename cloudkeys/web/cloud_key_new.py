"""New cloud keys: one, with its principals picked by typing and its policy shown as it grows, or many from a CSV file."""

from __future__ import annotations

import csv
import io
from typing import Any
from uuid import UUID

from django import forms
from django.db.models import Prefetch
from django.http import HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext, gettext_lazy

from cloudkeys import naming
from cloudkeys.api.key_shapes import KeyFieldsInput
from cloudkeys.models import AwsStoreLink, KeySet
from cloudkeys.providers.base import ProviderError
from cloudkeys.schedules import parse_expiration, parse_schedule
from cloudkeys.services import bulk, cloud_keys
from cloudkeys.services.cloud_keys import CloudKeyMade
from cloudkeys.services.key_views import policy_preview_for
from cloudkeys.services.principals import pick_principals
from cloudkeys.services.renderers import short_schedule
from cloudkeys.services.wizard import expiration_words, schedule_words
from cloudkeys.web.cloud_keys import HELP
from cloudkeys.web.key_bulk import read_tags
from cloudkeys.web.schedules import ExpirationFields, RotationFields
from vault.errors import DomainError, NotFound, ValidationFailed
from vault.models import Vault
from vault.permissions import Permission
from vault.web.forms import PageForm, submit
from vault.web.frame import done, page, partial, uuid_or_none, vault_page
from vault.web.palette import maybe_url

CREATE = Permission.CLOUD_KEYS_CREATE
PRINCIPALS = ("administrators", "users")
MOST_KEY_SETS = 200
MOST_BYTES = 900_000
INHERITED = "inherited"


class KeyForm(RotationFields, ExpirationFields):
    """One key. Administrators and users stand beside it as pickers; their values come from the request."""

    name = forms.CharField(
        max_length=250,
        help_text=gettext_lazy("Also the alias in AWS KMS. Letters, digits, '/', '_' and '-'."),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    region = forms.ChoiceField()
    description = forms.CharField(max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": "2"}))
    tags = forms.CharField(
        required=False,
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": "2", "placeholder": "team=payments"}),
        help_text=gettext_lazy("One to a line, as name=value."),
    )
    external_key_id = forms.CharField(
        required=False,
        max_length=128,
        label=gettext_lazy("External key id"),
        help_text=gettext_lazy(
            "Left empty, one is made. Give one only when AWS or another system knows it already."
        ),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, regions: list[tuple[str, Any]], key_set: KeySet, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["region"].choices = regions  # type: ignore[attr-defined]
        rotation = schedule_words(parse_schedule(key_set.rotation_schedule))
        ending = expiration_words(parse_expiration(key_set.expiration))
        for name, words in (("rotation", rotation), ("ending", ending)):
            field = self.fields[name]
            told = gettext("As the key set says, now and whenever that changes: %(words)s") % {
                "words": words[:1].lower() + words[1:]
            }
            field.choices = [(INHERITED, told), *list(field.choices)]  # type: ignore[attr-defined]
            field.initial = INHERITED
        self.principal_errors: dict[str, list[str]] = {name: [] for name in PRINCIPALS}

    def clean_tags(self) -> dict[str, str]:
        """Name and value of each line."""
        return read_tags(self.cleaned_data["tags"])

    def refuse(self, error: ValidationFailed) -> None:
        """As the forms that it is made of; principals and tags name the single entry that is wrong."""
        told = error.errors or [{"field": error.field, "message": error.message, "cure": error.cure}]
        left = []
        for row in told:
            name = str(row.get("field", ""))
            base = name.partition("[")[0].partition(".")[0]
            if base in PRINCIPALS:
                self.principal_errors[base].append(f"{row['message']} {row.get('cure', '')}".strip())
                self.add_error(None, gettext("A principal is not right; see below."))
            else:
                left.append({**row, "field": base if base == "tags" else name})
        if left:
            super().refuse(ValidationFailed(error.message, errors=left))

    def own(self) -> dict[str, Any]:
        """Schedule and expiration where they are the key's own."""
        found: dict[str, Any] = {}
        if self.cleaned_data.get("rotation") != INHERITED:
            found["rotation_schedule"] = self.rotation_schedule()
        if self.cleaned_data.get("ending") != INHERITED:
            found["expiration"] = self.expiration()
        return found


def _key_sets(request: Any, vault: Vault) -> list[KeySet]:
    """Those that keys can be made in: used as external key store."""
    links = AwsStoreLink.objects.exclude(state=AwsStoreLink.State.GONE).order_by("region")
    rows = request.actor.visible(KeySet).filter(vault=vault, xks_key_store__isnull=False)
    rows = rows.select_related("csp_account", "xks_key_store", "group").prefetch_related(
        Prefetch("xks_key_store__links", queryset=links)
    )
    return list(rows.order_by("name")[:MOST_KEY_SETS])


@vault_page(CREATE, methods=("GET", "HEAD"))
def key_new(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/cloud-keys/new/: in which key set. With only one there is nothing to choose."""
    found = _key_sets(request, vault)
    chosen = uuid_or_none(request.GET.get("key_set", ""))
    allowed = [row for row in found if request.actor.may(CREATE, row)]
    if chosen is None and len(found) == 1 and allowed and "choose" not in request.GET:
        chosen = found[0].pk
    if chosen is not None:
        return HttpResponseRedirect(reverse("cloud-key-new-in", args=[vault.pk, chosen]))
    context = {
        "key_sets": [(row, row in allowed) for row in found],
        "help": HELP,
        "key_set_url": maybe_url("key-set-new", vault_id=vault.pk)
        or maybe_url("key-sets", vault_id=vault.pk),
        "most": MOST_KEY_SETS,
    }
    return page(request, "cloudkeys/cloud_keys/choose_key_set.html", context)


def _fetch_key_set(request: Any, vault: Vault, key_set_id: UUID) -> KeySet:
    key_set: KeySet = request.actor.fetch(KeySet, key_set_id, CREATE)
    if key_set.vault_id != vault.pk:
        raise NotFound("There is no such key set in this vault.")
    return key_set


def _regions(key_set: KeySet, links: list[AwsStoreLink]) -> list[tuple[str, Any]]:
    """Those with a key store in AWS first; the others are for keys whose KMS key you make yourself."""
    account = key_set.csp_account
    known = sorted(naming.regions_of(account.partition if account is not None else "aws"))
    with_store = [
        (
            link.region,
            f"{link.region} ({'linked' if link.linked else 'not linked'}, {link.get_state_display().lower()})",
        )
        for link in links
    ]
    taken = {link.region for link in links}
    rest = [(region, region) for region in known if region not in taken]
    if not with_store:
        return rest
    return [
        (gettext("With a key store in AWS"), with_store),
        (gettext("Without one yet: no KMS key is made"), rest),
    ]


@vault_page(CREATE)
def key_new_in(request: Any, vault: Vault, key_set_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/cloud-keys/new/<key_set_id>/"""
    key_set = _fetch_key_set(request, vault, key_set_id)
    account = key_set.csp_account
    links = list(AwsStoreLink.objects.filter(store__key_set=key_set).exclude(state=AwsStoreLink.State.GONE))
    form = KeyForm(
        request.POST or None,
        regions=_regions(key_set, links),
        key_set=key_set,
        initial={
            "region": links[0].region if links else account.default_region if account is not None else "",
            "time_zone": request.user.time_zone or "UTC",
        },
    )
    picked = {name: _picked(request, name) for name in PRINCIPALS}
    if request.method == "POST":

        def work(values: dict[str, Any]) -> CloudKeyMade:
            plain = {
                name: values[name] for name in ("name", "region", "description", "external_key_id", "tags")
            }
            plain |= picked
            return cloud_keys.create_cloud_key(request.actor, key_set.pk, **plain, **form.own())

        made = submit(request, form, work)
        if made is not None:
            return done(request, _made_url(vault, made), _made_words(made))
    context = {
        "form": form,
        "key_set": key_set,
        "account": account,
        "links": links,
        "any_linked": any(link.linked for link in links),
        "pickers": [_picker(vault, key_set, form, name, picked[name]) for name in PRINCIPALS]
        if account
        else [],
        "preview": _preview(request, key_set, picked),
        "preview_url": reverse("cloud-key-new-policy", args=[vault.pk, key_set.pk]),
        "only_one": KeySet.objects.filter(vault=vault, xks_key_store__isnull=False)[:2].count() == 1,
        "help": HELP,
    }
    return page(request, "cloudkeys/cloud_keys/new.html", context, status=form.status)


def _made_url(vault: Vault, made: CloudKeyMade) -> str:
    return maybe_url("cloud-key", vault_id=vault.pk, key_id=made.key.pk) or (
        f"{reverse('cloud-keys', args=[vault.pk])}?search={made.key.external_key_id}"
    )


def _made_words(made: CloudKeyMade) -> str:
    if made.operation is not None:
        return gettext("%(name)s is made. Its KMS key and alias are being made in %(region)s.") % {
            "name": made.key.name,
            "region": made.key.region,
        }
    return gettext("%(name)s is made. Its KMS key in AWS is yours to make; the key's page says how.") % {
        "name": made.key.name
    }


def _picked(request: Any, name: str) -> list[str]:
    found = [arn.strip() for arn in request.POST.getlist(name)[:200]]
    # Without scripts they are typed, one to a line.
    found += [arn.strip() for arn in request.POST.get(f"{name}_typed", "").split()[:200]]
    return list(dict.fromkeys(arn for arn in found if arn))


def _picker(vault: Vault, key_set: KeySet, form: KeyForm, name: str, picked: list[str]) -> dict[str, Any]:
    hints = {
        "administrators": gettext(
            "May change the KMS key and its policy in AWS. They cannot use it to read data."
        ),
        "users": gettext("May encrypt and decrypt with it, and let AWS services do so for them."),
    }
    return {
        "name": name,
        "label": name.capitalize(),
        "url": reverse("cloud-key-new-principals", args=[vault.pk, key_set.pk]),
        "many": True,
        "optional": True,
        "placeholder": gettext("Type a user's or role's name, or a whole ARN"),
        "picked": [(arn, arn.partition(":iam::")[2].partition(":")[2] or arn) for arn in picked],
        "help": hints[name],
        "errors": form.principal_errors[name],
    }


def _preview(request: Any, key_set: KeySet, picked: dict[str, list[str]]) -> dict[str, Any]:
    try:
        return {"policy": policy_preview_for(request.actor, key_set.pk, **picked)}
    except ValidationFailed as error:
        return {"error": error}


@vault_page(CREATE, methods=("POST",))
def key_policy(request: Any, vault: Vault, key_set_id: UUID) -> HttpResponse:
    """POST /v/<id>/cloud-keys/new/<key_set_id>/policy/: the key policy with the principals picked so far. Changes nothing."""
    key_set = _fetch_key_set(request, vault, key_set_id)
    preview = _preview(request, key_set, {name: _picked(request, name) for name in PRINCIPALS})
    return partial(request, "cloudkeys/cloud_keys/policy.html", {"preview": preview, "key_set": key_set})


@vault_page(CREATE, methods=("GET", "HEAD"))
def key_principals(request: Any, vault: Vault, key_set_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/new/<key_set_id>/principals/?q=: options of the pickers."""
    key_set = _fetch_key_set(request, vault, key_set_id)
    text = request.GET.get("q", "").replace("\x00", "").strip()[:300]
    options, note = [], ""
    if key_set.csp_account_id is not None:
        try:
            found = pick_principals(request.actor, key_set.csp_account_id, search=text)
            options = [(each.arn, each.name, each.kind.lower()) for each in found.items]
            if found.next_offset is not None:
                note = gettext("%(value)s more; type on to narrow them.") % {
                    "value": f"{found.total - len(found.items):,}"
                }
        except ProviderError as error:
            note = gettext("AWS did not list its users and roles: %(message)s A whole ARN can be typed.") % {
                "message": error.message
            }
        except DomainError as error:
            note = gettext("%(message)s A whole ARN can be typed.") % {"message": error.message}
    if text.startswith("arn:") and text not in [arn for arn, _, _ in options]:
        options.append((text, text.partition(":iam::")[2].partition(":")[2] or text, gettext("as typed")))
    return partial(request, "cloudkeys/cloud_keys/principals.html", {"options": options, "note": note})


# --- many from a file -----------------------------------------------------------------------------------------------


class CsvForm(PageForm):
    """A key set, and a file or the text of one."""

    one_of = frozenset({"file", "csv"})

    key_set = forms.ChoiceField(label=gettext_lazy("Key set"))
    file = forms.FileField(
        required=False,
        label=gettext_lazy("CSV file"),
        widget=forms.FileInput(attrs={"accept": ".csv,text/csv"}),
        help_text=f"With a header line: name, region, and if you like {', '.join(bulk.COLUMNS[2:])}. At most {bulk.MAX_ROWS} rows. "
        "Tags as team=pay;env=prod; rotation_schedule as none, inherited, 90d, 6w, 12m or 90d@3/Europe/Berlin.",
    )
    csv = forms.CharField(
        required=False,
        label=gettext_lazy("Or its text"),
        strip=False,
        max_length=MOST_BYTES,
        widget=forms.Textarea(
            attrs={
                "rows": "11",
                "class": "mono",
                "spellcheck": "false",
                "placeholder": "name,region\npayments-a,eu-west-1",
            }
        ),
    )

    def __init__(self, *args: Any, key_sets: list[KeySet], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        names = [
            (str(row.pk), f"{row.name}{f', {row.csp_account.name}' if row.csp_account else ''}")
            for row in key_sets
        ]
        self.fields["key_set"].choices = names  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        """The text, wherever it came from."""
        cleaned: dict[str, Any] = super().clean() or {}
        given = cleaned.pop("file", None)
        if given is not None:
            if given.size > MOST_BYTES:
                self.add_error("file", gettext("The file is larger than 900 kB. Split it."))
            else:
                try:
                    cleaned["csv"] = given.read().decode("utf-8-sig")
                except UnicodeDecodeError:
                    self.add_error(
                        "file", gettext("The file is not UTF-8. Save it as CSV UTF-8, and choose it again.")
                    )
        elif not cleaned.get("csv", "").strip() and "csv" not in self.errors:
            self.add_error("csv", gettext("Choose a file, or paste its text."))
        return cleaned


@vault_page(CREATE)
def keys_csv(request: Any, vault: Vault) -> HttpResponse:
    """GET, POST /v/<id>/cloud-keys/csv/: every row is checked and shown first; nothing is made while one is wrong."""
    key_sets = [row for row in _key_sets(request, vault) if request.actor.may(CREATE, row)]
    initial = {"key_set": request.GET.get("key_set", "")}
    form = CsvForm(request.POST or None, request.FILES or None, key_sets=key_sets, initial=initial)
    context: dict[str, Any] = {"form": form, "key_sets": key_sets, "help": HELP, "columns": bulk.COLUMNS}
    context["key_set_url"] = maybe_url("key-set-new", vault_id=vault.pk)
    if request.method == "POST":
        making = "make" in request.POST
        if making:
            begun = submit(request, form, lambda values: _start(request, values))
            if begun is not None:
                return done(request, reverse("cloud-keys-work", args=[vault.pk, begun.pk]))
        if form.is_valid():
            text = form.cleaned_data["csv"]
            if text != form.data.get("csv"):
                # The file's text takes the place of the file, which a browser does not keep.
                data = form.data.copy()  # type: ignore[attr-defined]
                data["csv"] = text
                form.data = data
            try:
                checked = bulk.check_csv(
                    request.actor, UUID(form.cleaned_data["key_set"]), text, KeyFieldsInput
                )
            except ValidationFailed as error:
                form.refuse(error)
            else:
                context |= {
                    "checked": checked,
                    "rows": [_shown_row(*pair) for pair in zip(checked.outcomes, checked.rows, strict=True)],
                    "wrong": [outcome for outcome in checked.outcomes if not outcome.ok],
                }
        if form.errors:
            form.status = 422
    return page(request, "cloudkeys/cloud_keys/csv.html", context, status=form.status)


def _shown_row(
    outcome: bulk.RowOutcome, row: dict[str, Any]
) -> tuple[bulk.RowOutcome, dict[str, Any], str, str]:
    """A row as it was understood: with its tags, and its rotation."""
    schedule = row.get("rotation_schedule")
    tags = row.get("tags")
    return (
        outcome,
        row,
        bulk.tags_cell(tags) if isinstance(tags, dict) else "",
        short_schedule(schedule) if outcome.ok and isinstance(schedule, dict) else "",
    )


def _start(request: Any, values: dict[str, Any]) -> Any:
    key_set_id = UUID(values["key_set"])
    checked = bulk.check_csv(request.actor, key_set_id, values["csv"], KeyFieldsInput)
    if not checked.ok:
        raise ValidationFailed(
            "A row is wrong now; nothing was made.",
            field="csv",
            cure="See the rows below, correct them, check again.",
        )
    return bulk.start_csv(request.actor, key_set_id, checked)


@vault_page(CREATE, methods=("GET", "HEAD"))
def keys_csv_sample(request: Any, vault: Vault) -> HttpResponse:
    """GET /v/<id>/cloud-keys/csv/sample/"""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(bulk.COLUMNS)
    writer.writerow(["payments-a", "eu-west-1", "Card data", "", "", "", "team=pay;env=prod", "90d"])
    writer.writerow(
        ["payments-b", "eu-west-1", "", "", "arn:aws:iam::111122223333:user/ada",
         "arn:aws:iam::111122223333:role/app arn:aws:iam::111122223333:role/batch", "", "inherited"]
    )  # fmt: skip
    return HttpResponse(
        text.getvalue(),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": 'attachment; filename="cloud-keys.csv"'},
    )
