"""External key stores in the simulated AWS: made, refused, adopted, changed, connected, deleted."""

from __future__ import annotations

from typing import Any

import pytest

from cloudkeys.models import Operation, XksCredential
from cloudkeys.operations import cancel_operation, retry_operation, runner
from cloudkeys.services import credentials, stores
from tests.cloudkeys.cloud import REGION, World, add_link, connected, linked
from tests.cloudkeys.crashing import before_step, run_to_end
from vault.actions import Action
from vault.models import AuditEvent


def refuse(status: int, name: str) -> Any:
    return lambda seen: (status, {"errorName": name}) if seen.path.endswith("/health") else None


def test_a_linked_store_is_checked_made_and_connected(world: World) -> None:
    operation = run_to_end(add_link(world))
    assert operation.state == "SUCCEEDED", operation.error
    (store,) = world.aws.key_stores()
    assert store["ConnectionState"] == "CONNECTED"
    assert store["XksProxyConfiguration"]["UriPath"] == "/pay/kms/xks/v1"
    assert world.link is not None
    world.link.refresh_from_db()
    assert (world.link.state, world.link.custom_key_store_id) == ("CONNECTED", store["CustomKeyStoreId"])
    assert world.link.cloud_state["proxy_access_key_id"] == world.store.credentials.get().access_key_id
    assert operation.steps[1]["detail"].startswith("healthy in ")
    # Ours first, then AWS's: nothing is made on the word of an endpoint that we have not asked ourselves.
    assert world.aws.proxy.operations()[0] == "health"


@pytest.mark.parametrize(
    ("status", "name", "code"),
    [
        (401, "AuthenticationFailedException", "endpoint_credential"),
        (404, "InvalidUriPathException", "endpoint_path"),
        (400, "InvalidStateException", "endpoint_refused"),
    ],
)
def test_our_own_check_refuses_before_anything_is_made(
    world: World, status: int, name: str, code: str
) -> None:
    world.aws.proxy.override = refuse(status, name)
    operation = run_to_end(add_link(world))
    assert operation.state == "FAILED"
    assert operation.error["code"] == code
    assert operation.error["cure"]
    assert world.aws.key_stores() == []
    assert world.link is not None
    world.link.refresh_from_db()
    assert (world.link.state, world.link.custom_key_store_id) == ("FAILED", "")


def test_an_endpoint_that_is_down_is_tried_again_and_then_serves(world: World) -> None:
    world.aws.proxy.override = refuse(503, "DependencyTimeoutException")
    operation = add_link(world)
    assert runner.run_operation(operation.pk) is runner.Outcome.WAITING
    operation.refresh_from_db()
    assert operation.error["code"] == "endpoint_fault"
    assert operation.steps[1]["state"] == "RUNNING"
    world.aws.proxy.override = None
    assert run_to_end(operation).state == "SUCCEEDED"
    assert operation.error is None


def test_a_failed_creation_can_be_retried_from_the_start(world: World) -> None:
    world.aws.proxy.override = refuse(404, "InvalidUriPathException")
    operation = run_to_end(add_link(world))
    assert operation.state == "FAILED"
    world.aws.proxy.override = None
    retry_operation(world.actor, operation)
    assert run_to_end(operation).state == "SUCCEEDED"
    assert len(world.aws.key_stores()) == 1
    assert AuditEvent.objects.filter(action=Action.OPERATION_RETRY).count() == 1


def test_a_cancel_after_the_store_was_made_deletes_it(world: World) -> None:
    operation = add_link(world)
    with before_step("store_link.create", "connect", lambda: cancel_operation(world.actor, operation)):
        runner.run_operation(operation.pk)
    assert run_to_end(operation).state == "CANCELLED"
    assert world.aws.key_stores() == []
    assert world.link is not None
    world.link.refresh_from_db()
    assert (world.link.state, world.link.custom_key_store_id) == ("NOT_LINKED", "")


def test_a_name_that_is_taken_is_not_taken_over(world: World) -> None:
    connected(world)
    assert world.link is not None
    taken = world.link.custom_key_store_id
    world.link.delete()
    operation = run_to_end(add_link(world))
    assert operation.state == "FAILED"
    assert operation.error["code"] == "name_taken"
    assert taken in operation.error["cure"]
    assert [store["CustomKeyStoreId"] for store in world.aws.key_stores()] == [taken]


# --- adopting -----------------------------------------------------------------------------------------------------


def made_in_console(world: World, **changes: Any) -> str:
    credential = world.store.credentials.get()
    given = {
        "CustomKeyStoreName": "by hand",
        "CustomKeyStoreType": "EXTERNAL_KEY_STORE",
        "XksProxyUriEndpoint": "https://xks.keystead.test",
        "XksProxyUriPath": f"{world.store.path_prefix}/kms/xks/v1",
        "XksProxyConnectivity": "PUBLIC_ENDPOINT",
        "XksProxyAuthenticationCredential": {
            "AccessKeyId": credential.access_key_id,
            "RawSecretAccessKey": world.aws.proxy.secrets[credential.access_key_id],
        },
        **changes,
    }
    return str(world.aws.client("kms").create_custom_key_store(**given)["CustomKeyStoreId"])


def unlinked(world: World) -> Any:
    added = stores.create_store_link(
        world.actor, world.store.pk, stores.LinkRequest(region=REGION, linked=False)
    )
    assert added.operation is None
    return added.link


def test_a_store_made_in_the_console_is_adopted(world: World) -> None:
    link = unlinked(world)
    made = made_in_console(world)
    operation = stores.link_store(world.actor, link.pk, custom_key_store_id=made).operation
    assert operation is not None
    assert run_to_end(operation).state == "SUCCEEDED", operation.error
    link.refresh_from_db()
    assert (link.linked, link.state, link.custom_key_store_id) == (True, "DISCONNECTED", made)
    run_to_end(stores.connect_store(world.actor, link.pk))
    link.refresh_from_db()
    assert link.state == "CONNECTED"


def test_a_store_with_another_path_is_refused(world: World) -> None:
    link = unlinked(world)
    world.aws.proxy.prefix = "/other"
    made = made_in_console(world, XksProxyUriPath="/other/kms/xks/v1")
    operation = stores.link_store(world.actor, link.pk, custom_key_store_id=made).operation
    assert operation is not None
    assert run_to_end(operation).state == "FAILED"
    assert operation.error["code"] == "not_this_store"
    link.refresh_from_db()
    assert (link.linked, link.custom_key_store_id) == (False, "")


# --- changing, connecting, deleting -------------------------------------------------------------------------------


def test_a_new_credential_reaches_aws_when_the_old_one_is_retired(world: World) -> None:
    connected(world)
    assert world.link is not None
    old = world.store.credentials.get()
    new = credentials.create_xks_credential(world.actor, world.store.pk).credential
    credentials.retire_xks_credential(world.actor, old.pk)
    world.aws.serve(world.store)
    operation = stores.update_store_link(world.actor, world.link.pk, {"name": "renamed"}).operation
    assert operation is not None
    assert run_to_end(operation).state == "SUCCEEDED", operation.error
    (store,) = world.aws.key_stores()
    assert store["CustomKeyStoreName"] == "renamed"
    assert store["XksProxyConfiguration"]["AccessKeyId"] == new.access_key_id
    assert XksCredential.objects.get(pk=old.pk).state == "RETIRED"


def test_what_needs_a_disconnected_store_says_so(world: World) -> None:
    connected(world)
    assert world.link is not None
    changes = {"endpoint": "https://elsewhere.example.com"}
    operation = stores.update_store_link(world.actor, world.link.pk, changes).operation
    assert operation is not None
    assert run_to_end(operation).state == "FAILED"
    assert operation.error["code"] == "store_connected"


def test_disconnect_connect_and_refresh(world: World) -> None:
    connected(world)
    assert world.link is not None
    run_to_end(stores.disconnect_store(world.actor, world.link.pk))
    assert world.aws.key_stores()[0]["ConnectionState"] == "DISCONNECTED"
    world.link.refresh_from_db()
    assert world.link.state == "DISCONNECTED"
    run_to_end(stores.connect_store(world.actor, world.link.pk))
    world.link.refresh_from_db()
    assert world.link.state == "CONNECTED"
    kms = world.aws.client("kms")
    kms.disconnect_custom_key_store(CustomKeyStoreId=world.link.custom_key_store_id)
    operation = run_to_end(stores.refresh_store(world.actor, world.link.pk))
    assert operation.result["state"] == "DISCONNECTED"
    world.link.refresh_from_db()
    assert world.link.state == "DISCONNECTED"


def test_a_connection_that_fails_names_aws_code_with_cause_and_cure(world: World) -> None:
    connected(world)
    assert world.link is not None
    run_to_end(stores.disconnect_store(world.actor, world.link.pk))
    world.aws.proxy.override = refuse(401, "AuthenticationFailedException")
    operation = run_to_end(stores.connect_store(world.actor, world.link.pk))
    assert operation.state == "FAILED"
    assert operation.error["cure"]
    world.link.refresh_from_db()
    assert world.link.state == "FAILED"
    assert world.link.connection_error_code
    assert world.link.connection_error_code in operation.error["cause"]
    world.aws.proxy.override = None
    retry_operation(world.actor, operation)
    assert run_to_end(operation).state == "SUCCEEDED"
    world.link.refresh_from_db()
    assert (world.link.state, world.link.connection_error_code) == ("CONNECTED", "")


def test_a_store_with_keys_is_not_deleted(world: World) -> None:
    connected(world)
    key = linked(world, "payments-prod")
    key.pointer_state = "NOT_LINKED"
    key.save()
    assert world.link is not None
    operation = stores.delete_store_link(world.actor, world.link.pk)
    assert operation is not None
    assert run_to_end(operation).state == "FAILED"
    assert operation.error["code"] == "not_empty"
    assert len(world.aws.key_stores()) == 1


def test_a_store_that_somebody_deleted_in_aws_is_gone(world: World) -> None:
    connected(world)
    assert world.link is not None
    kms = world.aws.client("kms")
    kms.disconnect_custom_key_store(CustomKeyStoreId=world.link.custom_key_store_id)
    kms.delete_custom_key_store(CustomKeyStoreId=world.link.custom_key_store_id)
    run_to_end(stores.refresh_store(world.actor, world.link.pk))
    world.link.refresh_from_db()
    assert world.link.state == "GONE"
    assert Operation.objects.filter(state="FAILED").count() == 0
