"""docs/permissions.md says what vault/permissions.py does."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from tests.cast import Cast
from vault.models import Role
from vault.permissions import APPLIANCE_PERMISSIONS, ROLE_ORDER, ROLE_PERMISSIONS, Permission, lower_role

PAGE = Path(__file__).resolve().parents[2] / "docs" / "permissions.md"
COLUMNS = ("appliance admin", "vault admin", "cloud admin", "auditor")
ROLES = (Role.VAULT_ADMIN, Role.CLOUD_ADMIN, Role.AUDITOR)


def rows() -> dict[str, tuple[bool, ...]]:
    """Permission -> yes or no for each column of the page's table."""
    found: dict[str, tuple[bool, ...]] = {}
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.fullmatch(r"`([a-z_]+\.[a-z_]+)`", cells[0]):
            assert match[1] not in found
            assert set(cells[2:]) <= {"yes", "group", ""}
            found[match[1]] = tuple(bool(cell) for cell in cells[2:])
    return found


def test_the_page_has_a_row_for_every_permission() -> None:
    assert list(rows()) == [permission.value for permission in Permission]


@pytest.mark.parametrize("permission", Permission)
def test_every_row_is_true(permission: Permission) -> None:
    expected = (
        permission in APPLIANCE_PERMISSIONS,
        *(permission in ROLE_PERMISSIONS[role] for role in ROLES),
    )
    assert rows()[permission.value] == expected


def test_what_a_cloud_admin_changes_is_bound_to_groups_and_the_page_says_so() -> None:
    table = PAGE.read_text("utf-8")
    for permission in ROLE_PERMISSIONS[Role.CLOUD_ADMIN]:
        line = next(line for line in table.splitlines() if line.startswith(f"| `{permission.value}`"))
        cloud_admin = line.strip("|").split("|")[4].strip()
        assert cloud_admin == (
            "yes" if permission.value.endswith(".view") or "saved_views" in line else "group"
        )


def test_each_role_holds_all_of_the_lower_one() -> None:
    for lower, higher in pairwise(ROLE_ORDER):
        assert ROLE_PERMISSIONS[lower] < ROLE_PERMISSIONS[higher]
        assert lower_role(lower, higher) == lower


def test_nobody_but_the_appliance_admin_has_appliance_permissions(cast: Cast) -> None:
    for permission in APPLIANCE_PERMISSIONS:
        assert cast.actor("appliance").may(permission)
        for who in ("owner", "colleague", "auditor", "outsider"):
            assert not cast.actor(who).may(permission)
    for permission in set(Permission) - APPLIANCE_PERMISSIONS:
        assert not cast.actor("appliance").may(permission, cast.vault)
        assert cast.actor("owner").may(permission, cast.vault)
        assert not cast.actor("outsider").may(permission, cast.vault)
