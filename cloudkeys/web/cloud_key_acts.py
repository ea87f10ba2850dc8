"""What people do with a cloud key that takes nothing away: enable, unblock, keep, rotate, retire, ask AWS; and its forms.

What closes a key (disable, block, schedule deletion, destroy) first shows who uses it: xks/web/cloud_key.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpResponse
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys.models import CloudKey
from cloudkeys.schedules import parse_expiration, parse_schedule
from cloudkeys.services import cloud_keys, key_views, lifecycle, versions
from cloudkeys.services.principals import pick_principals
from cloudkeys.services.wizard import expiration_words, schedule_words
from cloudkeys.web.cloud_key import HELP, find_key, key_names, key_url
from cloudkeys.web.schedules import ExpirationFields, RotationFields, expiration_initial, rotation_initial
from vault.errors import DomainError, ValidationFailed
from vault.generations import wait_for_generation
from vault.models import Vault
from vault.permissions import Permission
from vault.web.forms import ConfirmForm, Difference, PageForm, confirm, submit
from vault.web.frame import done, page, partial, vault_page
from vault.web.vaults import confirmation_words

UPDATE = Permission.CLOUD_KEYS_UPDATE


@dataclass(frozen=True)
class Act:
    """One act on a key: what is asked before it, and what is said after it."""

    permission: Permission
    run: Callable[[Any, CloudKey, ConfirmForm, str], str]
    title: str
    words: str
    button: str
    consequences: tuple[tuple[str, str], ...]
    reason: str = "optional"
    back: str = "cloud-key"
    danger: bool = False


def _enable(actor: Any, key: CloudKey, form: ConfirmForm, reason: str) -> str:
    changed = lifecycle.enable_cloud_key(actor, key.pk, reason=reason, expected_revision=form.expected)
    if changed.operation is not None:
        return gettext(
            "AWS is asked to enable its KMS key first. Data is readable again as soon as that is done, in most cases "
            "within seconds."
        )
    return gettext("%(name)s is enabled: data is readable again. %(confirmed)s") % {
        "name": key.name,
        "confirmed": _confirmed(changed.generation),
    }


def _unblock(actor: Any, key: CloudKey, form: ConfirmForm, reason: str) -> str:
    changed = lifecycle.unblock_cloud_key(actor, key.pk, reason=reason)
    again = (
        gettext("data is readable again")
        if changed.key.state == CloudKey.State.ENABLED
        else gettext("its state decides again")
    )
    return gettext("%(name)s is unblocked: %(again)s. %(confirmed)s") % {
        "name": key.name,
        "again": again,
        "confirmed": _confirmed(changed.generation),
    }


def _cancel_deletion(actor: Any, key: CloudKey, form: ConfirmForm, reason: str) -> str:
    lifecycle.cancel_deletion(actor, key.pk, reason=reason)
    return gettext("%(name)s stays. It is disabled until somebody enables it.") % {"name": key.name}


def _rotate(actor: Any, key: CloudKey, form: ConfirmForm, reason: str) -> str:
    begun = versions.rotate_cloud_key(actor, key.pk, expected_revision=form.expected)
    return gettext("Version %(number)s is made. It encrypts as soon as every worker can decrypt with it.") % {
        "number": begun.version.number
    }


def _retire(actor: Any, key: CloudKey, form: ConfirmForm, reason: str) -> str:
    changed = lifecycle.retire_cloud_key(actor, key.pk, reason=reason, expected_revision=form.expected)
    return gettext("%(name)s only decrypts from now on. %(confirmed)s") % {
        "name": key.name,
        "confirmed": _confirmed(changed.generation),
    }


def _refresh(actor: Any, key: CloudKey, form: ConfirmForm, reason: str) -> str:
    cloud_keys.refresh_cloud_key(actor, key.pk)
    return gettext("AWS is being asked about the KMS key.")


def _confirmed(generation: int) -> str:
    return confirmation_words(wait_for_generation(generation)) if generation else ""


ACTS = {
    "enable": Act(
        Permission.CLOUD_KEYS_ENABLE,
        _enable,
        gettext_noop("Enable {name}?"),
        gettext_noop("Services can use this key again."),
        gettext_noop("Enable key"),
        (
            (
                "circle-check",
                gettext_noop("Data under it is readable as soon as the nodes have confirmed; with a linked KMS key, AWS "
        "enables that one first."),
            ),
        ),
    ),
    "unblock": Act(
        Permission.CLOUD_KEYS_UNBLOCK,
        _unblock,
        gettext_noop("Unblock {name}?"),
        gettext_noop("The data plane answers for this key again, as its own state says."),
        gettext_noop("Unblock key"),
        (("circle-check", gettext_noop("Data under an enabled key is readable as soon as the nodes have confirmed.")),),
    ),
    "cancel-deletion": Act(
        Permission.CLOUD_KEYS_DESTROY,
        _cancel_deletion,
        gettext_noop("Keep {name}?"),
        gettext_noop("Its deletion is cancelled, here and in AWS."),
        gettext_noop("Cancel deletion"),
        (
            ("database", gettext_noop("Nothing is erased. What was encrypted with it can be read once it is enabled.")),
            ("circle-pause", gettext_noop("The key stays disabled until somebody enables it.")),
        ),
    ),
    "rotate": Act(
        Permission.CLOUD_KEYS_ROTATE,
        _rotate,
        gettext_noop("Rotate {name} now?"),
        gettext_noop("A new version of the key is made. New data is encrypted with it; older data stays readable."),
        gettext_noop("Rotate key"),
        (
            ("refresh-cw", gettext_noop("It encrypts as soon as every worker can decrypt with it, in most cases within a second.")),
            ("cloud", gettext_noop("Nothing changes in AWS: same KMS key, same ARN, same alias.")),
            ("calendar", gettext_noop("The rotation schedule counts on from now.")),
        ),
        reason="",
        back="cloud-key-versions",
    ),
    "retire": Act(
        UPDATE,
        _retire,
        gettext_noop("Retire {name} to decrypt-only?"),
        gettext_noop("From now on nothing new is encrypted with this key. This is not undone."),
        gettext_noop("Retire key"),
        (
            ("database", gettext_noop("What was encrypted with it stays readable.")),
            ("ban", gettext_noop("Services that write with it are refused: an S3 bucket that encrypts with it takes no new object.")),
            ("calendar-off", gettext_noop("It rotates no more.")),
        ),
        back="cloud-key-versions",
        danger=True,
    ),
    "refresh": Act(
        UPDATE,
        _refresh,
        gettext_noop("Ask AWS about {name}?"),
        gettext_noop("Reads what AWS says of the KMS key: state, store, external key id, alias. Nothing is changed."),
        gettext_noop("Ask AWS"),
        (),
        reason="",
    ),
}  # fmt: skip


def act_view(verb: str) -> Callable[..., HttpResponse]:
    """GET, POST /v/<id>/cloud-keys/<key>/<verb>/"""
    act = ACTS[verb]

    @vault_page(act.permission)
    def view(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
        key = find_key(request, vault, key_id, act.permission)
        back = key_url(act.back, key)
        form = ConfirmForm(request.POST or None, reason=act.reason, initial={"revision": key.revision})
        if request.method == "POST":
            told = submit(
                request,
                form,
                lambda values: act.run(request.actor, key, form, values.get("reason", "")),
                target=key,
            )
            if told is not None:
                return done(request, back, told.strip())
        return confirm(
            request,
            form,
            title=gettext(act.title).format(name=key.name),
            words=act.words,
            consequences=act.consequences,
            button=act.button,
            cancel=back,
            danger=act.danger,
        )

    return view


# --- forms ------------------------------------------------------------------------------------------------------


class KeyForm(PageForm):
    """What a key is called."""

    name = forms.CharField(max_length=250, help_text="It is the alias in AWS too: alias/<name>.")
    description = forms.CharField(max_length=1000, required=False, widget=forms.Textarea(attrs={"rows": "2"}))
    tags = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": "3", "spellcheck": "false", "class": "mono"}),
        help_text=gettext_lazy("One a line: name = value."),
    )

    def clean_tags(self) -> dict[str, str]:
        """As services take them."""
        found: dict[str, str] = {}
        for number, line in enumerate(self.cleaned_data["tags"].splitlines(), 1):
            if not line.strip():
                continue
            name, between, value = (part.strip() for part in line.partition("="))
            if not between or not name:
                raise forms.ValidationError(f"Line {number} is no tag. Write: name = value.")
            if name in found:
                raise forms.ValidationError(f"Line {number}: {name} is there twice. Remove one.")
            found[name] = value
        return found

    def refuse(self, error: ValidationFailed) -> None:
        """As PageForm; what is wrong with one tag lands on the tags."""
        super().refuse(_onto_fields(error))


def tag_lines(tags: dict[str, str]) -> str:
    """Tags as KeyForm shows them."""
    return "\n".join(f"{name} = {tags[name]}" for name in sorted(tags))


def _onto_fields(error: ValidationFailed) -> ValidationFailed:
    """administrators[2] and tags.team are refusals of the fields administrators and tags."""
    told = error.errors or [{"field": error.field, "message": error.message, "cure": error.cure}]
    rows = [{**row, "field": str(row.get("field", "")).partition("[")[0].partition(".")[0]} for row in told]
    return ValidationFailed(error.message, errors=rows)


@vault_page(UPDATE)
def key_edit(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/cloud-keys/<key>/edit/"""
    key = find_key(request, vault, key_id, UPDATE)
    initial = {"name": key.name, "description": key.description, "tags": tag_lines(key.tags)}
    form = KeyForm(request.POST or None, initial={**initial, "revision": key.revision})
    if request.method == "POST":
        made = submit(request, form, lambda values: _save(request, key, form, values), target=key)
        if made is not None:
            return done(request, key_url("cloud-key", key), _saved(made))
    return _form_page(request, key, form, "edit.html", gettext("Edit"))


def _save(request: Any, key: CloudKey, form: PageForm, values: dict[str, Any]) -> cloud_keys.CloudKeyMade:
    changes = {name: value for name, value in values.items() if getattr(key, name) != value}
    if not changes and form.expected == key.revision:
        return cloud_keys.CloudKeyMade(key, None, 0)
    return cloud_keys.update_cloud_key(request.actor, key.pk, changes, expected_revision=form.expected)


def _saved(made: cloud_keys.CloudKeyMade) -> str:
    return gettext("Saved here; AWS is being told.") if made.operation is not None else gettext("Saved.")


def _form_page(
    request: Any, key: CloudKey, form: PageForm, template: str, title: str, **more: Any
) -> HttpResponse:
    context = {"key": key, "form": form, "title": title, "help": HELP, **more}
    return page(request, f"cloudkeys/cloud_key/{template}", context, status=form.status)


class AccessForm(PageForm):
    """Who administers and who uses the KMS key: picked ones, and others by their ARN."""

    administrators = forms.CharField(required=False, widget=forms.HiddenInput)
    users = forms.CharField(required=False, widget=forms.HiddenInput)
    more_administrators = forms.CharField(
        required=False,
        label=gettext_lazy("Administrators by ARN"),
        widget=forms.Textarea(attrs={"rows": "2", "spellcheck": "false", "class": "mono"}),
    )
    more_users = forms.CharField(
        required=False, label=gettext_lazy("Users by ARN"),
        widget=forms.Textarea(attrs={"rows": "2", "spellcheck": "false", "class": "mono"}),
    )  # fmt: skip

    def named(self, name: str) -> list[str]:
        """Those picked and those typed, in that order."""
        picked = self.data.getlist(name) if hasattr(self.data, "getlist") else []
        typed = str(self.data.get(f"more_{name}", "")).split()
        return list(dict.fromkeys([arn.strip() for arn in [*picked, *typed] if arn.strip()]))

    def refuse(self, error: ValidationFailed) -> None:
        """As PageForm; what is wrong with one ARN lands beside where it can be changed."""
        moved = _onto_fields(error)
        rows = [{**row, "field": f"more_{row['field']}"} for row in moved.errors]
        super().refuse(ValidationFailed(error.message, errors=rows))


def _chips(arns: Iterable[str]) -> list[tuple[str, str]]:
    return [(arn, arn.rpartition(":")[2]) for arn in arns]


@vault_page(UPDATE)
def key_access_edit(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/cloud-keys/<key>/access/edit/"""
    key = find_key(request, vault, key_id, UPDATE)
    form = AccessForm(request.POST or None, initial={"revision": key.revision})
    shown = {name: list(getattr(key, name)) for name in ("administrators", "users")}
    if request.method == "POST":
        shown = {name: form.named(name) for name in shown}

        def save(values: dict[str, Any]) -> cloud_keys.CloudKeyMade:
            return cloud_keys.update_cloud_key(request.actor, key.pk, shown, expected_revision=form.expected)

        made = submit(request, form, save, target=key)
        if made is not None:
            return done(request, key_url("cloud-key-access", key), _saved(made))
        if form.stale is not None:
            fresh = CloudKey.objects.get(pk=key.pk)
            form.stale = _differences(
                (
                    gettext("Administrators"),
                    "\n".join(fresh.administrators),
                    "\n".join(shown["administrators"]),
                ),
                (gettext("Users"), "\n".join(fresh.users), "\n".join(shown["users"])),
            )
        # What was typed stays in its field, so that a wrong ARN can be mended there.
        typed = {name: str(form.data.get(f"more_{name}", "")).split() for name in shown}
        shown = {name: [arn for arn in arns if arn not in typed[name]] for name, arns in shown.items()}
    pickers = [
        {
            "name": name,
            "label": label,
            "url": key_url("cloud-key-principals", key),
            "many": True,
            "optional": True,
            "picked": _chips(shown[name]),
            "help": words,
        }
        for name, label, words in (
            (
                "administrators",
                gettext("Administrators"),
                gettext("They manage the KMS key in AWS, and cannot encrypt or decrypt with it."),
            ),
            (
                "users",
                gettext("Users"),
                gettext("They encrypt and decrypt with the KMS key, directly or through AWS services."),
            ),
        )
    ]
    return _form_page(
        request,
        key,
        form,
        "access_edit.html",
        gettext("Edit access"),
        pickers=zip(pickers, (form["more_administrators"], form["more_users"]), strict=True),
        example=key_names(key.csp_account),
        preview=_preview(request, key, shown),
    )


@vault_page(UPDATE, methods=("GET", "HEAD"))
def key_principals(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/<key>/access/principals/?q=: the account's IAM users and roles, for the picker."""
    key = find_key(request, vault, key_id, UPDATE)
    if key.csp_account_id is None:
        return partial(request, "parts/options.html", {"options": []})
    try:
        found = pick_principals(request.actor, key.csp_account_id, search=request.GET.get("q", ""))
    except DomainError as error:
        return partial(request, "cloudkeys/cloud_key/no_principals.html", {"error": error})
    options = [(each.arn, f"{each.kind.lower()}/{each.name}", each.arn) for each in found.items]
    return partial(request, "parts/options.html", {"options": options})


@vault_page(UPDATE, methods=("GET", "HEAD"))
def key_policy_preview(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/<key>/access/preview/: the key policy that these principals would give."""
    key = find_key(request, vault, key_id, UPDATE)
    form = AccessForm(request.GET)
    shown = {name: form.named(name) for name in ("administrators", "users")}
    context = {"key": key, "preview": _preview(request, key, shown)}
    return partial(request, "cloudkeys/cloud_key/policy_part.html", context)


def _preview(request: Any, key: CloudKey, shown: dict[str, list[str]]) -> dict[str, Any]:
    try:
        return {"policy": key_views.policy_preview_for(request.actor, key.key_set_id, **shown)}
    except ValidationFailed as error:
        return {"problem": error.message, "cure": error.cure}


class KeyScheduleForm(RotationFields, ExpirationFields):
    """The key set's schedule, or one of its own."""

    def __init__(self, *args: Any, key: CloudKey, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        sets = key.key_set
        for name, words in (
            ("rotation", schedule_words(parse_schedule(sets.rotation_schedule))),
            ("ending", expiration_words(parse_expiration(sets.expiration))),
        ):
            field: Any = self.fields[name]
            field.choices = [
                (
                    "inherited",
                    gettext("As the key set says, also later: %(lower)s") % {"lower": _lower(words)},
                ),
                *field.choices,
            ]

    def changes(self) -> dict[str, Any]:
        """Both, as update_cloud_key takes them."""
        own = {"rotation_schedule": self.rotation_schedule(), "expiration": self.expiration()}
        if self.cleaned_data.get("rotation") == "inherited":
            own["rotation_schedule"] = {"kind": "inherited"}
        if self.cleaned_data.get("ending") == "inherited":
            own["expiration"] = {"kind": "inherited"}
        return own


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]


@vault_page(UPDATE)
def key_schedule_edit(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/cloud-keys/<key>/schedule/edit/"""
    key = find_key(request, vault, key_id, UPDATE)
    zone = getattr(request.user, "time_zone", "") or "UTC"
    initial = {
        **(
            rotation_initial(key.rotation_schedule, zone)
            if key.rotation_schedule is not None
            else {"rotation": "inherited"}
        ),
        **(expiration_initial(key.expiration) if key.expiration is not None else {"ending": "inherited"}),
        "revision": key.revision,
    }
    form = KeyScheduleForm(request.POST or None, initial=initial, key=key)
    if request.method == "POST":

        def save(values: dict[str, Any]) -> cloud_keys.CloudKeyMade:
            changes = form.changes()
            now = key.expiration if key.expiration is not None else {"kind": "inherited"}
            if changes["expiration"] == now:
                del changes["expiration"]  # setting it anew would let an expiry that has come happen again
            return cloud_keys.update_cloud_key(
                request.actor, key.pk, changes, expected_revision=form.expected
            )

        made = submit(request, form, save, target=key)
        if made is not None:
            return done(request, key_url("cloud-key-schedule", key), gettext("Saved. The dates follow it."))
        if form.stale is not None:
            fresh, typed = CloudKey.objects.get(pk=key.pk), form.changes()
            form.stale = _differences(
                (
                    gettext("Rotation"),
                    _rotation(fresh.rotation_schedule),
                    _rotation(typed["rotation_schedule"]),
                ),
                (gettext("Expiry"), _expiry(fresh.expiration), _expiry(typed["expiration"])),
            )
    return _form_page(request, key, form, "schedule_edit.html", gettext("Edit schedule"))


def _differences(*rows: tuple[str, str, str]) -> tuple[Difference, ...]:
    return tuple(Difference(*row) for row in rows if row[1] != row[2])


def _rotation(value: dict[str, Any] | None) -> str:
    inherited = value is None or value.get("kind") == "inherited"
    return gettext("As the key set says") if inherited else schedule_words(parse_schedule(value))


def _expiry(value: dict[str, Any] | None) -> str:
    inherited = value is None or value.get("kind") == "inherited"
    return gettext("As the key set says") if inherited else expiration_words(parse_expiration(value))


class LinkKeyForm(PageForm):
    """Which KMS key."""

    kms_key_id = forms.CharField(
        max_length=256,
        required=False,
        label=gettext_lazy("KMS key id or ARN"),
        widget=forms.TextInput(attrs={"spellcheck": "false", "class": "mono", "autocomplete": "off"}),
        help_text=gettext_lazy(
            "To take over the one that is in AWS, once AWS confirms that it points to this key. Empty: "
            "Keystead makes one."
        ),
    )


@vault_page(UPDATE)
def key_link(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/cloud-keys/<key>/link/"""
    key = find_key(request, vault, key_id, UPDATE)
    form = LinkKeyForm(request.POST or None)
    if request.method == "POST":
        made = submit(
            request, form, lambda values: cloud_keys.link_cloud_key(request.actor, key.pk, **values)
        )
        if made is not None:
            return done(
                request, key_url("cloud-key", key), gettext("%(name)s is being linked.") % {"name": key.name}
            )
    return _form_page(request, key, form, "link.html", gettext("Link to AWS"))
