"""The banner while the root key's HSM is away: who reads what, and that no page asks for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.cast import Cast
from tests.web import Browser, text_of
from vault import keys
from vault.models import HsmConnection, HsmKey, HsmMember, Installation
from vault.web import root_sight


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    root_sight.forget()
    yield
    root_sight.forget()


@pytest.fixture
def hsm(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> HsmConnection:
    """The root key's HSM, which two members serve; pages start no thread of their own."""
    row = HsmConnection.objects.create(name="luna-root", module_path="/opt/vendor/libpkcs11.so")
    for number in range(2):
        HsmMember.objects.create(connection=row, token_label=f"p{number}", position=number, state="ACTIVE")
    HsmKey.objects.create(
        connection=row, purpose="root", state="ACTIVE", label="root", cka_id=Installation.objects.get().root_key_id
    )  # fmt: skip
    monkeypatch.setattr(keys, "root_in_hsm", lambda: True)
    monkeypatch.setattr(keys, "root_problem", lambda: "")
    monkeypatch.setattr(root_sight, "EVERY_S", 1e9)
    return row


def test_well_or_half_well_says_nothing(cast: Cast, hsm: HsmConnection) -> None:
    assert root_sight.look() is None
    hsm.members.filter(position=0).update(state="UNAVAILABLE")  # type: ignore[attr-defined]
    assert root_sight.look() is None
    assert b"root-away" not in Browser(cast, "appliance").get("/accounts/profile/").content


@pytest.mark.parametrize("waiting", [False, True])
def test_whoever_can_act_is_told_what_and_the_others_calmly(
    cast: Cast, hsm: HsmConnection, monkeypatch: pytest.MonkeyPatch, waiting: bool
) -> None:
    if waiting:
        monkeypatch.setattr(keys, "root_problem", lambda: "it is away")
    else:
        hsm.members.update(state="UNAVAILABLE")  # type: ignore[attr-defined]
    found = root_sight.look()
    assert found is not None
    assert (found.name, found.waiting) == ("luna-root", waiting)
    page = Browser(cast, "appliance").get("/accounts/profile/")
    words = text_of(page)
    assert "The HSM that holds the root key does not answer: luna-root." in words
    assert ("has not opened its keys yet" in words) is waiting
    assert f"/appliance/hsms/{hsm.pk}/" in page.content.decode()
    calm = text_of(Browser(cast, "owner").get(f"/v/{cast.vault.pk}/"))
    assert "Some changes may have to wait." in calm
    assert "luna-root" not in calm
    hsm.members.update(state="ACTIVE")  # type: ignore[attr-defined]
    monkeypatch.setattr(keys, "root_problem", lambda: "")
    assert root_sight.look() is None
    assert "may have to wait" not in text_of(Browser(cast, "owner").get(f"/v/{cast.vault.pk}/"))


def test_a_page_asks_nobody(cast: Cast, hsm: HsmConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, url = Browser(cast, "owner"), f"/v/{cast.vault.pk}/"
    owner.get(url)
    counts = []
    for state in ("ACTIVE", "UNAVAILABLE"):
        hsm.members.update(state=state)  # type: ignore[attr-defined]
        root_sight.look()
        with CaptureQueriesContext(connection) as queries:
            owner.get(url)
        counts.append(len(queries))
    assert counts[0] == counts[1]


def test_it_is_looked_at_beside_the_pages_once_at_a_time(
    hsm: HsmConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = threading.Event(), threading.Event()
    looks = []

    def look() -> None:
        looks.append(threading.current_thread().name)
        begun.set()
        go.wait(5)

    monkeypatch.setattr(root_sight, "EVERY_S", 0.0)
    monkeypatch.setattr(root_sight, "look", look)
    assert root_sight.current() is None
    assert begun.wait(5)
    root_sight.current()
    go.set()
    assert looks == ["root-sight"]
