"""A store's XKS credentials: their age and use by region, their rotation as a guided flow, its schedule, and the end of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpResponse
from django.utils import timezone
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys.models import XksCredential, XksKeyStore
from cloudkeys.operations.requests import cancel_operation, retry_operation
from cloudkeys.schedules import MAX_EVERY
from cloudkeys.services import credential_rotation, credentials, stores
from cloudkeys.services.credential_rotation import RegionStatus, Rotation
from cloudkeys.web.progress import progress_of
from vault.actions import Action
from vault.errors import Conflict, NotFound
from vault.models import Vault
from vault.permissions import Permission
from vault.services.confirmations import confirm_switch
from vault.web import once
from vault.web.forms import ConfirmForm, PageForm, confirm, submit
from vault.web.frame import can, done, page, vault_page
from vault.web.vaults import confirmation_words
from xks.web.store_frame import find_store, store_context, store_url
from xks.web.stores import VIEW

MANAGE = Permission.XKS_CREDENTIALS_MANAGE
OLD_DAYS = 365
HELP = {
    "title": gettext_noop("What an XKS credential is"),
    "words": (
        gettext_noop(
            "AWS KMS signs each request to this store with an access key id and a secret. Several may be "
            "live at once; each is accepted."
        ),
        (
            gettext_noop(
                "A rotation makes a second one, gives it to AWS in every region, waits until AWS "
                "uses it and the old one has fallen silent, "
                "and only then retires the old one. No request fails meanwhile. Who used what is judged by real use, not by our word."
            )
        ),
    ),
    "links": ((gettext_noop("XKS credentials and their rotation"), "credentials"),),
}
_GIVEN = {
    "": "",
    "KEYSTEAD": gettext_noop("given by Keystead"),
    "PERSON": gettext_noop("given by a person"),
    "NOT_NEEDED": gettext_noop("not needed"),
}


@dataclass(frozen=True)
class CredentialRow:
    """A credential with where it is used."""

    row: XksCredential
    regions: list[tuple[str, str, Any, Any]]
    is_old: bool
    last_used_at: Any


def _rows(store: XksKeyStore) -> list[CredentialRow]:
    now = timezone.now()
    found = []
    for row in store.credentials.prefetch_related("regions").order_by("state", "-created_at"):
        regions = [
            (
                r.region or gettext("other regions"),
                _GIVEN.get(r.given, r.given),
                r.last_used_at,
                r.last_succeeded_at,
            )
            for r in row.regions.all()
        ]
        used = max((used for _, _, used, _ in regions if used is not None), default=None)
        old = row.state == XksCredential.State.ACTIVE and (now - row.created_at).days >= OLD_DAYS
        found.append(CredentialRow(row, regions, old, used))
    return found


@vault_page(VIEW, methods=("GET", "HEAD"))
def credential_list(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET /v/<id>/stores/<store>/credentials/"""
    store = find_store(request, vault, store_id)
    rotation = credential_rotation.show_rotation(request.actor, store.pk)
    context = {
        **store_context(request, store, "xks-store-credentials"),
        **_rotation_context(request, store, rotation),
        "rows": _rows(store),
        "schedule": _schedule_words(store),
        "help": HELP,
    }
    return page(
        request, "xks/stores/credentials.html", context, part=("rotation", "xks/stores/rotation.html")
    )


# --- rotation -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RegionRow:
    """One region of a rotation in words, and whether somebody has to act."""

    status: RegionStatus
    level: str
    words: str
    needs_person: bool


def _region_row(status: RegionStatus) -> RegionRow:
    match status.state:
        case credential_rotation.TO_GIVE if status.by_keystead:
            return RegionRow(status, "info", gettext("Keystead gives AWS the new credential"), False)
        case credential_rotation.TO_GIVE:
            return RegionRow(status, "warn", gettext("Waits for you to give AWS the new credential"), True)
        case credential_rotation.WAITING_FOR_NEW:
            return RegionRow(status, "info", gettext("AWS has the new one and has not used it yet"), False)
        case credential_rotation.OLD_IN_USE:
            return RegionRow(status, "info", gettext("The old one is not silent for long enough"), False)
        case credential_rotation.SILENT:
            return RegionRow(status, "danger", gettext("Neither is in use: AWS is not connected here"), True)
        case credential_rotation.NOT_NEEDED:
            return RegionRow(status, "neutral", gettext("Uses the store no more"), False)
        case _:
            return RegionRow(status, "ok", gettext("Uses the new one alone"), False)


_STEPS = (
    gettext_noop("Make a second one"),
    gettext_noop("Give it to AWS"),
    gettext_noop("Watch real use"),
    gettext_noop("Retire the old one"),
)
_STEP_OF = {
    "create": 0,
    "wait_workers": 0,
    "hand_over": 1,
    "watch": 2,
    "retire_old": 3,
    "wait_retired": 3,
}


def _rotation_context(request: Any, store: XksKeyStore, rotation: Rotation) -> dict[str, Any]:
    operation = rotation.operation
    here = store_url("xks-store-credentials", store)
    progress = progress_of(operation, here, id="rotation-work") if operation is not None else None
    stepper = []
    if operation is not None and progress is not None and progress["live"]:
        names = [step.get("name", "") for step in operation.steps]
        now = _STEP_OF.get(names[min(operation.step, len(names) - 1)], 0) if names else 0
        stepper = [
            (label, "", "done" if number < now else "now" if number == now else "todo")
            for number, label in enumerate(_STEPS)
        ]
        # Its steps stand in words below; the part as a whole refreshes itself.
    regions = [_region_row(status) for status in rotation.regions]
    person = any(not status.by_keystead and status.region for status in rotation.regions)
    return {
        "rotation": rotation,
        "progress": progress,
        "rotating": bool(progress and progress["live"]),
        "stepper": stepper,
        "regions": regions,
        "by_person": person or (not regions and not any(link.linked for link in store.links.all())),
        "here": here,
        "can_cancel": can(request.actor, Permission.OPERATIONS_MANAGE, store),
    }


class RotateForm(PageForm):
    """How to rotate."""

    units = {"silence_min": "minutes"}  # noqa: RUF012
    silence_min = forms.IntegerField(
        required=False,
        min_value=1,
        max_value=7 * 24 * 60,
        label=gettext_lazy("The old one must be silent for"),
        help_text=gettext_lazy("Counted by real use in every region before the old one is retired."),
    )
    reason = forms.CharField(
        required=False, max_length=1000, help_text=gettext_lazy("It stands in the audit record.")
    )


@vault_page(MANAGE)
def rotate(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/credentials/rotate/"""
    store = find_store(request, vault, store_id, MANAGE)
    usual = int(credentials.silence().total_seconds())
    form = RotateForm(request.POST or None)
    form.fields["silence_min"].help_text += gettext(" Empty: %(value)s minutes.") % {"value": usual // 60}
    here = store_url("xks-store-credentials", store)
    if request.method == "POST":

        def begin(values: dict[str, Any]) -> Any:
            minutes = values["silence_min"]
            return credential_rotation.rotate_xks_credential(
                request.actor, store.pk, silence_s=minutes * 60 if minutes else None, reason=values["reason"]
            )

        if submit(request, form, begin) is not None:
            return done(
                request,
                here,
                gettext("The rotation has begun. Nothing is retired before AWS uses the new one."),
            )
    context = {
        **store_context(request, store, ""),
        "form": form,
        "title": gettext("Rotate credential"),
        "lead": gettext(
            "A second credential is made and given to AWS; the old one is retired once nobody uses it. Both "
            "are valid meanwhile."
        ),
        "button": gettext("Begin rotation"),
        "cancel": here,
        "help": HELP,
    }
    return page(request, "xks/stores/form.html", context, status=form.status)


@vault_page(MANAGE)
def rotation_file(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/credentials/rotation/file/"""
    store = find_store(request, vault, store_id, MANAGE)
    here = store_url("xks-store-credentials", store)
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST":
        made = submit(
            request, form, lambda values: credential_rotation.take_rotation_file(request.actor, store.pk)
        )
        if made is not None:
            return _show_once(request, store, made, here, rotation=True)
    return confirm(
        request,
        form,
        title=gettext("Take the new credential's file?"),
        words=gettext("It is shown this once. Have the AWS console open, or a place where secrets may lie."),
        consequences=(
            ("file-key", gettext("The file is what the AWS console takes under Proxy credential.")),
            (
                "rotate-ccw",
                gettext("If it is lost, cancel the rotation and begin again: that makes another one."),
            ),
        ),
        button=gettext("Show credential"),
        cancel=here,
    )


@vault_page(MANAGE)
def credential_create(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/credentials/new/"""
    store = find_store(request, vault, store_id, MANAGE)
    here = store_url("xks-store-credentials", store)
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST":
        made = submit(
            request, form, lambda values: credentials.create_xks_credential(request.actor, store.pk)
        )
        if made is not None:
            return _show_once(request, store, made, here, rotation=False)
    return confirm(
        request,
        form,
        title=gettext("Make a further credential?"),
        words=gettext("The others stay valid. Its secret is shown this once."),
        consequences=(
            (
                "rotate-cw",
                gettext("To replace the present one, rotate it instead: that looks after every region."),
            ),
        ),
        button=gettext("Make credential"),
        cancel=here,
    )


def _show_once(
    request: Any, store: XksKeyStore, made: credentials.NewCredential, here: str, *, rotation: bool
) -> HttpResponse:
    once.remember(request, here)
    context = {
        **store_context(request, store, ""),
        "secrets": [(gettext("Secret access key"), made.secret.reveal_text())],
        "plain": [(gettext("Access key id"), made.credential.access_key_id)],
        "download": made.console_file(),
        "then": here,
        "rotation": rotation,
        "help": HELP,
    }
    return page(request, "xks/stores/credential_made.html", context)


@vault_page(MANAGE)
def rotation_done(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/credentials/rotation/done/?region=&not_needed=1"""
    store = find_store(request, vault, store_id, MANAGE)
    region, not_needed = request.GET.get("region", ""), request.GET.get("not_needed") == "1"
    here = store_url("xks-store-credentials", store)
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST":

        def mark(values: dict[str, Any]) -> Any:
            return credential_rotation.mark_given(
                request.actor, store.pk, region=region, not_needed=not_needed
            )

        if submit(request, form, mark) is not None:
            told = (
                gettext("%(region)s is left out.") % {"region": region}
                if not_needed
                else gettext("Noted. Now AWS must use it in %(region)s.") % {"region": region}
            )
            return done(request, here, told)
    if not_needed:
        return confirm(
            request, form, title=gettext("Leave %(region)s out?") % {"region": region},
            words=gettext("Say so when this region uses the store no more. The rotation does not wait for it then."),
            consequences=(("eye", gettext("Should the old credential be seen there all the same, that counts more than this word.")),),
            button=gettext("Leave region out"), cancel=here,
        )  # fmt: skip
    return confirm(
        request, form, title=gettext("Has AWS got the new credential in %(region)s?") % {"region": region},
        words=gettext("In the AWS console: KMS > External key stores > your store > Key store actions > Edit settings "
        "> Proxy credential."),
        consequences=(("eye", gettext("The old one is retired on real use all the same, not on this word.")),),
        button=gettext("Yes, AWS has it"), cancel=here,
    )  # fmt: skip


@vault_page(MANAGE)
def rotation_cancel(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/credentials/rotation/cancel/"""
    store = find_store(request, vault, store_id, MANAGE)
    operation = credential_rotation.unfinished_rotation(store)
    here = store_url("xks-store-credentials", store)
    if operation is None:
        raise Conflict("No rotation is under way.", cure="It has ended: look at the credentials.")
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST" and submit(
        request, form, lambda values: cancel_operation(request.actor, operation)
    ):
        return done(
            request, here, gettext("The rotation is being undone. Both credentials stay valid meanwhile.")
        )
    return confirm(
        request,
        form,
        title=gettext("Cancel the rotation?"),
        words=gettext("AWS gets the old credential back where Keystead had given it the new one."),
        consequences=(
            ("shield-check", gettext("The old one stays valid throughout; no request fails.")),
            (
                "hourglass",
                gettext(
                    "The new one is retired when it has been silent too. One that a person has given to AWS stays live."
                ),
            ),
        ),
        button=gettext("Cancel rotation"),
        cancel=here,
    )


@vault_page(MANAGE)
def rotation_retry(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/credentials/rotation/retry/"""
    store = find_store(request, vault, store_id, MANAGE)
    found = credential_rotation.show_rotation(request.actor, store.pk).operation
    here = store_url("xks-store-credentials", store)
    if found is None:
        raise NotFound("This store's credential was never rotated.")
    form = ConfirmForm(request.POST or None, reason="")
    if request.method == "POST" and submit(
        request, form, lambda values: retry_operation(request.actor, found)
    ):
        return done(request, here, gettext("The rotation goes on."))
    return confirm(
        request,
        form,
        title=gettext("Go on with the rotation?"),
        words=gettext(
            "It takes up what was made before: the same new credential, and the regions that have it already."
        ),
        button=gettext("Go on"),
        cancel=here,
    )


# --- the schedule ---------------------------------------------------------------------------------------------------


class ScheduleForm(PageForm):
    """When it is rotated by itself."""

    kind = forms.ChoiceField(
        choices=(("none", gettext_lazy("Never by itself")), ("every", gettext_lazy("Every so often"))),
        widget=forms.RadioSelect,
        label=gettext_lazy("Rotation"),
    )
    every = forms.IntegerField(
        required=False, min_value=1, max_value=max(MAX_EVERY.values()), label=gettext_lazy("Every")
    )
    unit = forms.ChoiceField(
        choices=(("days", "days"), ("weeks", "weeks"), ("months", "months")), label=gettext_lazy("Unit")
    )
    hour = forms.IntegerField(
        min_value=0,
        max_value=23,
        initial=3,
        help_text=gettext_lazy("0 to 23"),
        label=gettext_lazy("At the hour of"),
    )
    time_zone = forms.CharField(
        max_length=64, initial="UTC", help_text=gettext_lazy("Such as Europe/Berlin.")
    )

    def refuse(self, error: Any) -> None:
        """The service names fields of the schedule as rotation_schedule.every."""
        for row in error.errors or ():
            row["field"] = row.get("field", "").removeprefix("rotation_schedule.")
        super().refuse(error)


def _schedule_words(store: XksKeyStore) -> str:
    value = store.rotation_schedule or {}
    if value.get("kind") != "every":
        return ""
    return gettext("every %(every)s %(unit)s at %(hour)s:00 %(time_zone)s") % {
        "every": value["every"],
        "unit": value["unit"],
        "hour": value["hour"],
        "time_zone": value["time_zone"],
    }


@vault_page(Permission.XKS_STORES_MANAGE)
def schedule(request: Any, vault: Vault, store_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/credentials/schedule/"""
    store = find_store(request, vault, store_id, Permission.XKS_STORES_MANAGE)
    here = store_url("xks-store-credentials", store)
    value = store.rotation_schedule or {}
    initial = {
        "kind": value.get("kind", "none"),
        "every": value.get("every", 90),
        "unit": value.get("unit", "days"),
        "hour": value.get("hour", 3),
        "time_zone": value.get("time_zone", request.actor.user.time_zone or "UTC"),
    }
    form = ScheduleForm(request.POST or None, initial={**initial, "revision": store.revision})
    if request.method == "POST":

        def save(values: dict[str, Any]) -> XksKeyStore:
            wanted = {"kind": "none"} if values["kind"] == "none" else values
            return stores.update_xks_store(
                request.actor, store.pk, {"rotation_schedule": wanted}, expected_revision=form.expected
            )

        saved = submit(request, form, save, target=store)
        if saved is not None:
            return done(request, here, gettext("Schedule saved."))
    unlinked = [link.region for link in store.links.all() if not link.linked]
    lead = gettext("Counted from the newest credential.")
    if unlinked:
        lead += gettext(
            " In %(unlinked)s a person has to carry the new credential to AWS each time; the rotation waits "
            "for that."
        ) % {"unlinked": ", ".join(unlinked)}
    context = {
        **store_context(request, store, ""),
        "form": form,
        "title": gettext("Rotation schedule"),
        "lead": lead,
    }
    return page(
        request,
        "xks/stores/form.html",
        {**context, "button": gettext("Save schedule"), "cancel": here, "help": HELP},
        status=form.status,
    )


# --- the end of one -------------------------------------------------------------------------------------------------


class RetireForm(ConfirmForm):
    """Asked once more when it is needed."""

    force = forms.BooleanField(
        required=False,
        label=gettext_lazy("Retire it all the same: requests signed with it fail from then on"),
    )

    def __init__(self, *args: Any, needed: str, **kwargs: Any) -> None:
        super().__init__(*args, reason="required" if needed else "optional", **kwargs)
        if not needed:
            del self.fields["force"]


@vault_page(MANAGE)
def credential_retire(request: Any, vault: Vault, store_id: UUID, credential_id: UUID) -> HttpResponse:
    """GET, POST /v/<id>/stores/<store>/credentials/<credential>/retire/"""
    store = find_store(request, vault, store_id, MANAGE)
    row: XksCredential = request.actor.fetch(XksCredential, credential_id, MANAGE)
    if row.store_id != store.pk:
        raise NotFound("This store has no such credential.")
    here = store_url("xks-store-credentials", store)
    live = store.credentials.filter(state=XksCredential.State.ACTIVE).exclude(pk=row.pk)
    used = credentials.last_used_at(row)
    needed = ""
    if not live.exists():
        needed = gettext("It is the store's last live one: without it AWS can use no key of the store.")
    elif used is not None and used > timezone.now() - credentials.silence():
        needed = gettext("AWS has used it a short while ago. A rotation waits until AWS has let go of it.")
    form = RetireForm(request.POST or None, needed=needed)
    if request.method == "POST":

        def end(values: dict[str, Any]) -> Any:
            return credentials.retire_xks_credential(
                request.actor, row.pk, force=bool(values.get("force")), reason=values["reason"]
            )

        ended = submit(request, form, end)
        if ended is not None:
            confirmation = confirm_switch(request.actor, Action.XKS_CREDENTIAL_RETIRE, *ended)
            told = f" {confirmation_words(confirmation)}" if confirmation is not None else ""
            url = f"{store_url('xks-store', store)}?generation={ended[1]}"
            return done(
                request,
                url,
                gettext("%(access_key_id)s is retired.%(told)s")
                % {"access_key_id": row.access_key_id, "told": told},
            )
    consequences = [
        ("ban", gettext("From now on every node refuses what is signed with it. Its secret is erased."))
    ]
    if needed:
        consequences.insert(0, ("triangle-alert", needed))
    return confirm(
        request,
        form,
        title=gettext("Retire %(access_key_id)s?") % {"access_key_id": row.access_key_id},
        words=gettext("This cannot be undone; another credential can be made at any time."),
        consequences=consequences,
        button=gettext("Retire credential"),
        cancel=here,
        danger=True,
    )
