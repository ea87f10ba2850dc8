"""Small steps that every service takes on a row."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import IntegrityError, models

from vault.errors import Conflict, NotFound, ValidationFailed
from vault.models import Group, Vault


def save_revision(row: Any, *names: str) -> None:
    """Save these fields and raise the row's revision by one; the caller holds the row's lock."""
    row.revision += 1
    row.save(update_fields=[*names, "revision", "updated_at"])


def find_group(vault: Vault, group_id: UUID | None, *, field: str = "group") -> Group | None:
    """The admin group of that vault, or None for none. Raises ValidationFailed."""
    if group_id is None:
        return None
    group = Group.objects.filter(vault=vault, pk=group_id).first()
    if group is None:
        raise ValidationFailed(
            "There is no such group in this vault.", field=field, cure="Pick one of the vault's groups."
        )
    return group


def require_live_vault(vault: Vault) -> None:
    """Refuse changes in a vault that is disabled or destroyed. Raises Conflict, NotFound."""
    if vault.state == Vault.State.DESTROYED:
        raise NotFound("There is no such vault, or it is not yours.")
    if vault.state != Vault.State.ENABLED:
        raise Conflict("This vault is disabled.", cure="Ask an appliance admin to enable it first.")


def require_free_name(model: type[models.Model], vault: Vault, name: str, *, but: UUID | None = None) -> None:
    """Names are unique in a vault; the constraint stays the last word (`name_taken`). Raises ValidationFailed."""
    if model._default_manager.filter(vault=vault, name=name).exclude(pk=but).exists():
        raise name_taken(model)


def name_taken(model: type[models.Model]) -> ValidationFailed:
    """The error for a name that another row of the vault has."""
    return ValidationFailed(
        f"Another {model._meta.verbose_name} of this vault has this name.",
        field="name",
        cure="Choose another name.",
    )


def is_constraint(error: IntegrityError, name: str, *columns: str) -> bool:
    """Whether `error` comes from that constraint: PostgreSQL names it, SQLite names the columns."""
    text = str(error)
    return name in text or (bool(columns) and all(column in text for column in columns))
