"""HSM connections, for appliance admins: connect, change, PINs, test, delete. No function here loads a module.

What members do is written by the keepers (vault/hsm_keeper.py, one a host), and read here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Protocol
from uuid import UUID

from django.db.models import PROTECT, RESTRICT, Count, ProtectedError, QuerySet, RestrictedError
from django.utils import timezone

from vault import keys
from vault.actions import Action
from vault.actors import Actor
from vault.changes import Change, change
from vault.errors import Conflict, NotFound, Unavailable, ValidationFailed, check_revision
from vault.hsm_modules import check_environment, check_module
from vault.models import AuditEvent, HsmConnection, HsmKey, HsmMember, Installation, Vault
from vault.permissions import Permission
from vault.secret import Secret

SLOW_MS: Final = 25.0
"""Round trips above this are warned of: AWS waits 250 ms for everything together."""
SILENT_AFTER: Final = timedelta(minutes=2)
TEST_S: Final = 20.0
MOST_MEMBERS: Final = 8
MOST_NAMED: Final = 5
PIN_BYTES: Final = 256
_FIELDS: Final = (
    "name",
    "module_path",
    "environment",
    "login",
    "pin_source",
    "pin_version",
    "timeout_ms",
    "routing",
)


class MemberLike(Protocol):
    """A token as it is given: by its serial number, or else by its label."""

    @property
    def serial(self) -> str: ...

    @property
    def label(self) -> str: ...


@dataclass(frozen=True)
class MemberSpec:
    """See MemberLike."""

    serial: str = ""
    label: str = ""


@dataclass(frozen=True)
class Dependent:
    """What is lost, or stands still, without the connection. kind: root, wrapping, resident, or another room's."""

    kind: str
    count: int
    words: str
    vault_id: UUID | None = None
    vault_name: str = ""


# --- reading ------------------------------------------------------------------------------------------------------


def list_connections(actor: Actor) -> QuerySet[HsmConnection]:
    """Every connection with its members, by name. Raises PermissionDenied."""
    actor.require(Permission.APPLIANCE_VIEW_HSMS)
    return HsmConnection.objects.prefetch_related("members", "vaults").order_by("name")


def view_connection(actor: Actor, connection_id: UUID) -> HsmConnection:
    """One connection. Raises NotFound, PermissionDenied."""
    row = list_connections(actor).filter(pk=connection_id).first()
    if row is None:
        raise NotFound("There is no such HSM connection.")
    return row


def list_keys(actor: Actor, connection_id: UUID | None = None) -> QuerySet[Any]:
    """Keys inside HSMs, each with ``placed``, the number of members that hold it. Raises PermissionDenied."""
    actor.require(Permission.APPLIANCE_VIEW_HSMS)
    rows = HsmKey.objects.select_related("connection", "vault").annotate(
        placed=Count("placements", distinct=True)
    )
    return rows.filter(connection_id=connection_id) if connection_id is not None else rows


def keys_on_one_member(actor: Actor, connection_id: UUID) -> QuerySet[Any]:
    """Living keys that one member alone holds though there are several: lost with that member."""
    rows: QuerySet[Any] = list_keys(actor, connection_id)
    rows = rows.filter(state=HsmKey.State.ACTIVE, placed=1)
    several = HsmMember.objects.filter(connection_id=connection_id).count() > 1
    return rows if several else rows.none()


def dependents_of(row: HsmConnection) -> list[Dependent]:
    """What depends on a connection: its keys by vault and purpose, and rows of other rooms that refer to it."""
    found = []
    counted = (
        HsmKey.objects.filter(connection=row)
        .exclude(state=HsmKey.State.DESTROYED)
        .exclude(purpose=HsmKey.Purpose.HEALTH)
        .order_by("purpose", "vault__name")
        .values_list("purpose", "vault_id", "vault__name")
        .annotate(number=Count("pk"))
    )
    for purpose, vault_id, vault_name, number in counted:
        wraps = "key that wraps" if number == 1 else "keys that wrap"
        words = {
            HsmKey.Purpose.ROOT: "the root key of this installation",
            HsmKey.Purpose.WRAPPING: f"{number} {wraps} key sets of vault {vault_name}",
            HsmKey.Purpose.RESIDENT: f"{number} key version{'' if number == 1 else 's'} of vault {vault_name}",
        }.get(purpose, f"{number} keys")
        found.append(Dependent(str(purpose), number, words, vault_id, vault_name or ""))
    for relation in row._meta.related_objects:
        if relation.related_model is HsmKey or relation.on_delete not in (PROTECT, RESTRICT):
            continue
        rows = relation.related_model._default_manager.filter(**{relation.field.name: row})
        number = rows.count()
        if number:
            meta = relation.related_model._meta
            names = ", ".join(str(each) for each in rows.order_by("pk")[:MOST_NAMED])
            kind = str(meta.verbose_name if number == 1 else meta.verbose_name_plural)
            found.append(Dependent(str(meta.model_name), number, f"{number} {kind} ({names})"))
    return found


def holds_root_key(row: HsmConnection) -> bool:
    """Whether the root key that the installation uses now is in this HSM."""
    named = Installation.objects.filter(pk=1).values_list("root_key_id", flat=True).first()
    return (
        bool(named)
        and HsmKey.objects.filter(
            connection=row, purpose=HsmKey.Purpose.ROOT, cka_id=named, state=HsmKey.State.ACTIVE
        ).exists()
    )


def keeper_alive() -> bool:
    """Whether a keeper has reported within two minutes."""
    newest = (
        HsmMember.objects.exclude(checked_at=None)
        .order_by("-checked_at")
        .values_list("checked_at", flat=True)
        .first()
    )
    return newest is not None and timezone.now() - newest < SILENT_AFTER


# --- changing -----------------------------------------------------------------------------------------------------


def create_connection(
    actor: Actor,
    *,
    name: str,
    module_path: str,
    members: Sequence[MemberLike],
    environment: Mapping[str, str] | None = None,
    login: str = HsmConnection.Login.PIN,
    pin_source: str = HsmConnection.PinSource.STORED,
    pin: Secret | str | None = None,
    timeout_ms: int = 1000,
    routing: str = HsmConnection.Routing.PREFERRED,
    vaults: Iterable[UUID | str] = (),
) -> HsmConnection:
    """Connect an HSM. The keepers try it within seconds; `test_connection` waits for that.

    Raises ValidationFailed, PermissionDenied, Unavailable (the PIN cannot be encrypted: the root key's HSM is away).
    """
    actor.require(Permission.APPLIANCE_MANAGE_HSMS)
    row = HsmConnection(
        name=name,
        module_path=check_module(module_path),
        environment=check_environment(environment or {}),
        login=login,
        pin_source=pin_source,
        timeout_ms=timeout_ms,
        routing=routing,
    )
    _check(row)
    given = _given_pin(row, pin)
    wanted = _check_members(members)
    with change(actor) as tx:
        _require_free_name(row)
        if given is not None:
            keys.seal(row, "pin", given)
        row.save(force_insert=True)
        for position, each in enumerate(wanted):
            HsmMember.objects.create(
                connection=row, position=position, token_serial=each.serial, token_label=each.label
            )
        row.vaults.set(_vaults(vaults))
        tx.audit(Action.HSM_CONNECTION_CREATE, row, after=_state(row))
    return row


def update_connection(
    actor: Actor,
    connection_id: UUID,
    *,
    name: str | None = None,
    module_path: str | None = None,
    members: Sequence[MemberLike] | None = None,
    environment: Mapping[str, str] | None = None,
    login: str | None = None,
    pin_source: str | None = None,
    pin: Secret | str | None = None,
    timeout_ms: int | None = None,
    routing: str | None = None,
    vaults: Iterable[UUID | str] | None = None,
    expected_revision: int | None = None,
) -> HsmConnection:
    """Change a connection; what is not given stays. Members that stay keep what is known of them.

    Raises ValidationFailed, Conflict (a member goes that alone holds keys; a vault that has keys there), StaleRevision,
    NotFound, PermissionDenied, Unavailable.
    """
    actor.require(Permission.APPLIANCE_MANAGE_HSMS)
    with change(actor) as tx:
        row = _fetch(connection_id)
        check_revision(row, expected_revision)
        before = _state(row)
        given_values = {
            "name": name,
            "module_path": check_module(module_path) if module_path is not None else None,
            "environment": check_environment(environment) if environment is not None else None,
            "login": login,
            "pin_source": pin_source,
            "timeout_ms": timeout_ms,
            "routing": routing,
        }
        for field, value in given_values.items():
            if value is not None:
                setattr(row, field, value)
        _check(row)
        if row.name != before["name"]:
            _require_free_name(row)
        stored_before = (before["login"], before["pin_source"]) == ("pin", "stored")
        if _keeps_pin(row):
            given = _given_pin(row, pin, needed=not stored_before)
            if given is not None:
                row.pin_version += 1
                keys.seal(row, "pin", given)
        else:
            _given_pin(row, pin)
            row.pin = None
            if stored_before:
                row.pin_version += 1
        if members is not None:
            _set_members(row, members)
        if vaults is not None:
            _set_vaults(row, vaults)
        after = _state(row)
        if after != before:
            row.revision += 1
            row.save()
            tx.audit(Action.HSM_CONNECTION_UPDATE, row, before=before, after=after)
    return row


def change_pin(
    actor: Actor,
    connection_id: UUID,
    pin: Secret | str | None = None,
    *,
    expected_revision: int | None = None,
) -> HsmConnection:
    """Give a new PIN, which is tried once. For a PIN from outside: say that the hosts have a new one, or the old is right now.

    Refusals remembered so far hold for older versions only. Raises ValidationFailed, Conflict, StaleRevision, NotFound,
    PermissionDenied, Unavailable.
    """
    actor.require(Permission.APPLIANCE_MANAGE_HSMS)
    with change(actor) as tx:
        row = _fetch(connection_id)
        check_revision(row, expected_revision)
        if row.login != HsmConnection.Login.PIN:
            raise Conflict("This HSM is used without a PIN.", cure="Change its login first.")
        given = _given_pin(row, pin)
        before = row.pin_version
        row.pin_version += 1
        row.revision += 1
        if given is not None:
            keys.seal(row, "pin", given)
        row.save(update_fields=["pin", "pin_version", "revision", "updated_at"])
        tx.audit(
            Action.HSM_PIN_CHANGE, row, before={"pin_version": before}, after={"pin_version": row.pin_version}
        )
    return row


def delete_connection(
    actor: Actor, connection_id: UUID, *, reason: str = "", expected_revision: int | None = None
) -> None:
    """Disconnect an HSM; its keys stay in it, its PIN is erased here.

    Raises Conflict naming what depends on it, StaleRevision, NotFound, PermissionDenied.
    """
    actor.require(Permission.APPLIANCE_MANAGE_HSMS)
    with change(actor) as tx:
        row = _fetch(connection_id)
        check_revision(row, expected_revision)
        depending = dependents_of(row)
        if depending:
            raise Conflict(
                f"This HSM is needed by {_listed([each.words for each in depending])}.",
                cure="Move these to another HSM or another protection first.",
            )
        tx.audit(Action.HSM_CONNECTION_DELETE, row, before=_state(row), reason=reason)
        try:
            row.keys.all().delete()  # type: ignore[attr-defined]  # destroyed ones, and the health-check key's record
            row.delete()
        except (ProtectedError, RestrictedError) as error:
            names = [
                f"{each._meta.verbose_name} {each}" for each in sorted(error.args[1], key=str)[:MOST_NAMED]
            ]
            raise Conflict(
                f"Records of keys that lived in this HSM still stand: {_listed(names)}.",
                cure="It can go once these are gone.",
            ) from None


def _fetch(connection_id: UUID) -> HsmConnection:
    row = HsmConnection.objects.select_for_update(of=("self",)).filter(pk=connection_id).first()
    if row is None:
        raise NotFound("There is no such HSM connection.")
    return row


def _check(row: HsmConnection) -> None:
    if not row.name.strip():
        raise ValidationFailed(
            "The name is missing.", field="name", cure="Give a name such as luna-frankfurt."
        )
    for field, choices in (
        ("login", HsmConnection.Login),
        ("pin_source", HsmConnection.PinSource),
        ("routing", HsmConnection.Routing),
    ):
        if getattr(row, field) not in choices.values:
            raise ValidationFailed(
                f"{getattr(row, field)!r} is unknown.",
                field=field,
                cure=f"Choose one of {', '.join(choices.values)}.",
            )
    if not 50 <= row.timeout_ms <= 60_000:
        raise ValidationFailed(
            "The time-out is out of bounds.", field="timeout_ms", cure="Give 50 to 60000 milliseconds."
        )
    if _keeps_pin(row) and not row._state.adding and holds_root_key(row):
        raise ValidationFailed(
            "The PIN of the HSM that holds the root key cannot be kept under a key that it alone opens.",
            field="pin_source",
            cure="Choose external: each host reads the PIN from a file or its environment.",
        )


def _keeps_pin(row: HsmConnection) -> bool:
    return row.login == HsmConnection.Login.PIN and row.pin_source == HsmConnection.PinSource.STORED


def _given_pin(row: HsmConnection, pin: Secret | str | None, *, needed: bool = True) -> Secret | None:
    given = Secret(pin) if pin is not None and (isinstance(pin, Secret) or pin) else None
    if given is not None and not given.reveal():
        given = None
    if not _keeps_pin(row):
        if given is not None:
            raise ValidationFailed(
                "With this login no PIN is kept here.", field="pin", cure="Leave the PIN out."
            )
        return None
    if given is None:
        if needed:
            raise ValidationFailed(
                "The PIN is missing.", field="pin", cure="Give the PIN of the token's user."
            )
        return None
    if len(given.reveal()) > PIN_BYTES:
        raise ValidationFailed("The PIN is too long.", field="pin", cure=f"At most {PIN_BYTES} bytes.")
    return given


def _require_free_name(row: HsmConnection) -> None:
    if HsmConnection.objects.filter(name=row.name).exclude(pk=row.pk).exists():
        raise ValidationFailed("Another HSM has this name.", field="name", cure="Choose another name.")


def _check_members(members: Sequence[MemberLike]) -> list[MemberSpec]:
    wanted = [
        MemberSpec(each.serial.strip(), "" if each.serial.strip() else each.label.strip()) for each in members
    ]
    if not 1 <= len(wanted) <= MOST_MEMBERS:
        raise ValidationFailed(
            f"An HSM connection has 1 to {MOST_MEMBERS} members.",
            field="members",
            cure="Name each token once.",
        )
    if any(not each.serial and not each.label for each in wanted):
        raise ValidationFailed(
            "A token has neither serial nor label.", field="members", cure="Give one of them."
        )
    if any(len(each.serial) > 64 or len(each.label) > 64 for each in wanted):
        raise ValidationFailed(
            "A serial or label is too long.", field="members", cure="At most 64 characters."
        )
    if len(set(wanted)) != len(wanted):
        raise ValidationFailed("A token stands there twice.", field="members", cure="Name each once.")
    return wanted


def _set_members(row: HsmConnection, members: Sequence[MemberLike]) -> None:
    wanted = _check_members(members)
    there = {(each.token_serial, each.token_label): each for each in row.members.all()}  # type: ignore[attr-defined]
    kept = {(each.serial, each.label) for each in wanted}
    # A label that was given is kept beside the serial that the token turned out to have, so either may be repeated.
    going = [each for key, each in there.items() if key not in kept]
    for each in going:
        alone = [
            str(key)
            for key in HsmKey.objects.filter(
                connection=row, state=HsmKey.State.ACTIVE, placements__member=each
            )
            .exclude(purpose=HsmKey.Purpose.HEALTH)
            .annotate(placed=Count("placements"))
            if key.placements.count() == 1  # type: ignore[attr-defined]
        ][: MOST_NAMED + 1]
        if alone:
            raise Conflict(
                f"{each} alone holds {_listed(alone)}.", cure="Replicate these keys to another member first."
            )
        each.delete()
    for position, spec in enumerate(wanted):
        known = there.get((spec.serial, spec.label))
        if known is None:
            HsmMember.objects.create(
                connection=row, position=position, token_serial=spec.serial, token_label=spec.label
            )
        elif known.position != position:
            known.position = position
            known.save(update_fields=["position"])


def _vaults(ids: Iterable[UUID | str]) -> list[Vault]:
    wanted = {str(each) for each in ids}
    try:
        found = list(Vault.objects.filter(pk__in=[UUID(each) for each in wanted]))
    except ValueError:
        found = []
    if len(found) != len(wanted):
        raise ValidationFailed(
            "One of these vaults does not exist.", field="vaults", cure="Send ids of vaults."
        )
    return found


def _set_vaults(row: HsmConnection, ids: Iterable[UUID | str]) -> None:
    wanted = _vaults(ids)
    losing = row.vaults.exclude(pk__in=[each.pk for each in wanted])
    using = (
        HsmKey.objects.filter(connection=row, vault__in=losing)
        .exclude(state=HsmKey.State.DESTROYED)
        .order_by("vault__name")
        .values_list("vault__name", flat=True)
        .distinct()[:MOST_NAMED]
    )
    if names := list(using):
        raise Conflict(
            f"Keys of {_listed(names)} are in this HSM.",
            cure="Leave these vaults in, or move their key sets first.",
        )
    row.vaults.set(wanted)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (" and more" if len(names) > MOST_NAMED else "")


def _state(row: HsmConnection) -> dict[str, Any]:
    state: dict[str, Any] = {field: getattr(row, field) for field in _FIELDS}
    state["environment"] = dict(row.environment)
    state["members"] = [
        each.token_serial or f"label: {each.token_label}"
        for each in HsmMember.objects.filter(connection=row).order_by("position")
    ]
    state["vaults"] = sorted(row.vaults.values_list("name", flat=True))
    return {
        name: str(value) if name in ("login", "pin_source", "routing") else value
        for name, value in state.items()
    }


# --- testing ------------------------------------------------------------------------------------------------------


def request_test(actor: Actor, connection_id: UUID) -> UUID:
    """Ask the keeper for a test; `test_report` of the row answers it, with this id. Raises NotFound, PermissionDenied."""
    actor.require(Permission.APPLIANCE_MANAGE_HSMS)
    wanted = uuid.uuid4()
    with change(actor) as tx:
        row = _fetch(connection_id)
        row.test_wanted = wanted
        row.save(update_fields=["test_wanted"])
        tx.audit(Action.HSM_CONNECTION_TEST, row)
    return wanted


def test_connection(actor: Actor, connection_id: UUID, *, wait_s: float = TEST_S) -> dict[str, Any]:  # noqa: PT028 - no test of pytest's
    """Test each member: login, mechanisms, a round trip under the health-check key, latency. Waits for the keeper.

    A PIN that was refused is not tried again; the report says so. Raises Unavailable when no keeper answers in time,
    NotFound, PermissionDenied. Call it outside a transaction.
    """
    wanted = request_test(actor, connection_id)
    ends = time.monotonic() + wait_s
    while True:
        row = view_connection(actor, connection_id)
        if row.test_report is not None and row.test_report.get("id") == str(wanted):
            report: dict[str, Any] = row.test_report
            return report
        if time.monotonic() >= ends:
            break
        time.sleep(0.2)
    raise Unavailable(
        "No keeper of HSMs has answered.",
        cure="Start `keystead hsm serve` on a host that has the vendor's client (keystead serve does so by itself), and look at its log.",
    )


def note_member_state(tx: Change, member: HsmMember, before: str, after: str, message: str) -> None:
    """Audit that a member went away, or came back."""
    well = after == HsmMember.State.ACTIVE
    tx.audit(
        Action.HSM_MEMBER_STATE,
        member,
        before={"state": before},
        after={"state": after},
        outcome=AuditEvent.Outcome.SUCCESS if well else AuditEvent.Outcome.FAILURE,
        detail={"connection": member.connection.name},
        reason=message,
    )
