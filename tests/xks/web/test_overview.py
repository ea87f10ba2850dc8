"""The first page of a vault, where one lands, and the command palette."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from cloudkeys.models import CloudKey, CspAccount, Operation
from tests.cast import WHO, Cast
from tests.cloudkeys import world
from tests.web import Browser, text_of
from vault.attention import Item, Severity
from vault.models import Membership, Role, Vault
from xks.models import Traffic
from xks.traffic_buckets import bucket_of
from xks.web.overview import fix_of

SEEN = {"owner": 200, "colleague": 200, "auditor": 200, "outsider": 404, "appliance": 404, "anonymous": 302}


def overview(cast: Cast) -> str:
    return reverse("overview", args=[cast.vault.pk])


@pytest.fixture
def key(cast: Cast) -> CloudKey:
    owner = cast.actor("owner")
    account = world.new_account(owner, cast.vault)
    return world.new_key(owner, world.new_key_set(owner, cast.vault, account).key_set)


@pytest.mark.parametrize("who", WHO)
def test_who_sees_it(cast: Cast, who: str) -> None:
    browser = Browser(cast, who)
    assert browser.get(overview(cast)).status_code == SEEN[who]
    assert browser.get(reverse("vault-attention", args=[cast.vault.pk])).status_code == SEEN[who]


def test_a_new_vault_shows_the_first_steps_and_they_tick_themselves(cast: Cast, settings: Any) -> None:
    settings.KEYSTEAD_SIMULATOR = True
    owner = Browser(cast, "owner")
    first = owner.get(overview(cast))
    words = text_of(first)
    assert "First steps 1 of 6 done" in words
    assert "Try it with the simulator" in words
    assert reverse("csp-account-new", args=[cast.vault.pk]) in first.content.decode()
    actor = cast.actor("owner")
    account = world.new_account(actor, cast.vault)
    words = text_of(owner.get(overview(cast)))
    assert "First steps 2 of 6 done" in words
    assert "Try it with the simulator" not in words
    world.new_key(actor, world.new_key_set(actor, cast.vault, account).key_set)
    assert "First steps 4 of 6 done" in text_of(owner.get(overview(cast)))


def test_without_the_simulator_nothing_offers_it(cast: Cast, settings: Any) -> None:
    settings.KEYSTEAD_SIMULATOR = False
    assert "simulator" not in text_of(Browser(cast, "owner").get(overview(cast)))


def test_who_may_not_is_told_why(cast: Cast, settings: Any) -> None:
    settings.KEYSTEAD_SIMULATOR = True
    shown = Browser(cast, "auditor").get(overview(cast)).content.decode()
    assert shown.count("does not allow csp_accounts.manage") >= 2
    assert "Block the whole vault" not in shown


def test_what_needs_attention_stands_worst_first_with_its_fix(cast: Cast, key: CloudKey) -> None:
    account = CspAccount.objects.get()
    CspAccount.objects.filter(pk=account.pk).update(health="FAILING", health_checked_at=timezone.now())
    failed = Operation.objects.create(
        vault=cast.vault, kind="cloud_key.refresh", state="FAILED", target_type="cloudkey", target_id=key.pk,
        target_name=key.name, error={"cause": "AWS was silent.", "cure": "", "permanent": False}, finished_at=timezone.now(),
    )  # fmt: skip
    CloudKey.objects.filter(pk=key.pk).update(blocked=True)
    shown = Browser(cast, "owner").get(overview(cast))
    words = text_of(shown)
    places = [
        words.index(part) for part in ("CSP account prod", "AWS was silent.", "payments-prod is blocked.")
    ]
    assert places == sorted(places)
    assert reverse("operation-retry", args=[cast.vault.pk, failed.pk]).encode() in shown.content
    assert b'id="attention" data-live' in shown.content
    part = Browser(cast, "owner").get(reverse("vault-attention", args=[cast.vault.pk]), target="attention")
    assert part.content.startswith(b'<div id="attention"')


def test_every_fix_leads_to_a_page(cast: Cast, key: CloudKey, rf: Any) -> None:
    request = rf.get("/")
    request.actor = cast.actor("owner")
    vault, pk = cast.vault, str(key.pk)

    def led(action: str, target_type: str, target_id: str = pk, **more: Any) -> str:
        item = Item("k", Severity.WARNING, "w", "y", "f", action, target_type, target_id, **more)
        return fix_of(request, vault, item)[0]

    assert led("retry_operation", "operation") == reverse("operation-retry", args=[vault.pk, pk])
    assert led("open_operation", "operation") == reverse("operation", args=[vault.pk, pk])
    assert led("open_operations", "operation", "").endswith("/operations/?state=FAILED")
    assert led("open_keys", "cloud_key", "", count=3, list_query="blocked=true").endswith(
        "/cloud-keys/?blocked=true"
    )
    assert led("rotate_credential", "csp_account") == reverse("csp-account-rotate", args=[vault.pk, pk])
    assert led("open_stores", "aws_store_link", "") == reverse("xks-stores", args=[vault.pk])
    link_store = world.store_of(key.key_set)
    assert led("unblock_store", "xks_store", str(link_store.pk)).endswith("/unblock/")
    assert led("unblock_vault", "vault") == reverse("vault-unblock", args=[vault.pk])
    # Nodes are the appliance's: a member is told, and is not led to a page that is not for them.
    assert led("open_node", "node") == ""
    request.actor = cast.actor("colleague")
    assert led("unblock_vault", "vault") == ""


def test_numbers_and_charts(cast: Cast, key: CloudKey) -> None:
    now = timezone.now()
    store = world.store_of(key.key_set)
    Traffic.objects.create(
        store_id=store.pk, span_s=3600, at=now.replace(minute=0, second=0, microsecond=0),
        bucket=bucket_of(8000), requests=120, errors=20,
    )  # fmt: skip
    CloudKey.objects.filter(pk=key.pk).update(
        next_rotation_at=now + timedelta(days=3), expires_at=now - timedelta(days=1)
    )
    words = text_of(Browser(cast, "owner").get(overview(cast)))
    assert "120 requests" in words
    assert "20 refused" in words
    assert "1 rotation, 1 expiry" in words
    assert "Today or overdue" in words
    assert "Rotations and expiries" in words


def test_the_queries_do_not_grow(cast: Cast, key: CloudKey) -> None:
    owner = Browser(cast, "owner")
    owner.get(overview(cast))
    asked = []
    for more in (7, 27):
        for number in range(more):
            made = world.new_key(cast.actor("owner"), key.key_set, f"key-{more}-{number}")
            CloudKey.objects.filter(pk=made.pk).update(blocked=True, next_rotation_at=timezone.now())
        with CaptureQueriesContext(connection) as queries:
            assert owner.get(overview(cast)).status_code == 200
        asked.append(len(queries))
    assert asked[0] == asked[1]


def test_where_one_lands(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    assert owner.get("/")["Location"] == overview(cast)
    assert Browser(cast, "appliance").get("/")["Location"] == reverse("vaults")
    Membership.objects.create(vault=cast.other_vault, user=cast.users["colleague"], role=Role.AUDITOR)
    colleague = Browser(cast, "colleague")
    choice = colleague.get("/")
    assert choice.status_code == 200
    assert "Choose a vault" in text_of(choice)
    assert "Elsewhere Enabled Auditor Payments Enabled" in text_of(choice)
    elsewhere = reverse("overview", args=[cast.other_vault.pk])
    colleague.get(elsewhere)
    # From then on the session stays where it was.
    assert colleague.get("/")["Location"] == elsewhere


def palette(cast: Cast, who: str, text: str, vault: Vault | None = None) -> str:
    return Browser(cast, who).get("/palette/", q=text, vault=str((vault or cast.vault).pk)).content.decode()


def test_the_palette_goes_to_any_object(cast: Cast, key: CloudKey) -> None:
    world.pretend_linked(key)
    page = reverse("cloud-key", args=[cast.vault.pk, key.pk])
    for text in ("payments", str(key.pk), key.external_key_id, key.kms_key_arn, "alias/payments-prod"):
        assert page in palette(cast, "auditor", text), text
    assert reverse("csp-account", args=[cast.vault.pk, key.key_set.csp_account_id]) in palette(
        cast, "auditor", "prod"
    )
    assert reverse("key-set", args=[cast.vault.pk, key.key_set_id]) in palette(cast, "auditor", "pay-hyok")
    assert "owner@example.com" in palette(cast, "auditor", "owner@")
    assert page not in palette(cast, "outsider", "payments")


def test_the_palette_runs_what_one_may_do(cast: Cast, key: CloudKey) -> None:
    disable = reverse("cloud-key-disable", args=[cast.vault.pk, key.pk])
    assert f'href="{disable}" data-dialog' in palette(cast, "owner", "disable pay")
    assert disable not in palette(cast, "auditor", "disable pay")
    assert "Create key set" in palette(cast, "owner", "create")
    assert "Create key set" not in palette(cast, "auditor", "create")
    request_id = "ab" * 16
    assert f"?request_id={request_id}" in palette(cast, "auditor", request_id)
    assert "?person=ada%40acme.test" in palette(cast, "auditor", "ada@acme.test")
