"""What is wrong with a request is named, and changes nothing."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from cloudkeys import providers
from cloudkeys.models import AwsStoreLink, CspAccount
from cloudkeys.providers.base import ErrorCode, ProviderError
from cloudkeys.services import stores
from tests.cast import Cast
from tests.cloudkeys.api.world import CREATIONS, rows
from tests.cloudkeys.matrix import owned_account, owned_key, owned_key_set, owned_link
from tests.cloudkeys.world import SECRET, new_account, new_key, new_key_set, store_of
from vault.models import Group

WRONG: list[tuple[str, dict[str, Any], str]] = [
    # creation, what is changed in its good body, the field that the problem names
    ("csp-accounts", {"name": 5}, "name"),
    ("csp-accounts", {"name": ""}, "name"),
    ("csp-accounts", {"name": "two\nlines"}, "name"),
    ("csp-accounts", {"nickname": "x"}, "nickname"),
    ("csp-accounts", {"endpoint_url": "http://169.254.169.254"}, "endpoint_url"),
    ("csp-accounts", {"secret_access_key": 5}, "secret_access_key"),
    ("csp-accounts", {"secret_access_key": ""}, "secret_access_key"),
    ("csp-accounts", {"secret_access_key": "short"}, "secret_access_key"),
    ("csp-accounts", {"secret_access_key": "x" * 513}, "secret_access_key"),
    ("csp-accounts", {"provider": "azure"}, "provider"),
    ("csp-accounts", {"partition": "aws-iso"}, "partition"),
    ("csp-accounts", {"default_region": "moon-1"}, "default_region"),
    ("csp-accounts", {"rotation_schedule": "daily"}, "rotation_schedule"),
    (
        "csp-accounts",
        {"rotation_schedule": {"kind": "every", "every": 0, "unit": "days"}},
        "rotation_schedule.every",
    ),
    ("csp-accounts", {"group": "not-an-id"}, "group"),
    ("csp-accounts", {"group": str(uuid4())}, "group"),
    ("csp-accounts", {"vault": str(uuid4())}, "vault"),
    ("key-sets", {"use_as_external_key_store": "yes"}, "use_as_external_key_store"),
    ("key-sets", {"protection": "hsm-wrapped"}, "protection"),
    ("key-sets", {"csp_account": str(uuid4())}, "csp_account"),
    ("key-sets", {"path_prefix": "payments"}, "path_prefix"),
    ("key-sets", {"path_prefix": "/a/kms/xks/v1"}, "path_prefix"),
    ("key-sets", {"expiration": {"kind": "after"}}, "expiration.days"),
    ("key-sets", {"links": {}}, "links"),
    ("key-sets", {"links": [{"linked": True}]}, "links[0].region"),
    ("key-sets", {"links": [{"region": "eu-west-1", "port": 8443}]}, "links[0].port"),
    ("key-sets", {"links": [{"region": "eu-west-1", "endpoint": "https://x:8443"}]}, "links[0].endpoint"),
    ("key-sets", {"links": [{"region": "eu-west-1"}, {"region": "eu-west-1"}]}, "links[1].region"),
    ("key-sets", {"use_as_external_key_store": False, "links": [{"region": "eu-west-1"}]}, "links"),
    ("aws-store-links", {"store": str(uuid4())}, ""),
    ("aws-store-links", {"region": "moon-1"}, "region"),
    ("aws-store-links", {"connectivity": "VPC_ENDPOINT_SERVICE"}, "vpc_endpoint_service_name"),
    ("aws-store-links", {"vpc_endpoint_service_name": "x"}, "vpc_endpoint_service_name"),
    ("aws-store-links", {"linked": 1}, "linked"),
    ("cloud-keys", {"key_set": str(uuid4())}, ""),
    ("cloud-keys", {"name": "aws/mine"}, "name"),
    ("cloud-keys", {"name": "no spaces"}, "name"),
    ("cloud-keys", {"region": "cn-north-1"}, "region"),
    ("cloud-keys", {"permitted_uses": ["SIGN"]}, "permitted_uses[0]"),
    ("cloud-keys", {"permitted_uses": "ENCRYPT"}, "permitted_uses"),
    ("cloud-keys", {"administrators": ["ada"]}, "administrators[0]"),
    ("cloud-keys", {"administrators": [7]}, "administrators[0]"),
    ("cloud-keys", {"tags": []}, "tags"),
    ("cloud-keys", {"tags": {"a": 5}}, "tags.a"),
    ("cloud-keys", {"tags": {"aws:x": "y"}}, "tags.aws:x"),
    ("cloud-keys", {"external_key_id": "a b"}, "external_key_id"),
    ("cloud-keys", {"material": "AAAA"}, "material"),
    ("cloud-keys", {"state": "DESTROYED"}, "state"),
    ("cloud-keys", {"expiration": {"kind": "on", "at": "yesterday"}}, "expiration.at"),
]


@pytest.mark.parametrize(("name", "changes", "field"), WRONG, ids=[f"{n} {list(c)} {f}" for n, c, f in WRONG])
def test_wrong_bodies(name: str, changes: dict[str, Any], field: str, cast: Cast) -> None:
    creation = CREATIONS[name]
    path, body, api = creation.path(cast), {**creation.body(cast), **changes}, cast.api("owner")
    before = rows()
    answer = api.post(path, body, key="k")
    problem = answer.json()
    if field in ("", "vault"):
        assert (answer.status_code, problem["code"]) == (404, "not_found")
    else:
        assert (answer.status_code, problem["code"]) == (400, "validation_failed"), problem
        named = {error["field"] for error in problem["errors"]}
        assert field in named
        assert all(error["message"] and error["cure"] for error in problem["errors"])
    assert problem.get("field", "") in (field, "vault")
    assert SECRET not in answer.content.decode()
    assert rows() == before


@pytest.mark.parametrize("name", [name for name in CREATIONS if name != "credentials"])  # takes no body
def test_bodies_that_are_no_object(name: str, cast: Cast) -> None:
    path, api = CREATIONS[name].path(cast), cast.api("owner")
    before = rows()
    for body in (b"[]", b"5", b'"x"', b"null", b"{", b'{"name": NaN}', b'{"name": "a", "name": "b"}'):
        answer = api.request("POST", path, body)
        assert answer.status_code == 400, (body, answer.content)
        assert answer.json()["code"] in ("malformed_body", "validation_failed")
    assert rows() == before


def test_ids_of_another_vault_are_not_there(cast: Cast) -> None:
    owner, outsider = cast.actor("owner"), cast.actor("outsider")
    account = new_account(outsider, cast.other_vault)
    theirs = new_key_set(outsider, cast.other_vault, account).key_set
    their_key = new_key(outsider, theirs)
    their_group = Group.objects.create(vault=cast.other_vault, name="Theirs")
    mine = owned_key(cast)
    my_account, my_set = owned_account(cast), mine.key_set
    link = stores.create_store_link(
        owner, store_of(my_set).pk, stores.LinkRequest(region="eu-central-1", linked=False)
    ).link
    api, before = cast.api("owner"), rows()
    key_body = {"name": "x", "region": "eu-west-1"}
    new_account_body = CREATIONS["csp-accounts"].body(cast)
    requests: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("POST", "csp-accounts", {**new_account_body, "group": their_group.pk}, 400, "group"),
        ("POST", "csp-accounts", {**new_account_body, "vault": cast.other_vault.pk}, 404, "vault"),
        ("PATCH", f"csp-accounts/{my_account.pk}", {"group": their_group.pk}, 400, "group"),
        ("POST", "key-sets", {"name": "x", "csp_account": account.pk}, 400, "csp_account"),
        ("POST", "key-sets", {"name": "x", "group": their_group.pk}, 400, "group"),
        ("POST", "key-sets", {"name": "x", "vault": cast.other_vault.pk}, 404, "vault"),
        ("PATCH", f"key-sets/{my_set.pk}", {"group": their_group.pk}, 400, "group"),
        ("POST", "aws-store-links", {"store": store_of(theirs).pk, "region": "eu-west-1"}, 404, ""),
        ("POST", "cloud-keys", {**key_body, "key_set": theirs.pk}, 404, ""),
        ("POST", "cloud-keys/csv", {"key_set": theirs.pk, "csv": "name,region\na,eu-west-1\n"}, 404, ""),
        ("POST", "cloud-keys/bulk", {"action": "disable", "ids": [mine.pk, their_key.pk]}, 400, "ids[1]"),
        (
            "POST",
            "cloud-keys/bulk",
            {"action": "disable", "ids": [mine.pk], "vault": cast.other_vault.pk},
            404,
            "vault",
        ),
        ("PATCH", f"cloud-keys/{their_key.pk}", {"description": "x"}, 404, ""),
        ("DELETE", f"aws-store-links/{uuid4()}", {}, 404, ""),
    ]
    for method, path, body, status, field in requests:
        sent = {name: str(value) if name in ("vault", "group", "csp_account", "key_set", "store") else value
                for name, value in body.items()}  # fmt: skip
        if "ids" in sent:
            sent["ids"] = [str(each) for each in sent["ids"]]
        answer = api.request(method, f"/api/v1/{path}", sent, if_match="*" if method != "POST" else None)
        problem = answer.json()
        assert answer.status_code == status, (path, problem)
        assert problem.get("field", "") == field, (path, problem)
    for name in ("key_set", "csp_account", "store"):
        # In a filter a foreign id is an id that nothing has.
        foreign = {"key_set": theirs.pk, "csp_account": account.pk, "store": store_of(theirs).pk}[name]
        assert api.get("/api/v1/cloud-keys", **{name: str(foreign)}).json()["items"] == []
    assert rows() == before
    assert link.pk


UPDATES = {
    "csp-accounts": lambda cast: f"csp-accounts/{owned_account(cast).pk}",
    "key-sets": lambda cast: f"key-sets/{owned_key_set(cast).pk}",
    "xks-key-stores": lambda cast: f"xks-key-stores/{store_of(owned_key_set(cast)).pk}",
    "aws-store-links": lambda cast: f"aws-store-links/{owned_link(cast, linked=False).pk}",
    "cloud-keys": lambda cast: f"cloud-keys/{owned_key(cast).pk}",
}


@pytest.mark.parametrize("name", UPDATES)
def test_nobody_overwrites_what_they_have_not_seen(name: str, cast: Cast) -> None:
    path = "/api/v1/" + UPDATES[name](cast)
    body = {"max_staleness_s": 30} if name == "xks-key-stores" else {"name": "renamed"}
    api, before = cast.api("owner"), rows()
    etag = api.get(path).headers["ETag"]
    methods = ["PATCH"] if name in ("xks-key-stores", "cloud-keys") else ["PATCH", "DELETE"]
    for method in methods:
        sent = body if method == "PATCH" else None
        assert api.request(method, path, sent).status_code == 428
        stale = api.request(method, path, sent, if_match='"99"')
        assert (stale.status_code, stale.json()["code"]) == (412, "stale_revision")
        assert api.request(method, path, sent, if_match=f"W/{etag}").status_code == 412
        assert api.request(method, path, sent, if_match="3").status_code == 400
    assert rows() == before
    changed = api.patch(path, body, if_match=etag)
    assert changed.status_code == 200, changed.content
    again = api.patch(path, body, if_match=etag)
    assert again.status_code == 412
    (newest, *_) = again.json()["changed"]
    assert newest["by"] == "owner@example.com (token tests)"


@pytest.mark.parametrize("act", ["disable", "enable", "retire", "rotate", "schedule-deletion"])
def test_acts_take_an_if_match(act: str, cast: Cast) -> None:
    key = owned_key(cast)
    body = {"confirm_name": key.name} if act == "schedule-deletion" else {}
    api, before = cast.api("owner"), rows()
    answer = api.post(f"/api/v1/cloud-keys/{key.pk}/{act}", body, if_match='"7"')
    assert answer.status_code == 412
    assert rows() == before


def test_a_cloud_that_refuses_is_a_502_with_cause_and_cure(
    cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(account: CspAccount) -> Any:
        raise ProviderError(
            ErrorCode.ACCESS_DENIED, "AWS denies iam:ListUsers.", "Attach the policy.", permanent=True,
            provider_code="AccessDenied",
        )  # fmt: skip

    monkeypatch.setattr(providers, "list_principals", refuse)
    monkeypatch.setattr(providers, "probe_account", refuse)
    account = owned_account(cast)
    answer = cast.api("owner").get(f"/api/v1/csp-accounts/{account.pk}/iam-principals")
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (502, "provider_error")
    assert (problem["detail"], problem["cure"]) == ("AWS denies iam:ListUsers.", "Attach the policy.")
    assert (problem["reason_code"], problem["provider_code"]) == ("access_denied", "AccessDenied")
    # A test that fails is an outcome, not an error.
    tested = cast.api("owner").post(f"/api/v1/csp-accounts/{account.pk}/test")
    assert (tested.status_code, tested.json()["health"]) == (200, "FAILING")
    assert tested.json()["health_detail"]["error"] == {
        "code": "access_denied", "cause": "AWS denies iam:ListUsers.", "cure": "Attach the policy.",
    }  # fmt: skip


def test_a_disabled_vault_changes_no_more(cast: Cast) -> None:
    key = owned_key(cast)
    link = AwsStoreLink.objects.first()
    assert link is None
    stopped = cast.api("appliance").post(f"/api/v1/vaults/{cast.vault.pk}/disable")
    assert stopped.status_code == 200
    api, before = cast.api("owner"), rows()
    url = f"/api/v1/cloud-keys/{key.pk}"
    for answer in (
        api.post("/api/v1/csp-accounts", CREATIONS["csp-accounts"].body(cast)),
        api.patch(f"/api/v1/csp-accounts/{key.csp_account_id}", {"name": "x"}, if_match="*"),
        api.post("/api/v1/key-sets", {"name": "x"}),
        api.patch(f"/api/v1/key-sets/{key.key_set_id}", {"name": "x"}, if_match="*"),
        api.patch(f"/api/v1/xks-key-stores/{key.store_id}", {"max_staleness_s": 5}, if_match="*"),
        api.post(f"/api/v1/xks-key-stores/{key.store_id}/credentials"),
        api.post("/api/v1/aws-store-links", {"store": str(key.store_id), "region": "eu-west-1"}),
        api.post("/api/v1/cloud-keys", {"key_set": str(key.key_set_id), "name": "x", "region": "eu-west-1"}),
        api.post("/api/v1/cloud-keys/bulk", {"action": "enable", "ids": [str(key.pk)]}),
        api.patch(url, {"description": "x"}, if_match="*"),
        *(api.post(f"{url}/{act}") for act in ("enable", "rotate", "retire", "unblock", "refresh", "link")),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict"), answer.content
        assert "disabled" in answer.json()["detail"]
    assert rows() == before
    # Looking goes on.
    assert api.get(url).status_code == 200


def test_what_takes_no_body_ignores_none(cast: Cast) -> None:
    """Whoever sends fields believes that they count."""
    api = cast.api("owner")
    store = store_of(owned_key_set(cast))
    before = rows()
    for path in (
        f"xks-key-stores/{store.pk}/credentials",
        f"csp-accounts/{owned_account(cast).pk}/rotate-credential",
    ):
        refused = api.post(f"/api/v1/{path}", {"silence": 5})
        assert refused.status_code == 400, path
        assert [error["field"] for error in refused.json()["errors"]] == ["silence"]
    assert rows() == before
    assert api.post(f"/api/v1/xks-key-stores/{store.pk}/credentials", {}).status_code == 201
