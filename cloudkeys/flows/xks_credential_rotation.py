"""A new XKS credential for a store: made, given to AWS in every region, and the old one retired once nobody uses it.

From the first step to the one before the last both are live, so it does not matter which of the two AWS signs with, nor
for how long its hosts remember the old one. What decides is real use, as the data plane reports it for each credential and
region: the new one must have been answered well in every region, and the old one must have been silent for the time set. Where
neither is seen AWS is not connected, and nothing is retired: the old one may be all that AWS has.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from cloudkeys.flows.data_plane import wait_workers
from cloudkeys.flows.targets import account_of_link
from cloudkeys.models import AwsStoreLink, XksCredential, XksCredentialRegion, XksKeyStore
from cloudkeys.operations.errors import OperationError
from cloudkeys.operations.steps import Flow, Later, StepContext, as_text
from cloudkeys.providers.base import KeyStoreChanges, ProviderError
from cloudkeys.services.credential_rotation import (
    NOT_NEEDED,
    OLD_IN_USE,
    READY,
    SILENT,
    TO_GIVE,
    Given,
    RegionStatus,
    give,
    old_credentials,
    plan_next_rotation,
    region_statuses,
    silence_of,
)
from cloudkeys.services.credentials import REPORT_LAG, last_used_at, make_credential, retire
from vault.actions import Action
from vault.keys import unseal
from vault.models import WorkerProcess

LOOK_S = 15.0
PERSON_LOOK_S = 30.0
LOST_AFTER = timedelta(seconds=30)
"""A worker that has not been seen for longer may hold uses that nobody has been told of."""


def create(ctx: StepContext) -> None:
    """A second credential, sealed; the same transaction knows of it."""
    if "new_credential_id" in ctx.memo:
        ctx.detail = _new(ctx).access_key_id
        return
    with ctx.commit() as tx:
        store: XksKeyStore = ctx.target(lock=True)
        made = make_credential(tx, store).credential
        ctx.memo["new_credential_id"] = str(made.pk)
    ctx.detail = made.access_key_id


def _find(ctx: StepContext) -> XksCredential | None:
    made = ctx.memo.get("new_credential_id")
    return XksCredential.objects.filter(pk=str(made)).first() if made else None


def _new(ctx: StepContext) -> XksCredential:
    new = _find(ctx)
    if new is None or new.state != XksCredential.State.ACTIVE:
        ctx.memo.pop("new_credential_id", None)
        raise OperationError(
            "new_credential_gone",
            "The new credential was retired by hand, so there is nothing to rotate to.",
            "Make sure that AWS has a live credential in every region, then begin the rotation again.",
            permanent=True,
        )
    return new


def _statuses(ctx: StepContext) -> list[RegionStatus]:
    store: XksKeyStore = ctx.target()
    new = _new(ctx)
    return region_statuses(
        store,
        new,
        old_credentials(store, new),
        silent_for=silence_of(ctx.operation),
        now=timezone.now(),
    )


# --- giving it to AWS ---------------------------------------------------------------------------------------------


def hand_over(ctx: StepContext) -> Later | None:
    """UpdateCustomKeyStore where Keystead may; elsewhere wait until a person says, or its use shows, that AWS has it."""
    new = _new(ctx)
    trouble: ProviderError | OperationError | None = None
    persons: list[str] = []
    regions = _statuses(ctx)
    for status in regions:
        if status.state == NOT_NEEDED or not status.region:
            continue
        if status.by_keystead and status.link is not None:
            try:
                _give_to_aws(ctx, new, status.link)
            except (ProviderError, OperationError) as error:
                # One region's trouble does not keep the others waiting.
                trouble = error if trouble is None or trouble.permanent else trouble
        elif not status.given:
            if status.new_succeeded_at is None:
                persons.append(status.region)
            else:
                _note(ctx, new, status.region, Given.PERSON, why="seen in use")
    if trouble is not None:
        raise trouble
    if persons:
        return Later(PERSON_LOOK_S, f"a person has to give AWS the new credential in {', '.join(persons)}")
    if not regions:
        return Later(
            PERSON_LOOK_S,
            "no region is known in which AWS uses this store: give AWS the new credential, and say in which region",
        )
    ctx.detail = ", ".join(status.region for status in regions if status.region)
    return None


def _give_to_aws(ctx: StepContext, credential: XksCredential, link: AwsStoreLink) -> None:
    if not link.custom_key_store_id:
        raise OperationError(
            "store_being_made",
            f"The AWS key store in {link.region} is still being made.",
            "Wait for that, or cancel it.",
            permanent=False,
        )
    provider = ctx.provider(account_of_link(link))
    store = provider.find_key_store(link.region, id=link.custom_key_store_id)
    if store is None:
        raise OperationError(
            "store_missing",
            f"AWS knows no custom key store {link.custom_key_store_id} in {link.region}.",
            "If it is gone for good, refresh or delete it here, or say that the region is not needed; then retry.",
            permanent=True,
        )
    # Access key ids are never used again, so the same id is the same secret.
    if store.proxy_access_key_id != credential.access_key_id:
        changes = KeyStoreChanges(
            proxy_access_key_id=credential.access_key_id,
            proxy_secret=unseal(credential, "secret_access_key"),
        )
        provider.update_key_store(link.region, store.id, changes)
    _note(ctx, credential, link.region, Given.KEYSTEAD)


def _note(
    ctx: StepContext, credential: XksCredential, region: str, given: XksCredentialRegion.Given, why: str = ""
) -> None:
    known = credential.regions.filter(region=region, given=given)
    if not known.exists():
        with ctx.commit() as tx:
            give(tx, credential, region, given, why=why)


def undo_hand_over(ctx: StepContext) -> None:
    """Give AWS the old credential back where Keystead had given it the new one."""
    store: XksKeyStore = ctx.target()
    new = _find(ctx)
    old = old_credentials(store, new) if new is not None else []
    if new is None or not old:
        ctx.detail = "nothing to give back"
        return
    links = [
        link
        for link in store.links.filter(linked=True).exclude(state=AwsStoreLink.State.GONE)
        if link.custom_key_store_id
    ]
    given_back = False
    for link in links:
        provider = ctx.provider(account_of_link(link))
        found = provider.find_key_store(link.region, id=link.custom_key_store_id)
        if found is None or found.proxy_access_key_id != new.access_key_id:
            continue
        changes = KeyStoreChanges(
            proxy_access_key_id=old[-1].access_key_id, proxy_secret=unseal(old[-1], "secret_access_key")
        )
        provider.update_key_store(link.region, found.id, changes)
        given_back = True
    with ctx.commit() as tx:
        for row in new.regions.select_for_update().filter(given=Given.KEYSTEAD):
            row.given, row.given_at = Given.NOT_YET, None
            row.save(update_fields=["given", "given_at"])
            tx.audit(
                Action.XKS_CREDENTIAL_GIVE,
                new,
                before={"given": str(Given.KEYSTEAD)},
                after={"given": ""},
                detail={"region": row.region, "why": "cancelled"},
            )
            given_back = True
        if given_back:
            ctx.memo["given_back_at"] = as_text(timezone.now())
    ctx.detail = f"AWS has {old[-1].access_key_id} again" if given_back else "nothing to give back"


def undo_create(ctx: StepContext) -> Later | None:
    """Retire the new credential, once AWS has let go of it too; never one that a person has given to AWS."""
    new = _find(ctx)
    if new is None or new.state != XksCredential.State.ACTIVE:
        ctx.detail = "nothing was made, or it is retired already"
        return None
    persons = list(new.regions.filter(given=Given.PERSON).values_list("region", flat=True))
    if persons:
        ctx.detail = (
            f"{new.access_key_id} stays live: a person gave it to AWS in {', '.join(persons)}. "
            "The next rotation replaces it too."
        )
        return None
    wait = silence_of(ctx.operation) + REPORT_LAG
    # Whoever took the file may be putting it into AWS at this moment.
    moments = (last_used_at(new), _given_back_at(ctx), new.shown_at)
    since = [moment for moment in moments if moment is not None]
    if since and max(since) + wait > timezone.now():
        rest = (max(since) + wait - timezone.now()).total_seconds()
        return Later(
            min(max(rest, 1.0), LOOK_S),
            f"AWS may still sign with {new.access_key_id}; it is retired when it has been silent for "
            f"{_spoken(silence_of(ctx.operation))}, or at once when you retire it",
        )
    with ctx.commit() as tx:
        ctx.target(lock=True)
        row = XksCredential.objects.select_for_update().get(pk=new.pk)
        if row.state == XksCredential.State.ACTIVE:
            retire(tx, row, reason="rotation cancelled")
    ctx.detail = f"{new.access_key_id} is retired"
    return None


def _given_back_at(ctx: StepContext) -> datetime | None:
    return parse_datetime(str(ctx.memo.get("given_back_at", "")))


# --- watching -----------------------------------------------------------------------------------------------------


def watch(ctx: StepContext) -> Later | None:
    """Until the new one works everywhere and the old one is silent. Raises when a region is not connected."""
    return _judge(ctx)


def _judge(ctx: StepContext) -> Later | None:
    """None when the old one may go; otherwise what is waited for.

    Raises a transient OperationError when a region has fallen silent, or uses may be unreported.
    """
    _require_reports(silence_of(ctx.operation))
    regions = _statuses(ctx)
    silent = [status.region for status in regions if status.state == SILENT]
    if silent:
        _report_silence(ctx, silent)
    missing = [status.region for status in regions if status.state == TO_GIVE]
    if missing:
        # A region that appeared after the step before: linked ones are given it here, the others by a person.
        return hand_over(ctx) or Later(1.0, f"{', '.join(missing)} has just been given the new credential")
    waiting = [status for status in regions if status.state not in (READY, NOT_NEEDED)]
    if waiting:
        return Later(_rest_s(waiting), "; ".join(_told(status) for status in waiting))
    if not any(status.state == READY and status.region for status in regions):
        return Later(PERSON_LOOK_S, "no region is known in which AWS uses the new credential")
    ctx.detail = f"the new one is in use, the old one silent for {_spoken(silence_of(ctx.operation))}"
    return None


def _require_reports(silent_for: timedelta) -> None:
    """No worker may have been lost of late with uses that it could not tell of."""
    now = timezone.now()
    # It serves for so long after it was seen last; what it did before that is older than the silence that is asked for.
    bound = timedelta(seconds=settings.KEYSTEAD_XKS_MAX_STALENESS)
    lost = WorkerProcess.objects.filter(
        deregistered_at=None,
        last_seen_at__lt=now - LOST_AFTER,
        last_seen_at__gt=now - silent_for - REPORT_LAG - bound,
    ).select_related("node")
    names = sorted({f"{worker.node.name} pid {worker.pid}" for worker in lost})
    if names:
        raise OperationError(
            "uses_not_reported",
            f"It is not known whether the old credential is still used: {', '.join(names)} cannot be heard.",
            "Bring the node back, or stop it for good; look at the nodes.",
            permanent=False,
        )


def _report_silence(ctx: StepContext, regions: list[str]) -> None:
    if ctx.memo.get("silent_regions") != regions:
        ctx.memo["silent_regions"] = regions
        with ctx.commit() as tx:
            tx.audit(
                Action.XKS_CREDENTIAL_ROTATE,
                ctx.target(),
                detail={"operation": str(ctx.operation.pk), "what": "silent", "regions": regions},
            )
    raise OperationError(
        "region_silent",
        f"In {', '.join(regions)} AWS uses neither the new nor the old credential: it is not connected there.",
        "Connect the AWS key store (see its connection error code), or say that the region is not needed any more. "
        "The old credential stays live until then.",
        permanent=False,
    )


def _told(status: RegionStatus) -> str:
    if status.state == OLD_IN_USE:
        last = f", last on {status.old_used_at:%H:%M:%S} UTC" if status.old_used_at is not None else ""
        return f"{status.region or 'another region'}: the old credential is not silent for long enough{last}"
    return f"{status.region}: the new credential has not been used yet"


def _rest_s(waiting: list[RegionStatus]) -> float:
    now = timezone.now()
    rests = [(status.ready_at - now).total_seconds() for status in waiting if status.ready_at is not None]
    return min(max(max(rests, default=LOOK_S), 1.0), LOOK_S)


def _spoken(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    return f"{seconds // 60} minutes" if seconds >= 120 and seconds % 60 == 0 else f"{seconds} seconds"


# --- the end ------------------------------------------------------------------------------------------------------


def retire_old(ctx: StepContext) -> Later | None:
    """Revoke the old ones; looked at once more in the same transaction. No way back."""
    if ctx.memo.get("retired"):
        return None
    later = _judge(ctx)
    if later is not None:
        return later
    with ctx.commit(unless_cancelled=True) as tx:
        store: XksKeyStore = ctx.target(lock=True)
        new = _new(ctx)
        old = old_credentials(store, new)
        limit = timezone.now() - silence_of(ctx.operation)
        rows = XksCredential.objects.select_for_update().filter(pk__in=[row.pk for row in old])
        for row in rows.order_by("pk"):
            used = last_used_at(row)
            if used is not None and used > limit:
                raise OperationError(
                    "used_again", f"{row.access_key_id} was used again just now.", permanent=False
                )
            retire(tx, row, reason="rotated", detail={"successor": new.access_key_id})
        plan_next_rotation(store)
        store.save(update_fields=["next_rotation_at", "updated_at"])
        ctx.memo["retired"] = [row.access_key_id for row in old]
    ctx.detail = ", ".join(ctx.memo["retired"]) or "nothing was left to retire"
    return None


def wait_retired(ctx: StepContext) -> Later | None:
    """Every worker refuses the old one; how many have confirmed is the operation's result."""
    later = wait_workers(ctx)
    if later is None:
        ctx.operation.result = {
            "credential": str(ctx.memo["new_credential_id"]),
            "access_key_id": XksCredential.objects.get(pk=ctx.memo["new_credential_id"]).access_key_id,
            "retired": list(ctx.memo.get("retired", [])),
            "confirmed_by": ctx.detail,
        }
    return later


ROTATE = Flow(
    run={
        "create": create,
        "wait_workers": wait_workers,
        "hand_over": hand_over,
        "watch": watch,
        "retire_old": retire_old,
        "wait_retired": wait_retired,
    },
    undo={"create": undo_create, "hand_over": undo_hand_over},
)
