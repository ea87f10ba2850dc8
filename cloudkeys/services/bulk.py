"""Many CloudKeys at once: what may be asked, and rows from a file checked before anything is made."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

from cloudkeys import naming, shorthands
from cloudkeys.models import CloudKey, KeySet, Operation
from cloudkeys.operations import start_operation
from cloudkeys.schedules import parse_schedule
from cloudkeys.services.cloud_keys import id_is_taken, name_is_taken, prepare_cloud_key
from cloudkeys.services.rows import require_live_vault
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, DomainError, ValidationFailed
from vault.models import Vault
from vault.permissions import Permission

# Each with what it needs; a key's group is looked at when its turn comes.
ACTIONS: dict[str, Permission] = {
    "disable": Permission.CLOUD_KEYS_DISABLE,
    "enable": Permission.CLOUD_KEYS_ENABLE,
    "block": Permission.CLOUD_KEYS_BLOCK,
    "unblock": Permission.CLOUD_KEYS_UNBLOCK,
    "rotate": Permission.CLOUD_KEYS_ROTATE,
    "retire": Permission.CLOUD_KEYS_UPDATE,
    "refresh": Permission.CLOUD_KEYS_UPDATE,
    "update": Permission.CLOUD_KEYS_UPDATE,
    "tag": Permission.CLOUD_KEYS_UPDATE,
    "change_schedule": Permission.CLOUD_KEYS_UPDATE,
    "schedule_deletion": Permission.CLOUD_KEYS_DESTROY,
    "cancel_deletion": Permission.CLOUD_KEYS_DESTROY,
}
MAX_ITEMS = 5000
# Each row is checked while the caller waits.
MAX_ROWS = 500
COLUMNS = (
    "name", "region", "description", "external_key_id", "administrators", "users", "tags", "rotation_schedule",
)  # fmt: skip
_LISTS = ("administrators", "users")
UNREAD = "unread"
"""Stands in a row instead of a cell that could not be read: which, and why. Such a row makes nothing."""


@dataclass(frozen=True)
class RowOutcome:
    """What a row of the file would do: make a key (`ok`), or what is wrong with it."""

    row: int
    name: str
    ok: bool
    field: str = ""
    message: str = ""
    cure: str = ""

    def as_json(self) -> dict[str, Any]:
        """For the answer."""
        return asdict(self)


@dataclass
class CheckedRows:
    """The rows of a file, and what each would do."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[RowOutcome] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every row is good."""
        return all(outcome.ok for outcome in self.outcomes)


def start_bulk(
    actor: Actor, vault: Vault, action: str, ids: Sequence[UUID], params: dict[str, Any]
) -> Operation:
    """Begin an act on many keys of a vault. Each is authorised when its turn comes, as the one who asked.

    Raises ValidationFailed (field named; nothing is begun when one id is not the vault's), PermissionDenied.
    """
    if action not in ACTIONS:
        raise ValidationFailed(
            "This action is unknown.", field="action", cure=f"Give one of {', '.join(ACTIONS)}."
        )
    actor.require(ACTIONS[action], vault)
    require_live_vault(vault)
    if ("changes" in params) != (action == "update"):
        raise ValidationFailed(
            "`changes` goes with the action update, and only with it.",
            field="changes",
            cure="Say what to change." if action == "update" else "Leave `changes` out.",
        )
    _check_params(action, params)
    unique = [str(each) for each in dict.fromkeys(ids)]
    _require_all(vault, ids)
    if action == "schedule_deletion":
        unnamed = [each for each in unique if each not in params.get("confirm", {})]
        if unnamed:
            raise ValidationFailed(
                f"What cannot be undone asks for each key's name; {len(unnamed)} are missing.",
                field="confirm",
                cure=f"Send the name of {unnamed[0]} too.",
            )
    with change(actor) as tx:
        operation = start_operation(
            actor, "cloud_keys.bulk", vault, input={"action": action, "ids": unique, "params": params}
        )
        tx.audit(
            Action.CLOUD_KEYS_BULK,
            vault,
            detail={"action": action, "keys": len(unique), "operation": str(operation.pk)},
        )
    return operation


def _check_params(action: str, params: dict[str, Any]) -> None:
    """Refuse at once what every key would refuse in its turn. Raises ValidationFailed."""
    tags = params.get("tags")
    if ("tags" in params) != (action == "tag"):
        raise ValidationFailed(
            "`tags` goes with the action tag, and only with it.",
            field="tags",
            cure="Say which to add and which to remove." if action == "tag" else "Leave `tags` out.",
        )
    if action == "tag":
        if (
            not isinstance(tags, dict)
            or set(tags) - {"add", "remove"}
            or not (tags.get("add") or tags.get("remove"))
        ):
            raise ValidationFailed(
                "Tags are added or removed.",
                field="tags",
                cure='Send {"add": {"team": "pay"}, "remove": ["old"]}.',
            )
        naming.check_tags(dict(tags.get("add") or {}), field="tags.add")
        if not all(isinstance(name, str) for name in tags.get("remove") or []):
            raise ValidationFailed("Tags are removed by name.", field="tags.remove", cure="Send their names.")
    if ("rotation_schedule" in params) != (action == "change_schedule"):
        raise ValidationFailed(
            "`rotation_schedule` goes with the action change_schedule, and only with it.",
            field="rotation_schedule",
            cure="Say which schedule." if action == "change_schedule" else "Leave `rotation_schedule` out.",
        )
    if action == "change_schedule" and params["rotation_schedule"].get("kind") != "inherited":
        parse_schedule(params["rotation_schedule"])


def _require_all(vault: Vault, ids: Sequence[UUID]) -> None:
    """Raise ValidationFailed naming the ids that are no CloudKeys of this vault."""
    known = set(CloudKey.objects.filter(vault=vault, pk__in=ids).values_list("pk", flat=True))
    errors = [
        {
            "field": f"ids[{index}]",
            "message": "There is no such CloudKey in this vault.",
            "cure": "Leave it out, or correct the id.",
        }
        for index, each in enumerate(ids)
        if each not in known
    ]
    if errors:
        raise ValidationFailed(
            f"{len(errors)} of these ids are no CloudKeys of this vault.", errors=errors[:20]
        )


def check_csv(actor: Actor, key_set_id: UUID, text: str, row_serializer: Any) -> CheckedRows:
    """Read the rows and check each as if it were made now, and that no two of them clash.

    Outside any transaction: a file of thousands of rows would hold its locks (on SQLite the only write lock, which
    disabling a key and the agent's heartbeats need too) for a minute. The rows are checked again when they are made.

    Raises ValidationFailed when the file as a whole is wrong (header, number of rows).
    """
    key_set: KeySet = actor.fetch(KeySet, key_set_id, Permission.CLOUD_KEYS_CREATE)
    checked = CheckedRows()
    earlier = _Earlier()
    for number, values in enumerate(_parse(text), start=1):
        checked.outcomes.append(_check_row(key_set, number, values, row_serializer, earlier))
        checked.rows.append({**values, "key_set": str(key_set_id)})
    return checked


def start_csv(actor: Actor, key_set_id: UUID, checked: CheckedRows) -> Operation:
    """Begin to make the keys of checked rows."""
    with change(actor) as tx:
        key_set: KeySet = actor.fetch(KeySet, key_set_id, Permission.CLOUD_KEYS_CREATE, lock=True)
        operation = start_operation(actor, "cloud_keys.csv_create", key_set, input={"rows": checked.rows})
        tx.audit(
            Action.CLOUD_KEYS_BULK,
            key_set,
            detail={"action": "create", "keys": len(checked.rows), "operation": str(operation.pk)},
        )
    return operation


def _parse(text: str) -> list[dict[str, Any]]:
    try:
        reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
        header = [name.strip() for name in reader.fieldnames or []]
        unknown = [name for name in header if name not in COLUMNS]
        if unknown or not {"name", "region"} <= set(header) or len(set(header)) != len(header):
            raise ValidationFailed(
                "The header line must name the columns name and region, and may name "
                + ", ".join(COLUMNS[2:])
                + (f"; {unknown[0][:40]!r} is none of them." if unknown else "."),
                field="csv",
                cure="Correct the first line; columns are separated by commas.",
            )
        reader.fieldnames = header
        rows = [_row(values, number) for number, values in enumerate(reader, start=1)]
    except csv.Error as error:
        raise ValidationFailed(
            f"This is no CSV: {error}.", field="csv", cure="Export it again as CSV (RFC 4180)."
        ) from None
    if not rows or len(rows) > MAX_ROWS:
        raise ValidationFailed(
            f"A file has 1 to {MAX_ROWS} rows.", field="csv", cure="Add rows, or split the file."
        )
    return rows


def _row(values: dict[str | None, Any], number: int) -> dict[str, Any]:
    if None in values or None in values.values():
        raise ValidationFailed(
            f"Row {number} has not as many columns as the header.",
            field="csv",
            cure="Quote texts that hold commas.",
        )
    row: dict[str, Any] = {
        str(name): str(value).strip() for name, value in values.items() if str(value).strip()
    }
    for name in _LISTS:
        if name in row:
            row[name] = row[name].split()
    for name, read in (("tags", read_tags), ("rotation_schedule", shorthands.schedule)):
        if name in row:
            try:
                row[name] = read(row[name])
            except ValueError as error:
                row[UNREAD] = {"field": name, "message": str(error)}
                return row
    return row


def read_tags(text: str) -> dict[str, str]:
    """Tags as a cell holds them, such as team=pay;env=prod. No tag of AWS has a semicolon. Raises ValueError."""
    return shorthands.tags([item.strip() for item in text.split(";") if item.strip()])


def tags_cell(tags: Mapping[str, str]) -> str:
    """What `read_tags` reads."""
    return ";".join(f"{name}={value}" for name, value in sorted(tags.items()))


@dataclass
class _Earlier:
    """What the good rows above have taken."""

    names: set[tuple[str, str]] = field(default_factory=set)
    external_key_ids: set[str] = field(default_factory=set)

    def take(self, key: CloudKey) -> None:
        """Raise ValidationFailed when a row above has the name or the id; else they are taken."""
        if (key.region, key.name) in self.names:
            raise name_is_taken()
        if key.external_key_id in self.external_key_ids:
            raise id_is_taken()
        self.names.add((key.region, key.name))
        self.external_key_ids.add(key.external_key_id)


def _check_row(
    key_set: KeySet, number: int, values: dict[str, Any], row_serializer: Any, earlier: _Earlier
) -> RowOutcome:
    name = str(values.get("name", ""))[:250]
    if (unread := values.get(UNREAD)) is not None:
        return RowOutcome(number, name, False, unread["field"], unread["message"], "Correct the cell.")
    form = row_serializer(data=values)
    if not form.is_valid():
        where, problems = next(iter(form.errors.items()))
        first = problems[0] if isinstance(problems, list) else next(iter(problems.values()))[0]
        return RowOutcome(number, name, False, str(where), str(first), "Correct the row.")
    try:
        earlier.take(prepare_cloud_key(key_set, **form.validated_data))
    except DomainError as error:
        return RowOutcome(number, name, False, error.field, error.message, error.cure)
    return RowOutcome(number, name, True)


def retry_refused(actor: Actor, operation_id: UUID) -> Operation:
    """Begin anew, as work of one's own, what a finished bulk operation was refused: the same act on those keys, or those rows.

    Each key is authorised when its turn comes, as the one who retries. Raises Conflict when nothing was refused or it still
    runs, ValidationFailed when a key is gone meanwhile, PermissionDenied, NotFound.
    """
    before: Operation = actor.fetch(Operation, operation_id, Permission.OPERATIONS_MANAGE)
    if before.kind not in ("cloud_keys.bulk", "cloud_keys.csv_create"):
        raise Conflict("This operation is not one on many keys.", cure="Retry it as a whole.")
    if before.state in Operation.UNFINISHED:
        raise Conflict(
            "It is not over yet: more keys may be refused.", cure="Wait until it is done, or cancel it."
        )
    refused = list(before.result.get("failed", []))
    if not refused:
        raise Conflict("No key was refused.", cure="There is nothing to do again.")
    if before.kind == "cloud_keys.csv_create":
        rows = before.input.get("rows", [])
        again = [rows[each["row"]] for each in refused]
        return start_csv(actor, before.target_id, CheckedRows(rows=again))
    return start_bulk(
        actor,
        before.vault,
        str(before.input.get("action")),
        [UUID(each["id"]) for each in refused],
        dict(before.input.get("params") or {}),
    )
