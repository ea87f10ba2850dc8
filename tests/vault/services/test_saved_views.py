"""Saved views: one's own, shared ones, and those of leavers."""

from __future__ import annotations

import pytest

from tests.cast import Cast
from vault.actors import Actor
from vault.errors import NotFound, PermissionDenied, StaleRevision, ValidationFailed
from vault.models import SavedView
from vault.services import saved_views
from vault.services.saved_views import create_saved_view, delete_saved_view, update_saved_view, visible_views


def make(cast: Cast, who: str, **more: object) -> SavedView:
    values: dict[str, object] = {"page": "cloud-keys", "name": "Due soon", **more}
    return create_saved_view(cast.actor(who), cast.vault.pk, **values)  # type: ignore[arg-type]


def test_private_and_shared(cast: Cast) -> None:
    private = make(cast, "colleague")
    shared = make(cast, "colleague", name="All", shared=True)
    assert set(visible_views(cast.actor("colleague"))) == {private, shared}
    assert set(visible_views(cast.actor("owner"))) == {shared}
    assert not visible_views(cast.actor("outsider")).exists()
    with pytest.raises(NotFound):
        saved_views.fetch_view(cast.actor("owner"), private.pk)


def test_changing(cast: Cast) -> None:
    shared = make(cast, "colleague", shared=True)
    with pytest.raises(PermissionDenied):
        update_saved_view(cast.actor("owner"), shared.pk, name="Mine")
    changed = update_saved_view(
        cast.actor("colleague"), shared.pk, name="Due", columns=["name"], expected_revision=1
    )
    assert (changed.name, changed.columns, changed.revision) == ("Due", ["name"], 2)
    with pytest.raises(StaleRevision):
        update_saved_view(cast.actor("colleague"), shared.pk, name="X", expected_revision=1)
    with pytest.raises(TypeError):
        update_saved_view(cast.actor("colleague"), shared.pk, user=cast.users["owner"])


def test_names(cast: Cast) -> None:
    make(cast, "colleague")
    make(cast, "owner")
    make(cast, "colleague", page="operations")
    other = make(cast, "colleague", name="Other")
    with pytest.raises(ValidationFailed):
        make(cast, "colleague")
    with pytest.raises(ValidationFailed):
        update_saved_view(cast.actor("colleague"), other.pk, name="Due soon")


def test_deleting(cast: Cast) -> None:
    shared = make(cast, "colleague", shared=True)
    with pytest.raises(PermissionDenied):
        delete_saved_view(cast.actor("auditor"), shared.pk)
    with pytest.raises(NotFound):
        delete_saved_view(cast.actor("outsider"), shared.pk)
    delete_saved_view(cast.actor("owner"), shared.pk)
    assert not SavedView.objects.exists()


def test_processes_have_none(cast: Cast) -> None:
    with pytest.raises(PermissionDenied):
        create_saved_view(Actor.system("cli"), cast.vault.pk, page="cloud-keys", name="x")
