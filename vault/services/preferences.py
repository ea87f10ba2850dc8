"""What a person wishes of the pages and mails: theme, density, columns of lists, mails about what needs attention."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vault.actors import Actor
from vault.errors import PermissionDenied, ValidationFailed
from vault.models import User, UserPreferences

MAX_PAGES = 40
MAX_COLUMNS = 60
_WORD = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


def preferences_of(user: User) -> UserPreferences:
    """The person's preferences; the defaults, unsaved, when none were ever set. One query."""
    return UserPreferences.objects.filter(user=user).first() or UserPreferences(user=user)


def update_preferences(
    actor: Actor,
    *,
    theme: str | None = None,
    density: str | None = None,
    attention_mail: str | None = None,
    lists: Mapping[str, Any] | None = None,
) -> UserPreferences:
    """Change one's own preferences. `lists` changes the named pages only: {page: {columns, density}}, None resets a page.

    A wish about looks changes nothing that anybody else sees, so it leaves no audit event. Raises ValidationFailed,
    PermissionDenied for a token.
    """
    if actor.user is None or actor.token is not None:
        raise PermissionDenied("Preferences are changed by people, not by tokens.", cure="Sign in first.")
    row, _ = UserPreferences.objects.get_or_create(user=actor.user)
    changed = []
    for name, value, allowed in (
        ("theme", theme, UserPreferences.Theme.values),
        ("density", density, UserPreferences.Density.values),
        ("attention_mail", attention_mail, UserPreferences.AttentionMail.values),
    ):
        if value is None:
            continue
        if value not in allowed:
            raise ValidationFailed(
                "This is not one of the choices.", field=name, cure=f"Give one of {', '.join(allowed)}."
            )
        setattr(row, name, value)
        changed.append(name)
    if lists is not None:
        row.lists = _merged(row.lists, lists)
        changed.append("lists")
    if changed:
        row.save(update_fields=[*changed, "updated_at"])
    return row


def _merged(present: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(present)
    for page, value in changes.items():
        if not isinstance(page, str) or not _WORD.fullmatch(page):
            raise ValidationFailed(
                "A page's name has small letters, digits, '-', '_' and '.'.",
                field="lists",
                cure="Correct it.",
            )
        if value is None:
            merged.pop(page, None)
        else:
            merged[page] = _list_wish(page, value)
    if len(merged) > MAX_PAGES:
        raise ValidationFailed(
            f"At most {MAX_PAGES} pages have wishes of their own.", field="lists", cure="Reset some."
        )
    return merged


def _list_wish(page: str, value: Any) -> dict[str, Any]:
    field = f"lists.{page}"
    if not isinstance(value, Mapping) or set(value) - {"columns", "density"}:
        raise ValidationFailed(
            "A list has `columns` and `density`.", field=field, cure='Send {"columns": ["name", "state"]}.'
        )
    wish: dict[str, Any] = {}
    if "columns" in value:
        columns = value["columns"]
        plain = isinstance(columns, list) and all(
            isinstance(column, str) and _WORD.fullmatch(column) for column in columns
        )
        if not plain or len(columns) > MAX_COLUMNS or len(set(columns)) != len(columns):
            raise ValidationFailed(
                f"Columns are a list of at most {MAX_COLUMNS} different names.",
                field=f"{field}.columns",
                cure="Correct it.",
            )
        wish["columns"] = list(columns)
    if "density" in value:
        if value["density"] not in UserPreferences.Density.values:
            raise ValidationFailed(
                "This density is unknown.",
                field=f"{field}.density",
                cure=f"Give one of {', '.join(UserPreferences.Density.values)}.",
            )
        wish["density"] = value["density"]
    return wish
