"""The pages of external key stores, tried by each of the cast."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from cloudkeys.models import AwsStoreLink, Operation, XksKeyStore
from cloudkeys.services import stores
from tests.cast import WHO, Cast
from tests.cloudkeys.world import new_account, new_key, new_key_set, store_of
from tests.web import Browser, text_of
from vault.models import AuditEvent, Errand, Membership

SEEN = {"owner": 200, "colleague": 200, "auditor": 200, "outsider": 404, "appliance": 404, "anonymous": 302}
CHANGED = {**SEEN, "auditor": 403}
LOOKS = ("", "-credentials", "-rules", "-doctor", "-traffic", "-requests", "-limits")


@pytest.fixture
def store(cast: Cast) -> XksKeyStore:
    actor = cast.actor("owner")
    account = new_account(actor, cast.vault, group=cast.group.pk)
    return store_of(new_key_set(actor, cast.vault, account, group=cast.group.pk).key_set)


def link_of(cast: Cast, store: XksKeyStore, region: str = "eu-west-1", **columns: object) -> AwsStoreLink:
    """An AWS key store that is noted, with the columns that work in AWS would have written."""
    request = stores.LinkRequest(region=region, linked=False, endpoint="https://xks.example.com")
    link = stores.create_store_link(cast.actor("owner"), store.pk, request).link
    AwsStoreLink.objects.filter(pk=link.pk).update(**columns)
    link.refresh_from_db()
    return link


def at(name: str, store: XksKeyStore, **more: object) -> str:
    return reverse(name, kwargs={"vault_id": store.vault_id, "store_id": store.pk, **more})


@pytest.mark.parametrize("who", WHO)
def test_who_sees_what(cast: Cast, store: XksKeyStore, who: str) -> None:
    link = link_of(cast, store)
    browser = Browser(cast, who)
    for name in ("xks-stores", "xks-traffic", "xks-requests"):
        assert browser.get(reverse(name, args=[cast.vault.pk])).status_code == SEEN[who], name
    for name in LOOKS:
        assert browser.get(at(f"xks-store{name}", store)).status_code == SEEN[who], name
    assert browser.get(at("xks-link-steps", store, link_id=link.pk)).status_code == SEEN[who]
    for verb in ("edit", "link", "delete", "connect", "disconnect", "refresh"):
        answer = browser.get(at(f"xks-link-{verb}", store, link_id=link.pk))
        assert answer.status_code == CHANGED[who], verb
    for name in ("xks-link-create", "xks-store-block", "xks-rules-edit"):
        assert browser.get(at(name, store)).status_code == CHANGED[who], name
    unblock = {**CHANGED, "colleague": 403}
    assert browser.get(at("xks-store-unblock", store)).status_code == unblock[who]


def test_the_server_refuses_whatever_is_shown(cast: Cast, store: XksKeyStore) -> None:
    for who in ("auditor", "outsider"):
        browser = Browser(cast, who)
        token = browser.hidden("/accounts/profile/")
        for name in ("xks-store-block", "xks-store-limits", "xks-store-doctor"):
            answer = browser.send(at(name, store), token, reason="no", what="rates", requests_per_s="1")
            assert answer.status_code in (403, 404), (who, name)
    store.refresh_from_db()
    assert not store.blocked


def test_a_store_of_another_vault_is_not_there(cast: Cast, store: XksKeyStore) -> None:
    url = reverse("xks-store", kwargs={"vault_id": cast.other_vault.pk, "store_id": store.pk})
    assert Browser(cast, "outsider").get(url).status_code == 404
    assert Browser(cast, "owner").get(at("xks-store", store, store_id=uuid4())).status_code == 404


def test_pages_ask_as_many_queries_for_thirty_as_for_three(cast: Cast, store: XksKeyStore) -> None:
    browser, actor = Browser(cast, "auditor"), cast.actor("owner")
    regions = [f"eu-west-{n}" for n in range(1, 31)]

    def counts() -> list[int]:
        found = []
        for url in (reverse("xks-stores", args=[cast.vault.pk]), at("xks-store", store)):
            browser.get(url)
            with CaptureQueriesContext(connection) as queries:
                assert browser.get(url).status_code == 200
            found.append(len(queries))
        return found

    for n in range(3):
        new_key_set(actor, cast.vault, None, name=f"set-{n}")
        link_of(cast, store, regions[n])
        new_key(actor, store.key_set, f"key-{n}")
    few = counts()
    for n in range(3, 20):
        new_key_set(actor, cast.vault, None, name=f"set-{n}")
        AwsStoreLink.objects.create(
            vault=store.vault, store=store, region=regions[n], name="n", endpoint="https://x.example.com"
        )
        new_key(actor, store.key_set, f"key-{n}")
    assert counts() == few


def test_the_list_shows_each_region_and_searches(cast: Cast, store: XksKeyStore) -> None:
    link_of(cast, store, state="CONNECTED", linked=True, custom_key_store_id="cks-1")
    new_key_set(cast.actor("owner"), cast.vault, None, name="other-set")
    browser = Browser(cast, "auditor")
    url = reverse("xks-stores", args=[cast.vault.pk])
    text = text_of(browser.get(url))
    assert "pay-hyok" in text
    assert "Connected eu-west-1" in text
    assert "no region yet" in text
    found = text_of(browser.get(url, target="list", search="other"))
    assert "other-set" in found
    assert "pay-hyok" not in found


def test_a_failed_connection_tells_code_cause_and_cure(cast: Cast, store: XksKeyStore) -> None:
    link_of(
        cast, store, linked=True, custom_key_store_id="cks-1", state="FAILED",
        connection_error_code="XKS_PROXY_TIMED_OUT",
    )  # fmt: skip
    text = text_of(Browser(cast, "owner").get(at("xks-store", store)))
    assert "AWS could not connect: XKS_PROXY_TIMED_OUT" in text
    assert "did not answer within AWS's 250 ms" in text
    assert "Bring endpoint and AWS region closer" in text


def test_block_says_why_and_shows_how_far_it_got(cast: Cast, store: XksKeyStore) -> None:
    owner = Browser(cast, "owner")
    url = at("xks-store-block", store)
    assert "No call was recorded in the last day" in text_of(owner.get(url))
    assert owner.send(url, reason="").status_code == 422
    answer = owner.send(url, reason="Incident 7")
    assert answer.status_code == 303
    assert "?generation=" in answer["Location"]
    store.refresh_from_db()
    assert (store.blocked, store.blocked_reason) == (True, "Incident 7")
    text = text_of(owner.get(answer["Location"]))
    assert "Every call for this store is refused." in text
    assert "Committed. No worker is running that could confirm it." in text
    assert "Incident 7" in text
    assert AuditEvent.objects.filter(action="cloudkeys:xks_store:block", via="web").exists()
    assert "It was blocked because: Incident 7." in text_of(owner.get(at("xks-store-unblock", store)))
    assert owner.send(at("xks-store-unblock", store), reason="").status_code == 303
    store.refresh_from_db()
    assert not store.blocked
    # Nonsense in the address is no reason to fail.
    assert owner.get(at("xks-store", store), generation="9" * 30).status_code == 200


def test_a_region_is_added_once_and_its_steps_shown(cast: Cast, store: XksKeyStore) -> None:
    owner = Browser(cast, "owner")
    url = at("xks-link-create", store)
    hidden = owner.hidden(url)
    fields = {
        "region": "nowhere", "linked": "no", "name": "", "endpoint": "https://xks.example.com",
        "connectivity": "PUBLIC_ENDPOINT", "vpc_endpoint_service_name": "",
    }  # fmt: skip
    refused = owner.send(url, hidden, **fields)
    assert refused.status_code == 422
    assert b'value="nowhere"' in refused.content
    fields["region"] = "eu-central-1"
    made = owner.send(url, hidden, **fields)
    link = AwsStoreLink.objects.get(store=store)
    assert made["Location"] == at("xks-link-steps", store, link_id=link.pk)
    assert owner.send(url, hidden, **fields)["Location"] == made["Location"]
    assert AwsStoreLink.objects.filter(store=store).count() == 1
    steps = text_of(owner.get(made["Location"]))
    assert "https://xks.example.com" in steps
    assert "eu-central-1" in steps
    # The id that AWS gives is brought back where the steps say so.
    assert "--custom-key-store-id <custom key store id>" in steps
    wrong = owner.send(made["Location"], custom_key_store_id="store 1")
    assert (wrong.status_code, b'value="store 1"' in wrong.content) == (422, True)
    seen = owner.hidden(made["Location"])
    assert owner.send(made["Location"], seen, custom_key_store_id="cks-1234567890abcdef0").status_code == 303
    assert "--custom-key-store-id cks-1234567890abcdef0" in text_of(owner.get(made["Location"]))
    late = owner.send(made["Location"], {**seen, "once": "another"}, custom_key_store_id="cks-2")
    assert late.status_code == 412
    auditor = Browser(cast, "auditor")
    assert b"store-id-form" not in auditor.get(made["Location"]).content
    assert auditor.send(made["Location"], seen, custom_key_store_id="cks-3").status_code == 403
    link.refresh_from_db()
    assert link.custom_key_store_id == "cks-1234567890abcdef0"


def test_verbs_begin_an_operation_that_the_page_follows(cast: Cast, store: XksKeyStore) -> None:
    link = link_of(cast, store, linked=True, custom_key_store_id="cks-1", state="DISCONNECTED")
    owner = Browser(cast, "owner")
    assert owner.send(at("xks-link-connect", store, link_id=link.pk)).status_code == 303
    operation = Operation.objects.get(kind="store_link.connect")
    part = owner.get(at("xks-store", store), target="links")
    assert b"<html" not in part.content
    assert b'hx-trigger="every 2s"' in part.content
    assert "AWS reports it connected" in text_of(part)
    Operation.objects.filter(pk=operation.pk).update(
        state="FAILED", error={"code": "x", "cause": "AWS is away.", "cure": "Wait.", "permanent": True}
    )
    ended = owner.get(at("xks-store", store), target="links")
    assert b"data-live" not in ended.content
    assert "AWS is away. Wait." in text_of(ended)


def test_a_link_is_edited_and_the_second_window_is_told(cast: Cast, store: XksKeyStore) -> None:
    link = link_of(cast, store)
    url = at("xks-link-edit", store, link_id=link.pk)
    one, two = Browser(cast, "owner"), Browser(cast, "colleague")
    seen = two.hidden(url)
    fields = {"endpoint": link.endpoint, "connectivity": "PUBLIC_ENDPOINT", "vpc_endpoint_service_name": ""}
    ok = one.send(url, name="first", custom_key_store_id="cks-9", **fields)
    assert ok.status_code == 303
    late = two.send(url, seen, name="second", custom_key_store_id="", **fields)
    assert late.status_code == 412
    assert "changed this while you had it open" in text_of(late)
    link.refresh_from_db()
    assert (link.name, link.custom_key_store_id) == ("first", "cks-9")


def test_a_region_is_forgotten_by_its_name(cast: Cast, store: XksKeyStore) -> None:
    link = link_of(cast, store)
    owner = Browser(cast, "owner")
    url = at("xks-link-delete", store, link_id=link.pk)
    assert "Nothing changes in AWS" in text_of(owner.get(url))
    assert owner.send(url, typed_name="eu").status_code == 422
    assert owner.send(url, typed_name="eu-west-1").status_code == 303
    assert not AwsStoreLink.objects.filter(pk=link.pk).exists()


def test_linking_needs_an_account_and_says_so(cast: Cast) -> None:
    store = store_of(new_key_set(cast.actor("owner"), cast.vault, None).key_set)
    link = link_of(cast, store)
    owner = Browser(cast, "owner")
    answer = owner.send(at("xks-link-link", store, link_id=link.pk), custom_key_store_id="")
    assert answer.status_code == 409
    assert "no CSP account" in text_of(answer)


def test_an_unlinked_key_is_offered_and_linked(cast: Cast, store: XksKeyStore) -> None:
    link_of(cast, store, linked=True, custom_key_store_id="cks-1", state="CONNECTED")
    actor = cast.actor("owner")
    key = new_key(actor, store.key_set)
    type(key).objects.filter(pk=key.pk).update(pointer_state="NOT_LINKED")
    owner = Browser(cast, "owner")
    assert "Keys that are not linked" in text_of(owner.get(at("xks-store", store)))
    before = Operation.objects.filter(target_id=key.pk, kind="cloud_key.link").count()
    answer = owner.send(
        at("xks-key-link", store, key_id=key.pk), kms_key_id="12ab34cd-0000-4000-8000-000000000001"
    )
    assert answer.status_code in (303, 409, 422)
    if answer.status_code == 303:
        assert Operation.objects.filter(target_id=key.pk).count() > before


def test_limits_and_bounds_are_two_forms(cast: Cast, store: XksKeyStore) -> None:
    owner = Browser(cast, "owner")
    url = at("xks-store-limits", store)
    hidden = {k: v for k, v in owner.hidden(url).items() if k != "revision"}
    saved = owner.send(url, {**hidden, "what": "rates"}, requests_per_s="1800", credential_requests_per_s="")
    assert saved.status_code == 303
    assert 'value="1800"' in owner.get(url).content.decode()
    hidden = {**owner.hidden(url), "what": "bounds"}
    wrong = owner.send(url, hidden, max_staleness_s="86400", allowed_regions="eu-west-1")
    assert wrong.status_code == 422
    assert "workers are counted for no longer" in text_of(wrong)
    assert (
        owner.send(url, hidden, max_staleness_s="30", allowed_regions="eu-west-1, eu-central-1").status_code
        == 303
    )
    store.refresh_from_db()
    assert (store.max_staleness_s, store.allowed_regions) == (30, ["eu-central-1", "eu-west-1"])


def test_the_doctors_report_and_its_age(cast: Cast, store: XksKeyStore) -> None:
    from django.utils import timezone

    from xks.models import DoctorReport

    owner = Browser(cast, "owner")
    assert "Not examined yet" in text_of(owner.get(at("xks-store-doctor", store)))
    finding = {
        "id": "expiry",
        "severity": "error",
        "what": "It has ended.",
        "why": "AWS minds.",
        "do": "Renew it.",
    }
    DoctorReport.objects.create(
        vault=store.vault, store=store, endpoint="https://xks.example.com", region="eu-west-1", severity="error",
        findings=[{**finding, "id": "dns", "severity": "ok", "what": "Found."}, finding],
        examined_at=timezone.now(), examined_by="Ada",
    )  # fmt: skip
    text = text_of(owner.get(at("xks-store-doctor", store)))
    assert "To be mended" in text
    assert "It has ended. AWS minds. What to do: Renew it." in text
    assert "by Ada" in text
    assert "Found errors" in text_of(owner.get(reverse("xks-stores", args=[cast.vault.pk])))


def test_the_doctor_examines_in_the_background_and_the_page_follows(
    cast: Cast, store: XksKeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer to the click waits for nothing; a worker does it with the rights of who asked."""
    from cloudkeys.operations.errors import OperationError
    from xks.models import DoctorReport
    from xks.services import doctor

    def nowhere(host: str, *, simulated: bool) -> Any:
        raise OperationError("dns", "The name is not known.", "Make it known.", permanent=True)

    monkeypatch.setattr("xks.services.doctor.preflight.find_place", nowhere)
    owner, url = Browser(cast, "owner"), at("xks-store-doctor", store)
    assert Browser(cast, "auditor").client.post(url, {}).status_code in (403, 404)
    hidden = owner.hidden(url)
    assert owner.send(url, hidden).status_code == 303
    assert owner.send(url, hidden).status_code == 303  # a double click
    assert Errand.objects.filter(kind="xks_store.examine").count() == 1
    assert not DoctorReport.objects.exists()
    part = owner.get(url, target="report")
    assert b"hx-get" in part.content
    assert "<html" not in part.content.decode()
    assert "The examination begins as soon as a worker takes it" in text_of(part)
    Errand.objects.update(asked_at=timezone.now() - timedelta(seconds=30))
    assert "No worker has taken it yet." in text_of(owner.get(url))
    Errand.objects.update(asked_at=timezone.now())
    assert doctor.examine_asked_stores() == 1
    part = owner.get(url, target="report")
    assert b"hx-get" not in part.content
    assert "To be mended" in text_of(part)
    assert "The name is not known." in text_of(part)
    assert DoctorReport.objects.get().examined_by == cast.actor("owner").display_name

    # Whoever may no more by then is refused, and that is told.
    assert owner.send(url).status_code == 303
    Membership.objects.filter(user=cast.users["owner"], vault=cast.vault).delete()
    assert doctor.examine_asked_stores() == 1
    assert Errand.objects.get().state == "FAILED"
    assert "The store could not be examined" in text_of(Browser(cast, "colleague").get(url))
