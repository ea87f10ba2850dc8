"""A cloud key as the data plane knows it: Overview and Usage, what closes it with who would notice, and the proof that it is closed.

The other tabs and acts stand in cloudkeys/web/cloud_key.py and cloud_key_acts.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django import forms
from django.http import HttpResponse
from django.utils import timezone
from django.utils.text import format_lazy
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from cloudkeys.models import CloudKey
from cloudkeys.schedules import MAX_WINDOW_DAYS, MIN_WINDOW_DAYS
from cloudkeys.services import cloud_keys, key_views, lifecycle
from cloudkeys.web.cloud_key import console_url, entries, find_key, is_closed, key_context, key_url
from vault import env
from vault.actions import Action
from vault.errors import Conflict, ValidationFailed
from vault.generations import current_generation, wait_for_generation
from vault.models import Vault
from vault.permissions import Permission
from vault.services.confirmations import confirm_switch
from vault.web import charts
from vault.web.forms import ConfirmForm, confirm, submit
from vault.web.frame import done, page, vault_page
from vault.web.vaults import confirmation_words
from xks.services.disable_proof import prove_disable
from xks.services.usage import usage_of

VIEW = Permission.CLOUD_KEYS_VIEW
DAYS = (1, 7, 30, 90)
_SERVICES = {
    "s3": "S3",
    "ebs": "EBS",
    "ec2": gettext_noop("EC2 and EBS"),
    "rds": "RDS",
    "dynamodb": gettext_noop("DynamoDB"),
    "secretsmanager": gettext_noop("Secrets Manager"),
    "ssm": gettext_noop("Parameter Store"),
    "sqs": "SQS",
    "sns": "SNS",
    "lambda": gettext_noop("Lambda"),
    "elasticfilesystem": "EFS",
    "backup": gettext_noop("Backup"),
    "redshift": gettext_noop("Redshift"),
    "kinesis": gettext_noop("Kinesis"),
    "logs": gettext_noop("CloudWatch Logs"),
}
_MOST_SERIES = 6
PROOF_SECONDS = 3.0
"""A page may not read the journal for longer; the command may."""
_SHOWN_MOMENTS = 8


def service_name(name: str) -> str:
    """s3.eu-west-1.amazonaws.com as S3."""
    if not name:
        return gettext("Directly, or not told")
    short = name.partition(".")[0]
    return _SERVICES.get(short, short)


def principal_name(arn: str) -> str:
    """arn:aws:sts::1:assumed-role/app/i-1 as assumed-role/app/i-1."""
    return (arn.partition(":")[2] and arn.rpartition(":")[2]) or gettext("not told by AWS")


@dataclass(frozen=True)
class Radius:
    """Who would notice, judged by so many days."""

    days: int
    uses: int
    principals: int
    services: str


def radius_rows(usage: dict[str, Any]) -> list[Radius]:
    """The blast radius as a table."""
    return [
        Radius(
            row["days"],
            row["uses"],
            row["principals"],
            ", ".join(f"{service_name(one['name'])} ({one['principals']})" for one in row["services"]),
        )
        for row in usage["blast_radius"]
    ]


def usage_chart(usage: dict[str, Any]) -> Any:
    """Answered uses by day and service."""
    today = timezone.now().date()
    days = [today - timedelta(days=back) for back in range(usage["days"] - 1, -1, -1)]
    sums: dict[str, dict[Any, int]] = {}
    for row in usage["by_day_and_service"]:
        per_day = sums.setdefault(service_name(row["name"]), {})
        per_day[row["day"]] = per_day.get(row["day"], 0) + row["uses"]
    names = sorted(sums, key=lambda name: (-sum(sums[name].values()), name))
    kept = names if len(names) <= _MOST_SERIES else names[: _MOST_SERIES - 1]
    series = [charts.Series(name, [sums[name].get(day, 0) for day in days]) for name in kept]
    if len(names) > len(kept):
        rest = [sum(sums[name].get(day, 0) for name in names[len(kept) :]) for day in days]
        series.append(charts.Series(gettext("Other"), rest))
    return charts.bars(
        gettext("Uses by day and service, last %(days)s days") % {"days": usage["days"]},
        days,
        series,
        unit="uses",
    )


_EVIDENCE = {
    "NO": ("danger", gettext_noop("Recorded use speaks against deleting it")),
    "NOT_KNOWN": ("warn", gettext_noop("Not known: the record is too short or has gaps")),
    "UNUSED": ("warn", gettext_noop("No recent use, but data may lie under it")),
    "YES": ("ok", gettext_noop("Nothing was ever encrypted with it")),
}


def evidence_of(usage: dict[str, Any]) -> dict[str, Any]:
    """The safe-to-delete answer in words."""
    found = usage["deletion"]
    level, title = _EVIDENCE[found.answer]
    last = max((at for at in (usage["last_encrypt_at"], usage["last_decrypt_at"]) if at), default=None)
    return {
        "level": level,
        "title": title,
        "last": last if found.answer == "NO" else None,
        "reasons": [] if found.answer == "NO" else found.reasons,
        "since": found.history_since,
        "gaps": found.gaps,
    }


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_overview(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/<key>/"""
    key = find_key(request, vault, key_id)
    usage = usage_of(request.actor, key.pk, days=30)
    moments = key_views.timeline(request.actor, key.pk, limit=_SHOWN_MOMENTS)
    newest = wait_for_generation(current_generation(), timeout_s=0)
    unlinked = key.pointer_state == CloudKey.PointerState.NOT_LINKED and key.state != CloudKey.State.DESTROYED
    context = {
        **key_context(request, key, "cloud-key"),
        "usage": usage,
        "chart": usage_chart(usage) if usage["by_day_and_service"] else "",
        "radius": radius_rows(usage),
        "compared": key_views.aws_beside_ours(key),
        "console": console_url(key),
        "events": entries(key, moments),
        "newest": newest,
        "step": cloud_keys.create_key_step(key) if unlinked else None,
        "dates": key_views.next_dates(key)[:1],
        "window_over": key.delete_after is not None and key.delete_after <= timezone.now(),
    }
    return page(request, "xks/cloud_key/overview.html", context)


@vault_page(VIEW, methods=("GET", "HEAD"))
def key_usage(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/<key>/usage/?days="""
    key = find_key(request, vault, key_id)
    text = request.GET.get("days", "30")
    days = int(text) if text.isascii() and text.isdigit() and int(text[:4]) in DAYS else 30
    usage = usage_of(request.actor, key.pk, days=days)
    refused = sum(row["refused"] for row in usage["by_day"])
    context = {
        **key_context(request, key, "cloud-key-usage"),
        "usage": usage,
        "days": days,
        "spans": [
            (span, gettext("1 day") if span == 1 else gettext("%(span)s days") % {"span": span}, span == days)
            for span in DAYS
        ],
        "uses": sum(row["encrypt"] + row["decrypt"] for row in usage["by_day"]),
        "refused": refused,
        "chart": usage_chart(usage),
        "services": [{**row, "title": service_name(row["name"])} for row in usage["by_service"]],
        "principals": [{**row, "title": principal_name(row["name"])} for row in usage["by_principal"]],
        "radius": radius_rows(usage),
        "evidence": evidence_of(usage),
    }
    return page(request, "xks/cloud_key/usage.html", context)


# --- what closes a key --------------------------------------------------------------------------------------------


class DeletionForm(ConfirmForm):
    """With the days that the deletion waits."""

    window_days = forms.IntegerField(
        min_value=MIN_WINDOW_DAYS,
        max_value=MAX_WINDOW_DAYS,
        initial=MAX_WINDOW_DAYS,
        label=gettext_lazy("Waiting time"),
        help_text=format_lazy(
            gettext_lazy("{least} to {most}. Until its end the deletion can be cancelled."),
            least=MIN_WINDOW_DAYS,
            most=MAX_WINDOW_DAYS,
        ),
    )
    units = {"window_days": gettext_noop("days")}  # noqa: RUF012 - as in every form
    field_order = ("window_days", "reason", "typed_name")

    def refuse(self, error: ValidationFailed) -> None:
        """As PageForm; the service calls the typed name by another word."""
        super().refuse(_renamed(error))


class DestroyForm(ConfirmForm):
    """With the word that no KMS key is left."""

    pointer_is_gone = forms.BooleanField(
        required=False, label=gettext_lazy("No KMS key in AWS refers to this key any more: I have checked.")
    )
    field_order = ("pointer_is_gone", "reason", "typed_name")

    def refuse(self, error: ValidationFailed) -> None:
        """As PageForm; the service calls the typed name by another word."""
        super().refuse(_renamed(error))


def _renamed(error: ValidationFailed) -> ValidationFailed:
    told = error.errors or [{"field": error.field, "message": error.message, "cure": error.cure}]
    rows = [
        {**row, "field": "typed_name" if row.get("field") == "confirm_name" else row.get("field", "")}
        for row in told
    ]
    return ValidationFailed(error.message, errors=rows)


@dataclass(frozen=True)
class Closing:
    """One way to close a key."""

    permission: Permission
    action: Action
    run: Callable[[Any, CloudKey, ConfirmForm, dict[str, Any]], lifecycle.LifecycleChange]
    title: str
    words: str
    button: str
    done: str
    consequences: tuple[tuple[str, str], ...]
    form: type[ConfirmForm] = ConfirmForm
    typed: bool = False
    evidence: bool = False


def _disable(
    actor: Any, key: CloudKey, form: ConfirmForm, values: dict[str, Any]
) -> lifecycle.LifecycleChange:
    return lifecycle.disable_cloud_key(
        actor, key.pk, reason=values["reason"], expected_revision=form.expected
    )


def _block(actor: Any, key: CloudKey, form: ConfirmForm, values: dict[str, Any]) -> lifecycle.LifecycleChange:
    return lifecycle.block_cloud_key(actor, key.pk, reason=values["reason"])


def _schedule(
    actor: Any, key: CloudKey, form: ConfirmForm, values: dict[str, Any]
) -> lifecycle.LifecycleChange:
    return lifecycle.schedule_deletion(
        actor,
        key.pk,
        confirm_name=values["typed_name"],
        window_days=values["window_days"],
        reason=values["reason"],
        expected_revision=form.expected,
    )


def _destroy(
    actor: Any, key: CloudKey, form: ConfirmForm, values: dict[str, Any]
) -> lifecycle.LifecycleChange:
    return lifecycle.destroy_unlinked_key(
        actor,
        key.pk,
        confirm_name=values["typed_name"],
        pointer_is_gone=values["pointer_is_gone"],
        reason=values["reason"],
    )


_MEMORY = gettext_noop("Services that already hold a data key in memory{services} go on until they next ask.")
CLOSINGS = {
    "disable": Closing(
        Permission.CLOUD_KEYS_DISABLE,
        Action.CLOUD_KEY_DISABLE,
        _disable,
        gettext_noop("Disable {name}?"),
        gettext_noop("From now on every new use of this key is refused."),
        gettext_noop("Disable key"),
        gettext_noop("{name} is disabled."),
        (
            ("clock", _MEMORY),
            ("undo-2", gettext_noop("Nothing is lost: enabling it makes everything readable again.")),
        ),
    ),
    "block": Closing(
        Permission.CLOUD_KEYS_BLOCK,
        Action.CLOUD_KEY_BLOCK,
        _block,
        gettext_noop("Block {name}?"),
        gettext_noop("From now on every use of this key is refused by the data plane. AWS is not told."),
        gettext_noop("Block key"),
        gettext_noop("{name} is blocked."),
        (
            ("clock", _MEMORY),
            ("cloud", gettext_noop("In AWS the KMS key goes on to show as enabled; calls to it fail.")),
            ("users", gettext_noop("Unblocking is a permission of its own, and may need another person's consent.")),
        ),
    ),
    "schedule-deletion": Closing(
        Permission.CLOUD_KEYS_DESTROY,
        Action.CLOUD_KEY_SCHEDULE_DELETION,
        _schedule,
        gettext_noop("Schedule the deletion of {name}?"),
        gettext_noop("Every use is refused from now on. When the waiting time is over, the key is erased."),
        gettext_noop("Schedule deletion"),
        gettext_noop("The deletion of {name} is scheduled."),
        (
            ("database", gettext_noop("What was encrypted with it, in any version, then stays unreadable for good: backups and copies "
        "too.")),
            ("trash-2", gettext_noop("Versions that live in an HSM are destroyed in it too, on every member; so is a key that was "
        "taken over.")),
            ("clock", _MEMORY),
            ("undo-2", gettext_noop("Until then the deletion can be cancelled; the key then stays, disabled.")),
        ),
        form=DeletionForm,
        typed=True,
        evidence=True,
    ),
    "destroy": Closing(
        Permission.CLOUD_KEYS_DESTROY,
        Action.CLOUD_KEY_DESTROY,
        _destroy,
        gettext_noop("Destroy {name} now?"),
        gettext_noop("Every version of the key is erased. Nothing and nobody brings it back."),
        gettext_noop("Destroy key"),
        gettext_noop("{name} is destroyed."),
        (
            ("database", gettext_noop("What was encrypted with it, in any version, stays unreadable for good: backups and copies too.")),
            ("trash-2", gettext_noop("Versions that live in an HSM are destroyed in it too, on every member; so is a key that was "
        "taken over.")),
            ("cloud", gettext_noop("A KMS key in AWS that still refers to it can be used no more.")),
        ),
        form=DestroyForm,
        typed=True,
        evidence=True,
    ),
}  # fmt: skip


def closing_view(verb: str) -> Callable[..., HttpResponse]:
    """GET, POST /v/<id>/cloud-keys/<key>/<verb>/"""
    what = CLOSINGS[verb]

    @vault_page(what.permission)
    def view(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
        key = find_key(request, vault, key_id, what.permission)
        back = key_url("cloud-key", key)
        form = what.form(
            request.POST or None,
            reason="required",
            typed=key.name if what.typed else "",
            initial={"revision": key.revision},
        )
        if request.method == "POST":
            changed = submit(
                request, form, lambda values: what.run(request.actor, key, form, values), target=key
            )
            if changed is not None:
                told = confirm_switch(request.actor, what.action, changed.key, changed.generation)
                words = confirmation_words(told) if told is not None else ""
                return done(request, back, f"{gettext(what.done).format(name=key.name)} {words}".strip())
        usage = usage_of(request.actor, key.pk, days=30)
        return confirm(
            request,
            form,
            title=gettext(what.title).format(name=key.name),
            words=what.words,
            consequences=[
                (icon, gettext(words).format(services=_cached_in(usage))) for icon, words in what.consequences
            ],
            button=what.button,
            cancel=back,
            danger=True,
            template="xks/cloud_key/closing.html",
            usage=usage,
            radius=radius_rows(usage),
            evidence=evidence_of(usage) if what.evidence else None,
        )

    return view


def _cached_in(usage: dict[str, Any]) -> str:
    names = [service_name(row["name"]) for row in usage["by_service"] if row["name"]][:4]
    return gettext(" (from the journal: %(names)s)") % {"names": ", ".join(names)} if names else ""


@vault_page(Permission.AUDIT_VIEW, methods=("GET", "HEAD"))
def key_proof(request: Any, vault: Vault, key_id: UUID) -> HttpResponse:
    """GET /v/<id>/cloud-keys/<key>/proof/: what the journal says of the key since it was closed last."""
    key = find_key(request, vault, key_id)
    context: dict[str, Any] = {
        **key_context(request, key, ""),
        "key_text": str(key.pk),
        "closed": is_closed(key),
    }
    try:
        context["proof"] = prove_disable(
            request.actor, key.pk, env.data_dir() / "journal", seconds=PROOF_SECONDS
        )
    except Conflict as error:
        context["never"] = error
    except OSError as error:
        context["unread"] = error.strerror or str(error)
    return page(request, "xks/cloud_key/proof.html", context)
