"""The pages of access rules: written in rows or JSON, tried, watched, enforced."""

from __future__ import annotations

import json

import pytest
from django.http import HttpResponse

from cloudkeys.models import XksKeyStore
from tests.cast import WHO, Cast
from tests.cloudkeys.world import new_key
from tests.web import Browser, text_of
from tests.xks.web.test_stores import CHANGED, SEEN, at, store
from xks.models import AccessRuleSet
from xks.services import access_rules
from xks.web.rule_editor import act, diff_rows, json_of, read_rows, rows_of, words_of

__all__ = ["store"]

RULES = [
    {
        "name": "AWS itself",
        "effect": "ALLOW",
        "conditions": [{"field": "service", "negated": False, "values": ["AWS Internal", "*.amazonaws.com"]}],
    },
    {
        "name": "team",
        "effect": "DENY",
        "conditions": [{"field": "key_tag", "negated": True, "tag": "team", "values": ["pay"]}],
    },
]
ROWS = {
    "view": "form", "reason": "Ticket 1",
    "r-0-name": "app", "r-0-effect": "ALLOW", "r-0-c-0-field": "role", "r-0-c-0-negated": "0",
    "r-0-c-0-values": "arn:aws:iam::111122223333:role/app-prod\n\n",
}  # fmt: skip


def edit(browser: Browser, store: XksKeyStore, do: str, **fields: str) -> HttpResponse:
    url = at("xks-rules-edit", store)
    return browser.send(url, **{**browser.hidden(url), **fields, "do": do})


def test_rows_and_json_are_the_same_rules() -> None:
    rows = rows_of(RULES)
    assert json_of(rows) == RULES
    act(rows, "add")
    act(rows, "add:2")
    assert len(rows[2].conditions) == 2
    act(rows, "up:2")
    assert rows[1].name == ""
    act(rows, "remove:1:0")
    act(rows, "remove:1")
    for nonsense in ("remove:9", "remove:0:9", "up:0", "up", "add:x", "", ":", "remove:٣"):
        act(rows, nonsense)
    assert json_of(rows) == RULES
    assert read_rows({"r-999-name": "x", "r-1-c-0-nonsense": "y"}) == []
    assert words_of(RULES[1]) == "Deny when the key's tag team is not pay"
    assert diff_rows(RULES, RULES[:1]) == [("team", words_of(RULES[1]), "")]


@pytest.mark.parametrize("who", WHO)
def test_who_may_open_them(cast: Cast, store: XksKeyStore, who: str) -> None:
    key = new_key(cast.actor("owner"), store.key_set)
    made = access_rules.create_rule_set(cast.actor("owner"), store_id=store.pk, rules=RULES)
    access_rules.add_version(cast.actor("owner"), made.pk, rules=RULES[:1])
    browser = Browser(cast, who)
    looks = [
        at("xks-store-rules", store),
        at("xks-store-rules", store, key_id=key.pk),
        at("xks-rules-dry-run", store) + "?version=1",
        at("xks-rules-diff", store) + "?from=1&to=2",
    ]
    for url in looks:
        assert browser.get(url).status_code == SEEN[who], url
    for name in ("xks-rules-edit", "xks-rules-enforce", "xks-rules-shadow"):
        assert browser.get(at(name, store) + "?version=1").status_code == CHANGED[who], name
    assert browser.get(at("xks-rules-edit", store, key_id=key.pk)).status_code == CHANGED[who]


def test_a_version_is_written_in_rows_and_enforces_nothing(cast: Cast, store: XksKeyStore) -> None:
    owner = Browser(cast, "owner")
    assert "AWS IAM is trusted." in text_of(owner.get(at("xks-store-rules", store)))
    added = edit(owner, store, "add:0", **ROWS)
    assert b'name="r-0-c-1-field"' in added.content
    assert not AccessRuleSet.objects.exists()
    wrong = edit(owner, store, "save", **{**ROWS, "r-0-c-0-values": "nonsense"})
    assert wrong.status_code == 422
    assert b'aria-invalid="true"' in wrong.content
    assert "Rule 1, condition 1:" in text_of(wrong)
    assert b">nonsense</textarea>" in wrong.content
    saved = edit(owner, store, "save", **ROWS)
    assert saved["Location"] == at("xks-rules-dry-run", store) + "?version=1"
    found = AccessRuleSet.objects.get()
    version = found.versions.get()
    assert (found.enforced, version.reason, version.author_name) == (None, "Ticket 1", "owner@example.com")
    assert version.rules[0]["conditions"][0]["values"] == ["arn:aws:iam::111122223333:role/app-prod"]
    assert "no recorded request to judge by" in text_of(owner.get(saved["Location"]))


def test_json_and_rows_change_into_each_other(cast: Cast, store: XksKeyStore) -> None:
    owner = Browser(cast, "owner")
    as_json = edit(owner, store, "json", **ROWS)
    assert b'name="json"' in as_json.content
    broken = edit(owner, store, "form", view="json", json="[{", reason="kept")
    assert broken.status_code == 422
    assert "This is no JSON" in text_of(broken)
    back = edit(owner, store, "form", view="json", json=json.dumps(RULES), reason="")
    assert b'value="AWS itself"' in back.content
    assert edit(owner, store, "save", view="json", json=json.dumps(RULES), reason="").status_code == 303
    assert AccessRuleSet.objects.get().versions.get().rules == RULES


def test_the_linter_warns_while_one_types(cast: Cast, store: XksKeyStore) -> None:
    owner = Browser(cast, "owner")
    token = owner.hidden(at("xks-rules-edit", store))
    answer = owner.send(at("xks-rules-check", store), {**token, **ROWS})
    assert b"<html" not in answer.content
    assert "AWS Internal" in text_of(answer)
    answer = owner.send(at("xks-rules-check", store), {**token, "view": "json", "json": "{"})
    assert "This is no JSON" in text_of(answer)
    assert not AccessRuleSet.objects.exists()


def test_history_tells_what_changed_and_the_second_window(cast: Cast, store: XksKeyStore) -> None:
    actor = cast.actor("owner")
    made = access_rules.create_rule_set(actor, store_id=store.pk, rules=RULES)
    owner = Browser(cast, "owner")
    url = at("xks-rules-edit", store)
    seen = owner.hidden(url)
    access_rules.add_version(actor, made.pk, rules=RULES[:1], reason="less")
    late = owner.send(url, {**seen, **ROWS, "do": "save"})
    assert late.status_code == 412
    assert "changed this while you had it open" in text_of(late)
    diff = text_of(owner.get(at("xks-rules-diff", store), **{"from": 1, "to": 2}))
    assert "team" in diff
    assert "the key's tag team is not pay" in diff
    assert owner.get(at("xks-rules-diff", store), **{"from": 1, "to": 9}).status_code == 404


def test_shadow_then_enforce_then_trust_iam(cast: Cast, store: XksKeyStore) -> None:
    made = access_rules.create_rule_set(cast.actor("owner"), store_id=store.pk, rules=RULES)
    owner = Browser(cast, "colleague")
    assert owner.send(at("xks-rules-shadow", store) + "?version=1", reason="").status_code == 303
    made.refresh_from_db()
    assert made.shadowed is not None
    assert "In the shadow: version 1" in text_of(owner.get(at("xks-store-rules", store)))
    url = at("xks-rules-enforce", store) + "?version=1"
    assert owner.send(url, reason="").status_code == 422
    assert owner.send(url, reason="Ticket 2").status_code == 303
    made.refresh_from_db()
    assert made.enforced is not None
    assert "Enforced: version 1" in text_of(owner.get(at("xks-store-rules", store)))
    assert owner.send(at("xks-rules-enforce", store), reason="Ticket 3").status_code == 303
    made.refresh_from_db()
    assert made.enforced is None


def test_rules_that_lock_everybody_out_are_asked_about(cast: Cast, store: XksKeyStore) -> None:
    everybody = [{"name": "none", "effect": "DENY", "conditions": []}]
    made = access_rules.create_rule_set(cast.actor("owner"), store_id=store.pk, rules=everybody)
    owner = Browser(cast, "owner")
    url = at("xks-rules-enforce", store) + "?version=1"
    refused = owner.send(url, reason="sure")
    assert refused.status_code == 409
    assert "would refuse everybody" in text_of(refused)
    assert owner.send(url, reason="sure", even_if_it_locks_out="on").status_code == 303
    made.refresh_from_db()
    assert made.enforced is not None


def test_rules_of_one_key(cast: Cast, store: XksKeyStore) -> None:
    key = new_key(cast.actor("owner"), store.key_set)
    owner = Browser(cast, "owner")
    found = owner.get(at("xks-store-rules", store), key=str(key.pk))
    assert found["Location"] == at("xks-store-rules", store, key_id=key.pk)
    url = at("xks-rules-edit", store, key_id=key.pk)
    assert owner.send(url, {**owner.hidden(url), **ROWS, "do": "save"}).status_code == 303
    assert AccessRuleSet.objects.get().cloud_key_id == key.pk
    assert "payments-prod" in text_of(owner.get(at("xks-store-rules", store)))
    for nonsense in ("x", "0" * 32):
        assert owner.get(at("xks-store-rules", store), key=nonsense).status_code == 404
