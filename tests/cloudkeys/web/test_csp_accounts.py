"""The pages of CSP accounts, tried by each of the cast."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from cloudkeys import providers
from cloudkeys.models import CspAccount, KeySet, Operation
from cloudkeys.providers.base import AccountReport, ActionCheck, ErrorCode, Identity, ProviderError
from cloudkeys.services import trial
from tests.cast import WHO, Cast
from tests.cloudkeys.world import ACCESS_KEY_ID, ACCOUNT, ADA, SECRET, new_account, new_key_set
from tests.web import Browser, text_of
from vault.keys import unseal
from vault.models import AuditEvent

REPORT = AccountReport(
    Identity(ACCOUNT, ADA),
    (
        ActionCheck("kms:CreateKey", "Creating and finding KMS keys", "allowed", "by policy simulation"),
        ActionCheck("iam:ListRoles", "Picking administrators and users of keys", "denied", "tried"),
    ),
)
FIELDS = {
    "name": "aws-prod",
    "description": "Production",
    "partition": "aws",
    "auth_method": "ACCESS_KEY",
    "access_key_id": ACCESS_KEY_ID,
    "secret_access_key": SECRET,
    "default_region": "eu-west-1",
    "rotation": "none",
    "group": "",
}


@pytest.fixture(autouse=True)
def answers(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """AWS says that one permission is missing; the simulator is off."""
    settings.KEYSTEAD_SIMULATOR = False
    monkeypatch.setattr(providers, "probe_account", lambda account: REPORT)


def at(cast: Cast, name: str = "csp-accounts", **more: Any) -> str:
    return reverse(name, kwargs={"vault_id": cast.vault.pk, **more})


@pytest.mark.parametrize("who", WHO)
def test_who_may_look(cast: Cast, who: str) -> None:
    account = new_account(cast.actor("owner"), cast.vault)
    client = Browser(cast, who)
    expected = {"outsider": 404, "appliance": 404, "anonymous": 302}.get(who, 200)
    assert client.get(at(cast)).status_code == expected
    assert client.get(at(cast, "csp-account", account_id=account.pk)).status_code == expected
    for tab in ("credential", "policy", "used-by"):
        url = at(cast, "csp-account-tab", account_id=account.pk, tab=tab)
        assert client.get(url).status_code == expected, tab


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("verb", ["new", "edit", "rotate", "delete"])
def test_who_may_change(cast: Cast, who: str, verb: str) -> None:
    account = new_account(cast.actor("owner"), cast.vault)
    more = {} if verb == "new" else {"account_id": account.pk}
    expected = {"auditor": 403, "outsider": 404, "appliance": 404, "anonymous": 302}.get(who, 200)
    assert Browser(cast, who).get(at(cast, f"csp-account-{verb}", **more)).status_code == expected


def test_the_server_refuses_whatever_is_shown(cast: Cast) -> None:
    account = new_account(cast.actor("owner"), cast.vault, group=cast.group.pk)
    auditor = Browser(cast, "auditor")
    token = auditor.hidden("/accounts/profile/")
    for verb in ("test", "rotate", "edit", "delete"):
        url = at(cast, f"csp-account-{verb}", account_id=account.pk)
        assert auditor.send(url, token, **FIELDS).status_code == 403, verb
    assert auditor.send(at(cast, "csp-account-new"), token, **FIELDS).status_code == 403
    tab = at(cast, "csp-account-tab", account_id=account.pk, tab="credential")
    assert auditor.send(tab, token, rotation="every", every="5").status_code == 403
    assert auditor.send(at(cast, "csp-account-try"), token).status_code == 403
    cast.memberships["colleague"].groups.clear()
    colleague = Browser(cast, "colleague")
    refused = colleague.send(
        at(cast, "csp-account-delete", account_id=account.pk),
        colleague.hidden("/accounts/profile/"),
        typed_name="prod",
    )
    assert refused.status_code == 403
    assert "admin group" in text_of(refused)
    assert CspAccount.objects.get().revision == account.revision


def test_an_account_of_another_vault_is_not_here(cast: Cast) -> None:
    foreign = new_account(cast.actor("outsider"), cast.other_vault)
    owner = Browser(cast, "owner")
    for url in (
        at(cast, "csp-account", account_id=foreign.pk),
        at(cast, "csp-account-edit", account_id=foreign.pk),
        at(cast, "csp-account", account_id=uuid4()),
    ):
        assert owner.get(url).status_code == 404


def test_an_empty_list_says_what_to_do(cast: Cast, settings: Any) -> None:
    settings.KEYSTEAD_SIMULATOR = True
    words = text_of(Browser(cast, "owner").get(at(cast)))
    assert "Add the first CSP account" in words
    assert "Try it with the simulator" in words
    assert "Try it with the simulator" not in text_of(Browser(cast, "auditor").get(at(cast)))
    settings.KEYSTEAD_SIMULATOR = False
    assert "Try it with the simulator" not in text_of(Browser(cast, "owner").get(at(cast)))


def test_an_account_is_added_once_and_its_secret_is_in_no_page(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    url = at(cast, "csp-account-new")
    hidden = owner.hidden(url)
    answer = owner.send(url, hidden, **FIELDS)
    made = CspAccount.objects.get()
    assert (answer.status_code, answer["Location"]) == (303, at(cast, "csp-account", account_id=made.pk))
    assert owner.send(url, hidden, **FIELDS)["Location"] == answer["Location"]
    assert CspAccount.objects.count() == 1
    assert unseal(made, "secret_access_key").reveal_text() == SECRET
    assert (made.auth_method, made.role_arn, made.external_id) == ("ACCESS_KEY", "", "")
    page = owner.get(answer["Location"]).content.decode()
    assert SECRET not in page
    # It was never tested: the page asks by itself.
    assert f'hx-post="{at(cast, "csp-account-test", account_id=made.pk)}" hx-trigger="load"' in page
    assert 'hx-trigger="load"' not in Browser(cast, "auditor").get(answer["Location"]).content.decode()


def test_what_was_typed_stays_but_not_the_secret(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    url = at(cast, "csp-account-new")
    refused = owner.send(url, **{**FIELDS, "access_key_id": "nonsense", "every": "0", "rotation": "every"})
    assert refused.status_code == 422
    words = text_of(refused)
    page = refused.content.decode()
    assert 'value="aws-prod"' in page
    assert SECRET not in page
    assert "greater than or equal to 1" in words
    refused = owner.send(url, **{**FIELDS, "access_key_id": "nonsense"})
    assert "An AWS access key id has 16 to 128 capital letters" in text_of(refused)
    assert 'id="id_access_key_id-error"' in refused.content.decode()
    assert not CspAccount.objects.exists()


def test_a_role_with_its_external_id(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    role = f"arn:aws:iam::{ACCOUNT}:role/keystead"
    asked = {**FIELDS, "auth_method": "ASSUME_ROLE", "role_arn": role, "external_id": "abc-123"}
    assert owner.send(at(cast, "csp-account-new"), **asked).status_code == 303
    made = CspAccount.objects.get()
    assert (made.auth_method, made.role_arn, made.external_id) == ("ASSUME_ROLE", role, "abc-123")
    words = text_of(owner.get(at(cast, "csp-account-tab", account_id=made.pk, tab="policy")))
    assert '"sts:ExternalId": "abc-123"' in words
    assert '"sts:AssumeRole"' in words


def test_the_test_tells_what_is_missing_and_for_what(cast: Cast) -> None:
    account = new_account(cast.actor("owner"), cast.vault)
    owner = Browser(cast, "owner")
    url = at(cast, "csp-account-test", account_id=account.pk)
    page = at(cast, "csp-account", account_id=account.pk)
    answer = owner.client.post(
        url, owner.hidden(page), headers={"HX-Request": "true", "HX-Target": "connection"}
    )
    words = text_of(answer)
    assert b"<html" not in answer.content
    assert "1 of 2 permissions are missing" in words
    assert "Picking administrators and users of keys" in words
    assert ADA in words
    account.refresh_from_db()
    assert account.health == "DEGRADED"
    assert "Lacks permissions" in text_of(owner.get(at(cast)))
    # Without scripts it is a form like any other.
    assert owner.send(url, owner.hidden(page))["Location"] == page


def test_a_credential_that_does_not_work_has_cause_and_cure(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(account: CspAccount) -> AccountReport:
        raise ProviderError(
            ErrorCode.INVALID_CREDENTIAL,
            "AWS does not know this access key.",
            "Make a new one.",
            permanent=True,
        )

    monkeypatch.setattr(providers, "probe_account", refuse)
    account = new_account(cast.actor("owner"), cast.vault)
    owner = Browser(cast, "owner")
    page = at(cast, "csp-account", account_id=account.pk)
    owner.send(at(cast, "csp-account-test", account_id=account.pk), owner.hidden(page))
    words = text_of(owner.get(page))
    assert "AWS does not know this access key." in words
    assert "Make a new one." in words
    assert "Does not work" in words


def test_rotate_now_on_schedule_and_history(cast: Cast) -> None:
    account = new_account(cast.actor("owner"), cast.vault)
    owner = Browser(cast, "owner")
    tab = at(cast, "csp-account-tab", account_id=account.pk, tab="credential")
    assert "never rotated by Keystead" in text_of(owner.get(tab))
    form = {"every": "30", "unit": "days", "hour": "4", "time_zone": "Europe/Berlin", "rotation": "every"}
    assert owner.send(tab, **form).status_code == 303
    account.refresh_from_db()
    assert account.rotation_schedule["every"] == 30
    assert account.next_rotation_at is not None
    wrong = owner.send(tab, **{**form, "time_zone": "Mars/Olympus"})
    assert wrong.status_code == 422
    assert "no time zone of the IANA database" in text_of(wrong)
    rotate = at(cast, "csp-account-rotate", account_id=account.pk)
    assert "never" not in text_of(owner.get(rotate, target="dialog")).split("Rotate access key")[0][:40]
    assert owner.send(rotate)["Location"] == tab
    operation = Operation.objects.get(target_id=account.pk)
    shown = owner.get(tab)
    part = at(cast, "csp-account-progress", account_id=account.pk, operation_id=operation.pk)
    assert f'hx-get="{part}"' in shown.content.decode()
    assert "A rotation is under way" in text_of(shown)
    assert 'hx-trigger="every 2s"' in owner.get(part, target="x").content.decode()
    Operation.objects.filter(pk=operation.pk).update(state="SUCCEEDED")
    assert 'hx-trigger="every 2s"' not in owner.get(part, target="x").content.decode()
    assert "Access key replaced" in text_of(owner.get(tab))


def test_the_second_of_two_windows_is_told(cast: Cast) -> None:
    account = new_account(cast.actor("owner"), cast.vault)
    one, two = Browser(cast, "owner"), Browser(cast, "colleague")
    url = at(cast, "csp-account-edit", account_id=account.pk)
    typed = {k: v for k, v in FIELDS.items() if k not in ("partition", "secret_access_key")}
    seen = two.hidden(url)
    monthly = {"rotation": "every", "every": "1", "unit": "months", "hour": "3", "time_zone": "UTC"}
    assert one.send(url, **{**typed, "name": "first", **monthly}).status_code == 303
    refused = two.send(url, seen, **{**typed, "name": "second"})
    assert refused.status_code == 412
    words = text_of(refused)
    assert "owner@example.com changed this" in words
    assert "Every month, at 03:00 (UTC)" in words
    assert "Never by itself" in words
    account.refresh_from_db()
    assert (account.name, unseal(account, "secret_access_key").reveal_text()) == ("first", SECRET)


def test_a_used_account_is_not_deleted(cast: Cast) -> None:
    account = new_account(cast.actor("owner"), cast.vault)
    key_set = new_key_set(cast.actor("owner"), cast.vault, account).key_set
    owner = Browser(cast, "owner")
    url = at(cast, "csp-account-delete", account_id=account.pk)
    asked = owner.get(url)
    assert "1 key set works under it" in text_of(asked)
    assert b"data-typed" not in asked.content
    hidden = owner.hidden(at(cast, "csp-account-rotate", account_id=account.pk))
    refused = owner.send(url, {**hidden, "revision": str(account.revision)}, typed_name="prod")
    assert refused.status_code == 409
    used = text_of(owner.get(at(cast, "csp-account-tab", account_id=account.pk, tab="used-by")))
    assert key_set.name in used
    KeySet.objects.filter(pk=key_set.pk).update(csp_account=None)
    assert owner.send(url, typed_name="Prod").status_code == 422
    assert owner.send(url, typed_name="prod")["Location"] == at(cast)
    assert not CspAccount.objects.exists()
    assert AuditEvent.objects.filter(action="cloudkeys:csp_account:delete").count() == 1


def test_one_button_makes_the_account_on_the_simulator(
    cast: Cast, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.KEYSTEAD_SIMULATOR = True
    monkeypatch.setattr(trial, "_new_access_key", lambda user: (ACCESS_KEY_ID, _secret(), "eu-west-1"))
    owner = Browser(cast, "owner")
    url = at(cast, "csp-account-try")
    hidden = owner.hidden(at(cast))
    assert owner.get(url).status_code == 303
    assert not CspAccount.objects.exists()
    answer = owner.send(url, hidden)
    made = CspAccount.objects.get()
    assert answer["Location"] == at(cast, "csp-account", account_id=made.pk)
    assert owner.send(url, hidden)["Location"] == answer["Location"]
    assert CspAccount.objects.count() == 1
    for page in (at(cast), answer["Location"], at(cast, "csp-account-edit", account_id=made.pk)):
        assert "Simulated" in text_of(owner.get(page)), page
    draft = uuid4()
    back = owner.send(url, {**hidden, "draft": str(draft)})["Location"]
    assert back == at(cast, "key-set-step", draft_id=draft, step="account") + f"?account={made.pk}"


def _secret() -> Any:
    from vault.secret import Secret

    return Secret(SECRET)


def test_the_list_asks_the_database_as_often_however_long_it_is(cast: Cast) -> None:
    owner = Browser(cast, "owner")
    counts = []
    for number in range(33):
        account = new_account(
            cast.actor("owner"), cast.vault, name=f"account {number:02}", group=cast.group.pk
        )
        if number in (2, 32):
            new_key_set(cast.actor("owner"), cast.vault, account, name=f"set {number}")
            owner.get(at(cast))
            with CaptureQueriesContext(
                connection,
            ) as queries:
                assert f"{number + 1} of {number + 1}" in text_of(owner.get(at(cast)))
            counts.append(len(queries))
    assert counts[0] == counts[1]
    assert counts[0] < 14
