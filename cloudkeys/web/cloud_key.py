"""A cloud key's pages: what stands around each of them, and the tabs Access, Versions, Schedule and Activity.

Overview, Usage and what closes a key stand in xks/web/cloud_key.py: they show what the data plane has recorded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext, gettext_noop, ngettext

from cloudkeys import naming
from cloudkeys.models import CloudKey, CspAccount, Operation
from cloudkeys.services import key_views, renderers
from cloudkeys.services.due_dates import effective_expiration, effective_schedule
from cloudkeys.services.wizard import expiration_words, schedule_words
from cloudkeys.web.progress import operation_url, progress_of
from vault.errors import NotFound, ValidationFailed
from vault.models import AuditEvent, Vault
from vault.permissions import Permission
from vault.services.audit import diff
from vault.services.confirmations import last_confirmation
from vault.web import once
from vault.web.frame import Can, can, page, partial, vault_page

VIEW = Permission.CLOUD_KEYS_VIEW
_PAGE = 40
_CONSOLES = {
    "aws": "https://{region}.console.aws.amazon.com/kms/home?region={region}#/kms/keys/{key_id}",
    "aws-cn": "https://{region}.console.amazonaws.cn/kms/home?region={region}#/kms/keys/{key_id}",
    "aws-us-gov": "https://{region}.console.amazonaws-us-gov.com/kms/home?region={region}#/kms/keys/{key_id}",
}
TABS = (
    ("cloud-key", gettext_noop("Overview")),
    ("cloud-key-usage", gettext_noop("Usage")),
    ("cloud-key-access", gettext_noop("Access")),
    ("cloud-key-versions", gettext_noop("Versions")),
    ("cloud-key-schedule", gettext_noop("Schedule")),
    ("cloud-key-activity", gettext_noop("Activity")),
)
HELP = {
    "title": gettext_noop("What a cloud key is"),
    "words": (
        (
            gettext_noop(
                "The key itself lives here and never leaves Keystead. In AWS stands a KMS key pointer: AWS services use that, "
                "and AWS KMS asks Keystead each time."
            )
        ),
        (
            gettext_noop(
                "Disable refuses every new use at once and can be undone. Block does the same without telling AWS. A deletion waits "
                "7 to 30 days, and only then is the material erased, for good."
            )
        ),
    ),
    "links": (
        (gettext_noop("Kill switch and its proof"), "kill-switch"),
        (gettext_noop("Who may do what"), "permissions"),
        (gettext_noop("Quick start"), "quickstart"),
    ),
}


def find_key(request: Any, vault: Vault, key_id: UUID, permission: Permission = VIEW) -> CloudKey:
    """A key of this vault with all that its pages show. Raises NotFound, PermissionDenied."""
    request.actor.fetch(CloudKey, key_id, permission)
    rows = request.actor.visible(CloudKey).select_related("vault", "key_set", "csp_account", "store", "link")
    key: CloudKey | None = rows.filter(vault=vault, pk=key_id).first()
    if key is None:
        raise NotFound("There is no such cloud key in this vault.")
    return key


def key_url(name: str, key: CloudKey, **more: Any) -> str:
    """An address of the key."""
    return reverse(name, kwargs={"vault_id": key.vault_id, "key_id": key.pk, **more})


def console_url(key: CloudKey) -> str:
    """Where the AWS console shows the KMS key; empty where there is no console."""
    pattern = _CONSOLES.get(key.csp_account.partition if key.csp_account is not None else "", "")
    if not pattern or not key.kms_key_id or not key.region:
        return ""
    return pattern.format(region=key.region, key_id=key.kms_key_id)


def is_simulated(key: CloudKey) -> bool:
    """Whether its account lives in the bundled simulator."""
    return key.csp_account is not None and key.csp_account.is_simulated


def shown_state(key: CloudKey) -> str:
    """The state as a pill tells it: an enabled key that is blocked shows as blocked."""
    enabled = key.state == CloudKey.State.ENABLED
    return "BLOCKED" if enabled and (key.blocked or key.store.blocked or key.vault.blocked) else key.state


def deletes_in(key: CloudKey) -> str:
    """The pill's words while a deletion waits."""
    if key.state != CloudKey.State.PENDING_DELETION or key.delete_after is None:
        return ""
    left = key.delete_after - timezone.now()
    if left.total_seconds() <= 0:
        return gettext("Deletion window over")
    if left.days > 1:
        return ngettext("Deletes in %(count)s day", "Deletes in %(count)s days", left.days) % {
            "count": left.days
        }
    hours = max(1, round(left.total_seconds() / 3600))
    return ngettext("Deletes in %(count)s hour", "Deletes in %(count)s hours", hours) % {"count": hours}


def allowed(request: Any, key: CloudKey) -> dict[str, Can]:
    """What this person may do with this key, and why not."""
    fixed = Can(True)
    if key.vault.state != Vault.State.ENABLED:
        fixed = Can(False, gettext("The vault is switched off: nothing in it can be changed meanwhile."))
    elif key.kind == CloudKey.Kind.HEALTH_CHECK:
        fixed = Can(
            False, gettext("This is the store's health-check key: AWS would lose its connection without it.")
        )
    elif key.state == CloudKey.State.DESTROYED:
        fixed = Can(False, gettext("This key is destroyed; nothing brings its material back."))
    permissions = {
        "update": Permission.CLOUD_KEYS_UPDATE,
        "rotate": Permission.CLOUD_KEYS_ROTATE,
        "disable": Permission.CLOUD_KEYS_DISABLE,
        "enable": Permission.CLOUD_KEYS_ENABLE,
        "block": Permission.CLOUD_KEYS_BLOCK,
        "unblock": Permission.CLOUD_KEYS_UNBLOCK,
        "destroy": Permission.CLOUD_KEYS_DESTROY,
    }
    found = {
        name: can(request.actor, needed, key) if fixed else fixed for name, needed in permissions.items()
    }
    if found["rotate"] and (key.retired_at is not None or "ENCRYPT" not in key.permitted_uses):
        found["rotate"] = Can(
            False, gettext("This key does not encrypt any more, so there is nothing to rotate.")
        )
    elif found["rotate"] and key.state != CloudKey.State.ENABLED:
        found["rotate"] = Can(False, gettext("Only an enabled key rotates. Enable the key first."))
    return found


def key_context(request: Any, key: CloudKey, tab: str) -> dict[str, Any]:
    """What templates/cloudkeys/cloud_key/frame.html draws."""
    base = request.build_absolute_uri("/").rstrip("/")
    return {
        "key": key,
        "tabs": [(label, key_url(name, key), name == tab) for name, label in TABS],
        "state": shown_state(key),
        "deletes_in": deletes_in(key),
        "is_simulated": is_simulated(key),
        "may": allowed(request, key),
        "copies": [
            ("curl", renderers.as_curl(key, base)),
            (gettext("keystead command"), renderers.as_cli(key)),
            (gettext("JSON, as Terraform has it"), renderers.as_document(key)),
        ],
        "help": HELP,
        **now_context(request, key),
    }


def now_context(request: Any, key: CloudKey) -> dict[str, Any]:
    """What goes on with the key right now: operations under way or failed of late, and how far a switch is confirmed."""
    found = list(Operation.objects.filter(target_id=key.pk).order_by("-created_at")[:12])
    shown = [work for work in found if work.state in Operation.UNFINISHED]
    seen: set[str] = set()
    for work in found:  # the newest of a kind that failed, unless it was done since
        if work.kind not in seen and work.state == Operation.State.FAILED:
            shown.append(work)
        seen.add(work.kind)
    drawn = [_drawn(each, key) for each in shown]
    confirmed = last_confirmation(key) if is_closed(key) else None
    busy = any(each["was_live"] for each in drawn) or (confirmed is not None and not confirmed.complete)
    told = [key.revision, key.state, key.blocked, key.store.blocked, key.vault.blocked, key.pointer_state]
    told += [(str(each.pk), each.state, each.updated_at) for each in shown]
    if confirmed is not None:
        told += [confirmed.confirmed, confirmed.counted, int(confirmed.left_s)]
    signature = hashlib.sha256(repr(told).encode()).hexdigest()[:16]
    return {
        "work": drawn,
        "confirmed": confirmed,
        "busy": busy,
        "seen": signature,
        "once_token": once.new_token(),
    }


def is_closed(key: CloudKey) -> bool:
    """Whether the key itself is switched off in the data plane."""
    return key.blocked or key.state != CloudKey.State.ENABLED


def _drawn(work: Operation, key: CloudKey) -> dict[str, Any]:
    title = key_views.operation_label(work)
    drawn = progress_of(work, key_url("cloud-key-now", key), title)
    # The whole part of the page refreshes itself; two timers would run against each other.
    return {**drawn, "was_live": drawn["live"], "live": False}


@dataclass(frozen=True)
class Entry:
    """One moment of a key's life as the Activity tab draws it."""

    icon: str
    title: str
    at: Any
    by: str
    words: str
    url: str
    changes: tuple[tuple[str, str, str], ...] = ()
    failed: bool = False


_ICONS = (
    ("create", "plus"),
    ("disable", "circle-pause"),
    ("enable", "circle-check"),
    ("unblock", "circle-check"),
    ("block", "ban"),
    ("rotate", "refresh-cw"),
    ("pointer", "link"),
    ("link", "link"),
    ("cancel_deletion", "undo-2"),
    ("deletion", "hourglass"),
    ("destroy", "trash-2"),
    ("update", "pencil"),
    ("confirm", "check-check"),
    ("expire", "calendar-off"),
    ("retire", "circle-minus"),
    ("version", "refresh-cw"),
)


def entries(key: CloudKey, moments: list[key_views.Moment], *, with_changes: bool = False) -> list[Entry]:
    """Moments as they are drawn; with `with_changes` also what each audit event changed (one query)."""
    ids = [moment.ref for moment in moments if moment.source == "audit"] if with_changes else []
    events = {str(event.id): event for event in AuditEvent.objects.filter(id__in=ids)} if ids else {}
    return [_entry(key, moment, events.get(moment.ref)) for moment in moments]


def _entry(key: CloudKey, moment: key_views.Moment, event: AuditEvent | None) -> Entry:
    failed = moment.outcome != "SUCCESS"
    verb = moment.what.rpartition(":")[2]
    icon = next((icon for word, icon in _ICONS if word in verb), "circle-dot")
    words = [f"“{moment.reason}”"] if moment.reason else []
    if moment.source == "operation":
        icon = "list-checks"
        words += [str((moment.detail.get("error") or {}).get("cause", ""))]
    if verb == "confirm":
        told = moment.detail
        words.append(
            gettext("%(confirmed)s of %(counted)s workers, within %(milliseconds)s ms")
            % {
                "confirmed": told.get("confirmed"),
                "counted": told.get("counted"),
                "milliseconds": told.get("milliseconds"),
            }
        )
    changes = tuple(
        (row.field.replace("_", " "), in_words(row.before), in_words(row.after))
        for row in (diff(event) if event is not None else ())
    )
    url = ""
    if moment.source == "operation":
        work = Operation(id=UUID(moment.ref), vault_id=key.vault_id)
        url = operation_url(work)
    return Entry(
        "circle-alert" if failed else icon,
        moment.words,
        moment.at,
        moment.who,
        " · ".join(word for word in words if word),
        url,
        changes,
        failed,
    )


def in_words(value: Any) -> str:
    """A value of the audit record as a person reads it."""
    if value is None or value == "":
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {value[name]}" for name in sorted(value)) or "none"
    return str(value)


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_now(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/<key>/now/?seen=: what goes on, with the page's head; 204 while nothing has changed."""
    key = find_key(request, vault, key_id)
    now = now_context(request, key)
    if request.GET.get("seen") == now["seen"]:
        return HttpResponse(status=204)
    answer = partial(request, "cloudkeys/cloud_key/now_part.html", key_context(request, key, ""))
    # What stands further down the page has become old with it.
    answer["HX-Trigger"] = "key-changed"
    return answer


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_access(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/<key>/access/"""
    key = find_key(request, vault, key_id)
    who = key_views.who_may(request.actor, key.pk)
    try:
        policy: Any = key_views.policy_preview(request.actor, key.pk)
        problem = None
    except ValidationFailed as error:
        policy, problem = None, error
    context = {
        **key_context(request, key, "cloud-key-access"),
        "who": who,
        "policy": policy,
        "problem": problem,
        "named": [(arn, arn.rpartition(":")[2]) for arn in who.administrators],
        "named_users": [(arn, arn.rpartition(":")[2]) for arn in who.users],
    }
    return page(request, "cloudkeys/cloud_key/access.html", context)


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_versions(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/<key>/versions/"""
    key = find_key(request, vault, key_id)
    versions = list(key.versions.order_by("-number").defer("material"))
    context = {**key_context(request, key, "cloud-key-versions"), "versions": versions}
    return page(request, "cloudkeys/cloud_key/versions.html", context)


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_schedule(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/<key>/schedule/"""
    key = find_key(request, vault, key_id)
    context = {
        **key_context(request, key, "cloud-key-schedule"),
        "rotation": schedule_words(effective_schedule(key)),
        "expiration": expiration_words(effective_expiration(key)),
        "dates": key_views.next_dates(key),
        "now": timezone.now(),
    }
    return page(request, "cloudkeys/cloud_key/schedule.html", context)


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_activity(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/<key>/activity/?before="""
    key = find_key(request, vault, key_id)
    text = request.GET.get("before", "")
    try:
        before = parse_datetime(text) if text else None
    except ValueError:
        before = None
    if before is not None and timezone.is_naive(before):
        before = None
    moments = key_views.timeline(request.actor, key.pk, limit=_PAGE, before=before)
    context = {
        **key_context(request, key, "cloud-key-activity"),
        "entries": entries(key, moments, with_changes=True),
        "older": moments[-1].at.isoformat() if len(moments) == _PAGE else "",
        "before": before,
        "sees_audit": request.actor.may(Permission.AUDIT_VIEW, key),
    }
    return page(request, "cloudkeys/cloud_key/activity.html", context)


def key_names(account: CspAccount | None) -> str:
    """The beginning of the ARNs that an account's principals have, for a hint."""
    if account is None:
        return ""
    return f"arn:{naming.arn_partition(account.partition)}:iam::{account.cloud_account_id or '<account>'}:"
