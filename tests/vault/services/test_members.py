"""Members and groups: roles, the last admin, and what a group still owns."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudkeys.models import KeySet
from tests.cast import PASSWORD, Cast, new_user
from vault.errors import Conflict, NotFound, PermissionDenied, StaleRevision, ValidationFailed
from vault.models import AuditEvent, Group, Membership, Role, User, Vault
from vault.services import groups, members


def test_a_newcomer(cast: Cast) -> None:
    added = members.add_member(
        cast.actor("owner"),
        cast.vault.pk,
        email="Grace@Example.com",
        name="Grace",
        role=Role.CLOUD_ADMIN,
        group_ids=[cast.group.pk],
    )
    assert added.one_time_password is not None
    assert added.membership.user.check_password(added.one_time_password.reveal_text())
    assert list(added.membership.groups.all()) == [cast.group]
    event = AuditEvent.objects.latest("sequence")
    assert (event.action, event.target_name) == ("vault:member:add", "grace@example.com")


def test_somebody_of_another_vault_is_only_added(cast: Cast) -> None:
    added = members.add_member(
        cast.actor("owner"), cast.vault.pk, email="outsider@example.com", name="Evil", role=Role.AUDITOR
    )
    assert added.one_time_password is None
    user = User.objects.get(email="outsider@example.com")
    assert (user.name, user.must_change_password) == ("Outsider", False)
    assert user.check_password(PASSWORD)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"email": "auditor@example.com"}, "email"),
        ({"email": "x@"}, "email"),
        ({"group_ids": ["elsewhere"]}, "groups"),
    ],
)
def test_refusals_leave_nothing(cast: Cast, change: dict[str, Any], field: str) -> None:
    if "group_ids" in change:
        change = {"group_ids": [Group.objects.create(vault=cast.other_vault, name="Theirs").pk]}
    before = (User.objects.count(), Membership.objects.count(), AuditEvent.objects.count())
    with pytest.raises(ValidationFailed) as caught:
        members.add_member(
            cast.actor("owner"),
            cast.vault.pk,
            **{"email": "grace@example.com", "role": Role.AUDITOR, **change},
        )
    assert caught.value.field == field
    assert (User.objects.count(), Membership.objects.count(), AuditEvent.objects.count()) == before


def test_the_last_admin_stays(cast: Cast) -> None:
    owner = cast.memberships["owner"]
    with pytest.raises(Conflict):
        members.remove_member(cast.actor("owner"), owner.pk)
    with pytest.raises(Conflict):
        members.update_member(cast.actor("owner"), owner.pk, role=Role.AUDITOR)
    members.update_member(cast.actor("owner"), cast.memberships["colleague"].pk, role=Role.VAULT_ADMIN)
    members.update_member(cast.actor("owner"), owner.pk, role=Role.AUDITOR)
    with pytest.raises(PermissionDenied):
        members.remove_member(cast.actor("owner"), cast.memberships["auditor"].pk)


def test_a_disabled_admin_does_not_count(cast: Cast) -> None:
    other = new_user("gone", is_active=False)
    Membership.objects.create(vault=cast.vault, user=other, role=Role.VAULT_ADMIN)
    with pytest.raises(Conflict):
        members.remove_member(cast.actor("owner"), cast.memberships["owner"].pk)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["owner", "colleague", "auditor"]),
            st.sampled_from(["owner", "colleague", "auditor"]),
            st.sampled_from([*Role.values, "remove"]),
        ),
        max_size=12,
    )
)
def test_whatever_is_done_an_admin_remains(cast: Cast, acts: list[tuple[str, str, str]]) -> None:
    from django.db import transaction

    with transaction.atomic():
        for who, whom, what in acts:
            pk = cast.memberships[whom].pk
            try:
                if what == "remove":
                    members.remove_member(cast.actor(who), pk)
                else:
                    members.update_member(cast.actor(who), pk, role=what)
            except (Conflict, NotFound, PermissionDenied):
                pass
            assert Membership.objects.filter(vault=cast.vault, role=Role.VAULT_ADMIN).exists()
        transaction.set_rollback(True)


def test_revisions(cast: Cast) -> None:
    pk = cast.memberships["auditor"].pk
    changed = members.update_member(cast.actor("owner"), pk, group_ids=[cast.group.pk], expected_revision=1)
    assert changed.revision == 2
    with pytest.raises(StaleRevision):
        members.remove_member(cast.actor("owner"), pk, expected_revision=1)
    event = AuditEvent.objects.latest("sequence")
    assert (event.before or {})["groups"] == []
    assert (event.after or {})["groups"] == ["Cloud Admin Group"]


def test_who_is_removed_is_out(cast: Cast) -> None:
    api = cast.api("colleague")
    assert api.get("/api/v1/groups").status_code == 200
    members.remove_member(cast.actor("owner"), cast.memberships["colleague"].pk)
    assert api.get("/api/v1/groups").status_code == 404
    assert User.objects.filter(email="colleague@example.com").exists()


def test_a_destroyed_vault_takes_nobody(cast: Cast) -> None:
    Vault.objects.filter(pk=cast.vault.pk).update(state=Vault.State.DESTROYED)
    with pytest.raises(Conflict):
        members.add_member(cast.actor("owner"), cast.vault.pk, email="grace@example.com", role=Role.AUDITOR)
    with pytest.raises(NotFound):
        groups.create_group(cast.actor("owner"), cast.vault.pk, name="x")


def test_groups(cast: Cast) -> None:
    owner = cast.actor("owner")
    group = groups.create_group(
        owner, cast.vault.pk, name="Team", member_ids=[cast.memberships["auditor"].pk]
    )
    with pytest.raises(ValidationFailed):
        groups.create_group(owner, cast.vault.pk, name="Team")
    with pytest.raises(ValidationFailed):
        groups.update_group(owner, group.pk, name=Group.CLOUD_ADMIN_GROUP)
    with pytest.raises(ValidationFailed):
        groups.update_group(owner, group.pk, member_ids=[cast.memberships["outsider"].pk])
    changed = groups.update_group(owner, group.pk, name="Crew", member_ids=[], expected_revision=1)
    assert (changed.name, changed.revision, changed.members.count()) == ("Crew", 2, 0)
    with pytest.raises(StaleRevision):
        groups.delete_group(owner, group.pk, expected_revision=1)
    groups.delete_group(owner, group.pk, expected_revision=2)
    assert not Group.objects.filter(pk=group.pk).exists()
    with pytest.raises(NotFound):
        groups.update_group(cast.actor("outsider"), cast.group.pk, name="x")


def test_a_group_that_owns_something_stays(cast: Cast) -> None:
    KeySet.objects.create(vault=cast.vault, name="pay-hyok", group=cast.group)
    before = AuditEvent.objects.count()
    with pytest.raises(Conflict) as caught:
        groups.delete_group(cast.actor("owner"), cast.group.pk)
    assert "pay-hyok" in caught.value.message
    assert Group.objects.filter(pk=cast.group.pk).exists()
    assert AuditEvent.objects.count() == before
