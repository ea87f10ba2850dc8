"""The KeyControl guide's walk by REST alone, against the database (long work is asked for, not done here)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from cloudkeys.models import CloudKey, Operation
from tests.cast import ApiClient, Cast
from tests.cloudkeys.matrix import no_cloud
from tests.cloudkeys.world import ACCESS_KEY_ID, ADA, APP, SECRET, pretend_linked
from vault.models import User
from vault.services.tokens import create_token

EVERY = {"kind": "every", "every": 90, "unit": "days", "hour": 3, "time_zone": "Europe/Berlin"}


def ok(response: Any, status: int) -> dict[str, Any]:
    """The body of an answer that has this status."""
    assert response.status_code == status, response.content
    found: dict[str, Any] = response.json()
    return found


def signed_in(cast: Cast, email: str, password: str) -> ApiClient:
    """Sign in with the one-time password, set a new one, and go on with a token."""
    browser = ApiClient().django
    answer = ok(
        browser.post("/api/v1/auth/sign-in", {"email": email, "password": password}, "application/json"),
        200,
    )
    assert answer["must_change_password"]
    refused = browser.get("/api/v1/csp-accounts")
    assert (refused.status_code, refused.json()["code"]) == (403, "password_change_required")
    changed = browser.post(
        "/api/v1/auth/password",
        {"current_password": password, "new_password": "nobody guesses this walk"},
        "application/json",
    )
    assert changed.status_code == 200, changed.content
    made = browser.post("/api/v1/auth/tokens", {"name": "walk"}, "application/json")
    return ApiClient(ok(made, 201)["token"])


def test_the_whole_guide(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    no_cloud(monkeypatch)
    # 1. The appliance admin creates the vault; no mail is set up, so the one-time password is shown once.
    vault = ok(
        cast.api("appliance").post(
            "/api/v1/vaults",
            {
                "name": "Guide",
                "description": "HYOK",
                "admin_name": "Grace",
                "admin_email": "grace@example.com",
            },
        ),
        201,
    )
    assert vault["one_time_password"]
    # 2. The vault admin signs in, and adds the account.
    grace = signed_in(cast, "grace@example.com", vault["one_time_password"])
    (group,) = ok(grace.get("/api/v1/groups"), 200)["items"]
    account = ok(
        grace.post(
            "/api/v1/csp-accounts",
            {
                "name": "aws-prod", "description": "Production", "group": group["id"], "access_key_id": ACCESS_KEY_ID,
                "secret_access_key": SECRET, "default_region": "eu-west-1", "rotation_schedule": EVERY,
            },
        ),
        201,
    )  # fmt: skip
    assert account["group"] == {"id": group["id"], "name": "Cloud Admin Group"}
    assert account["next_rotation_at"] is not None
    tested = ok(grace.post(f"/api/v1/csp-accounts/{account['id']}/test"), 200)
    assert (tested["health"], tested["principal_arn"]) == ("OK", ADA)
    policy = ok(grace.get(f"/api/v1/csp-accounts/{account['id']}/policy"), 200)
    assert policy["Version"] == "2012-10-17"
    assert ok(grace.get(f"/api/v1/csp-accounts/{account['id']}/iam-principals"), 200) == {"items": []}
    # 3. The key set with its external key store: credential and console file, this once.
    response = grace.post(
        "/api/v1/key-sets",
        {
            "name": "pay-hyok", "group": group["id"], "csp_account": account["id"], "use_as_external_key_store": True,
            "path_prefix": "", "links": [{"region": "eu-west-1"}], "rotation_schedule": EVERY,
        },
    )  # fmt: skip
    key_set = ok(response, 202)
    (creating,) = key_set["operations"]
    assert creating["kind"] == "store_link.create"
    assert response.headers["Location"] == f"/api/v1/operations/{creating['id']}"
    credential = key_set["credential"]
    assert credential["console_file"] == {
        "XksProxyUriPath": "/kms/xks/v1",
        "XksProxyAuthenticationCredential": {
            "AccessKeyId": credential["access_key_id"],
            "RawSecretAccessKey": credential["secret_access_key"],
        },
    }
    # 4. The store: Keystead makes it in AWS.
    store = ok(grace.get(f"/api/v1/xks-key-stores/{key_set['xks_key_store']}"), 200)
    assert store["xks_proxy_uri_path"] == "/kms/xks/v1"
    (link,) = store["links"]
    assert (link["region"], link["linked"], link["state"]) == ("eu-west-1", True, "PENDING")
    watched = ok(grace.get(response.headers["Location"]), 200)
    assert watched["target"] == {"type": "awsstorelink", "id": link["id"], "name": "pay-hyok in eu-west-1"}
    assert [step["state"] for step in watched["steps"]] == ["PENDING"] * 5
    # 5. The CloudKey.
    response = grace.post(
        "/api/v1/cloud-keys",
        {
            "key_set": key_set["id"], "name": "payments-prod", "region": "eu-west-1", "description": "Cards",
            "administrators": [ADA], "users": [APP], "tags": {"team": "payments"},
            "expiration": {"kind": "after", "days": 365, "then": "disable"},
        },
    )  # fmt: skip
    made = ok(response, 202)
    key = made["cloud_key"]
    assert response.headers["Location"] == f"/api/v1/operations/{made['operation']['id']}"
    assert made["operation"]["kind"] == "cloud_key.provision"
    assert (key["state"], key["pointer_state"], key["alias"]) == ("ENABLED", "PENDING", "alias/payments-prod")
    assert (key["schedule_inherited"], key["rotation_schedule"]["every"]) == (True, 90)
    assert made["create_key_step"] is None
    # 6. Disable and enable again, with what provisioning would have left.
    Operation.objects.update(state="SUCCEEDED")
    pretend_linked(CloudKey.objects.get(pk=key["id"]))
    url = f"/api/v1/cloud-keys/{key['id']}"
    disabled = grace.post(f"{url}/disable", {"reason": "Suspected breach"})
    body = ok(disabled, 202)
    assert (body["cloud_key"]["state"], body["cloud_key"]["state_reason"]) == ("DISABLED", "Suspected breach")
    assert body["operation"]["kind"] == "cloud_key.disable_pointer"
    assert body["confirmation"]["complete"]
    Operation.objects.update(state="SUCCEEDED")
    enabled = ok(grace.post(f"{url}/enable", {"reason": "All clear"}), 202)
    # AWS first, then ours: so still disabled, and nothing to confirm yet.
    assert (enabled["cloud_key"]["state"], enabled["confirmation"]) == ("DISABLED", None)
    assert enabled["operation"]["kind"] == "cloud_key.enable"
    # What happened is on record, by name.
    events = ok(grace.get("/api/v1/audit-events", object_type="cloudkey"), 200)["items"]
    assert [event["action"] for event in events][:4] == [
        "cloudkeys:cloud_key:enable",
        "vault:data_plane:confirm",
        "cloudkeys:cloud_key:disable",
        "cloudkeys:cloud_key:create",
    ]
    assert {event["actor_name"] for event in events} == {"grace@example.com (token walk)"}
    # Nobody of another vault sees any of it.
    assert cast.api("owner").get(url).status_code == 404
    assert User.objects.get(email="grace@example.com").must_change_password is False


def test_a_key_of_an_unlinked_store_from_birth_to_end(cast: Cast) -> None:
    api = ApiClient(create_token(cast.actor("owner"), name="t").secret.reveal_text())
    key_set = ok(api.post("/api/v1/key-sets", {"name": "by-hand", "use_as_external_key_store": True}), 201)
    link = ok(
        api.post(
            "/api/v1/aws-store-links",
            {"store": key_set["xks_key_store"], "region": "eu-west-1", "linked": False},
        ),
        201,
    )["link"]
    noted = api.patch(
        f"/api/v1/aws-store-links/{link['id']}",
        {"custom_key_store_id": "cks-1234567890abcdef0"},
        if_match='"1"',
    )
    assert ok(noted, 200)["operation"] is None
    response = api.post(
        "/api/v1/cloud-keys", {"key_set": key_set["id"], "name": "archive", "region": "eu-west-1"}
    )
    made = ok(response, 201)
    url = f"/api/v1/cloud-keys/{made['cloud_key']['id']}"
    assert (response.headers["Location"], response.headers["ETag"]) == (url, '"1"')
    step = made["create_key_step"]
    assert step == ok(api.get(f"{url}/create-key-step"), 200)
    assert step["custom_key_store_id"] == "cks-1234567890abcdef0"
    assert made["cloud_key"]["external_key_id"] in step["command"]
    # Rotation: the new version waits until every worker can decrypt with it.
    rotated = ok(api.post(f"{url}/rotate"), 202)
    assert (rotated["operation"]["kind"], rotated["cloud_key"]["current_version"]) == ("cloud_key.rotate", 1)
    first, second = ok(api.get(f"{url}/versions"), 200)
    assert (first["number"], first["current"], second["current"], second["activated_at"]) == (
        1,
        True,
        False,
        None,
    )
    # Block, unblock, retire.
    assert ok(api.post(f"{url}/block", {"reason": "Incident 7"}), 200)["cloud_key"]["blocked"] is True
    assert ok(api.post(f"{url}/unblock"), 200)["cloud_key"]["blocked"] is False
    assert ok(api.post(f"{url}/retire"), 200)["cloud_key"]["permitted_uses"] == ["DECRYPT"]
    assert api.post(f"{url}/retire").status_code == 409
    # Deletion: the name, the window, the admin's word.
    assert (
        ok(api.post(f"{url}/schedule-deletion", {"confirm_name": "Archive"}), 400)["field"] == "confirm_name"
    )
    assert ok(api.post(f"{url}/schedule-deletion", {"confirm_name": "archive", "window_days": 6}), 400)
    scheduled = ok(api.post(f"{url}/schedule-deletion", {"confirm_name": "archive", "window_days": 7}), 200)[
        "cloud_key"
    ]
    assert scheduled["state"] == "PENDING_DELETION"
    assert ok(api.post(f"{url}/cancel-deletion"), 200)["cloud_key"]["state"] == "DISABLED"
    assert ok(api.post(f"{url}/enable"), 200)["cloud_key"]["state"] == "ENABLED"
    ok(api.post(f"{url}/schedule-deletion", {"confirm_name": "archive"}), 200)
    end = {"confirm_name": "archive", "pointer_is_gone": True}
    assert ok(api.post(f"{url}/destroy", end), 409)["cure"].startswith("Schedule the deletion")
    CloudKey.objects.update(delete_after=timezone.now() - timedelta(seconds=1))
    assert (
        ok(api.post(f"{url}/destroy", {**end, "pointer_is_gone": False}), 400)["field"] == "pointer_is_gone"
    )
    destroyed = ok(api.post(f"{url}/destroy", end), 200)["cloud_key"]
    assert (destroyed["state"], destroyed["delete_after"]) == ("DESTROYED", None)
    assert all(version["destroyed_at"] for version in ok(api.get(f"{url}/versions"), 200))
    # Now store link, key set and nothing else remain to be deleted.
    gone = api.delete(f"/api/v1/aws-store-links/{link['id']}", if_match='"2"')
    assert ok(gone, 200) == {"operation": None}
    assert api.delete(f"/api/v1/key-sets/{key_set['id']}", if_match='"1"').status_code == 204
    assert api.get(url).status_code == 404


def test_operations_are_cancelled_and_retried(cast: Cast) -> None:
    api = cast.api("owner")
    account = ok(
        api.post(
            "/api/v1/csp-accounts",
            {
                "name": "aws-prod", "access_key_id": ACCESS_KEY_ID, "secret_access_key": SECRET,
                "default_region": "eu-west-1",
            },
        ),
        201,
    )  # fmt: skip
    begun = api.post(f"/api/v1/csp-accounts/{account['id']}/rotate-credential")
    url = begun.headers["Location"]
    assert ok(begun, 202)["operation"]["state"] == "WAITING"
    again = ok(api.post(f"/api/v1/csp-accounts/{account['id']}/rotate-credential"), 409)
    assert url.rsplit("/", 1)[1] in again["cure"]
    assert ok(api.post(f"{url}/retry"), 409)["code"] == "conflict"
    assert ok(api.post(f"{url}/cancel"), 200)["cancel_requested"] is True
    Operation.objects.update(
        state="FAILED", error={"code": "x", "cause": "y", "cure": "z", "permanent": True}
    )
    (failed,) = ok(api.get("/api/v1/operations", state="FAILED", target=account["id"]), 200)["items"]
    assert failed["error"]["cause"] == "y"
    assert ok(api.post(f"{url}/retry"), 200)["state"] == "WAITING"
