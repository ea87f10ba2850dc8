"""Known secrets, each kind of operation, and then a look at everything that is kept or written: none of them is there.

Looked at: every column of every table (and SQLite's files as they lie on the disk), every log line in both formats with
its tracebacks, and every message to the broker. Looked for: each secret as bytes and in the forms that bytes take in text.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import secrets as random_secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError, ParamValidationError
from celery import signals
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone

from cloudkeys.flows import store_links
from cloudkeys.models import CloudKey, CspAccount, KeySet, KeyVersion, Operation
from cloudkeys.operations import requests, runner
from cloudkeys.preflight import EndpointReport
from cloudkeys.services import accounts, protection
from hsm.base import DataInvalid
from tests.cast import ApiClient, Cast
from tests.cloudkeys import hsm_world
from tests.cloudkeys.crashing import run_to_end
from tests.cloudkeys.world import ACCESS_KEY_ID, ADA
from vault import logs
from vault.keys import unseal
from vault.models import IdempotencyRecord, Node, User, WorkerProcess
from xks.agent_loading import load_everything

pytestmark = pytest.mark.slow
NEW_ACCESS_KEY_ID = "AKIAIOSFODNN7ROTATED"


def forms(secret: bytes) -> set[bytes]:
    """How a secret may look in bytes, text, JSON, URLs and encoded neighbourhoods."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for lead in range(3):
            # In the midst of something longer, base64 of the same bytes has three looks; whole groups of it are the same.
            text = encode(b"\0" * lead + secret)
            found.add(text[4 if lead else 0 : len(text) - 4])
        found.add(encode(secret).rstrip(b"="))
    found.add(base64.b32encode(secret).rstrip(b"="))
    text_form = secret.decode("latin-1")
    found |= {repr(secret)[2:-1].encode(), quote(secret).encode(), quote(secret, safe="").encode()}
    found |= {json.dumps(text_form)[1:-1].encode(), text_form.encode()}
    return found


@pytest.mark.parametrize("lead", range(4))
@pytest.mark.parametrize("secret", [b"correct/horse+battery", bytes(range(0, 256, 8))], ids=["text", "bytes"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, bytes.hex, repr, bytes])
def test_the_search_finds_what_is_hidden(encode: Callable[[bytes], Any], secret: bytes, lead: int) -> None:
    hidden = encode(b"x" * lead + secret + b"y" * lead)
    haystack = hidden if isinstance(hidden, bytes) else str(hidden).encode()
    assert any(form in haystack for form in forms(secret))


@dataclass
class Known:
    """Secrets by what they are, and the places that are searched for them."""

    secrets: dict[str, bytes] = field(default_factory=dict)
    log: io.StringIO = field(default_factory=io.StringIO)
    messages: list[bytes] = field(default_factory=list)

    def add(self, name: str, value: str | bytes) -> None:
        """Remember a secret."""
        raw = value.encode() if isinstance(value, str) else value
        assert len(raw) >= 12
        self.secrets[f"{name} {len(self.secrets)}"] = raw

    def new(self, name: str, length: int = 30) -> str:
        """Make a secret that nobody has seen, and remember it."""
        value = random_secrets.token_urlsafe(length)[:length]
        self.add(name, value)
        return value


@contextmanager
def everything_logged(to: io.StringIO) -> Iterator[None]:
    """Log every level of every logger into `to`, as text and as JSON, with the formatters of the product."""
    handlers = []
    root = logging.getLogger()
    level = root.level
    for log_format in ("console", "json"):
        formatter = dict(logs.logging_config(log_format, "debug")["formatters"]["keystead"])
        handler = logging.StreamHandler(to)
        handler.setFormatter(formatter.pop("()")(**formatter))
        handlers.append(handler)
        root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)


@pytest.fixture
def known(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Known]:
    """Watches 32 bytes from the system's generator (keys), logs and messages from before the first key on."""
    found = Known()
    urandom = os.urandom

    def watched(size: int) -> bytes:
        value = urandom(size)
        if size == 32:
            found.add("32 random bytes", value)
        return value

    def sent(sender: Any = None, body: Any = None, headers: Any = None, **more: Any) -> None:
        found.messages.append(json.dumps([sender, body, headers, more], default=repr).encode())

    for name, folder in django_settings.CELERY_BROKER_TRANSPORT_OPTIONS.items():
        if name.endswith(("folder", "folder_in", "folder_out")):
            Path(folder).mkdir(parents=True, exist_ok=True)
    # A broker that failed in an earlier test is left alone for a while; here every message counts.
    monkeypatch.setattr(requests, "_silent_until", 0.0)
    monkeypatch.setattr(os, "urandom", watched)
    signals.before_task_publish.connect(sent)
    with everything_logged(found.log):
        yield found
    signals.before_task_publish.disconnect(sent)


class Aws:
    """In place of AWS: answers what a rotation asks, and repeats secrets in its errors, as a cloud might."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.fail_with: str = ""
        self.new_secret = known.new("rotated AWS secret", 40)

    def __call__(self, client: Any, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        given = request.get("XksProxyAuthenticationCredential", {}).get("RawSecretAccessKey", "")
        raw = f"{given} {json.dumps(request, default=str)}"
        if self.fail_with == "validation":
            raise ParamValidationError(report=f"Invalid value {raw}")
        if self.fail_with:
            said = {"Error": {"Code": self.fail_with, "Message": f"Value {raw} is wrong"}}
            raise ClientError(said, operation)  # type: ignore[arg-type]
        match operation:
            case "GetCallerIdentity":
                return {"Account": "111122223333", "Arn": ADA}
            case "ListAccessKeys":
                key = {"AccessKeyId": ACCESS_KEY_ID, "Status": "Active", "CreateDate": timezone.now()}
                return {"AccessKeyMetadata": [key], "IsTruncated": False}
            case "CreateAccessKey":
                return {"AccessKey": {"AccessKeyId": NEW_ACCESS_KEY_ID, "SecretAccessKey": self.new_secret}}
            case "DescribeCustomKeyStores":
                return {"CustomKeyStores": []}
        return {}


def walk_people(known: Known, cast: Cast) -> ApiClient:
    """A vault with its one-time password, failed sign-ins, a new password, a token."""
    made = cast.api("appliance").post(
        "/api/v1/vaults",
        {"name": "Guide", "admin_name": "Grace", "admin_email": "grace@example.com"},
        key="vault",
    )
    one_time = made.json()["one_time_password"]
    known.add("one-time password", one_time)
    browser = ApiClient().django
    sign_in, page = "/api/v1/auth/sign-in", "application/json"
    for _ in range(2):
        wrong = known.new("wrong password")
        answer = browser.post(sign_in, {"email": "grace@example.com", "password": wrong}, page)
        assert answer.status_code == 401
        answer = browser.post("/accounts/login/", {"login": "grace@example.com", "password": wrong})
        assert answer.status_code == 200
    # The password in the wrong field, as tired people do.
    swapped = browser.post(sign_in, {"email": "x@example.com", "password": {"secret": wrong}}, page)
    assert swapped.status_code == 400
    assert (
        browser.post(sign_in, {"email": "grace@example.com", "password": one_time}, page).status_code == 200
    )
    new = known.new("new password")
    changed = browser.post("/api/v1/auth/password", {"current_password": one_time, "new_password": new}, page)
    assert changed.status_code == 200, changed.content
    assert User.objects.get(email="grace@example.com").check_password(new)
    token = browser.post("/api/v1/auth/tokens", {"name": "walk"}, page).json()["token"]
    known.add("token", token)
    known.add("token without its prefix", token.partition("_")[2])
    bad_token = "kst_" + known.new("wrong token", 43)
    assert ApiClient(bad_token).get("/api/v1/vaults").status_code == 401
    return ApiClient(token)


def walk_accounts(known: Known, api: ApiClient, aws: Aws, monkeypatch: pytest.MonkeyPatch) -> str:
    """An account, made, refused, broken, tested, changed and rotated; its id."""
    body = {"name": "aws", "access_key_id": ACCESS_KEY_ID, "default_region": "eu-west-1"}
    url = "/api/v1/csp-accounts"
    refused = api.post(url, {**body, "secret_access_key": known.new("refused secret") + " "})
    assert refused.status_code == 400
    with monkeypatch.context() as patch:
        patch.setattr(accounts, "_check", lambda account: 1 // 0)
        broken = api.post(
            url, {**body, "secret_access_key": known.new("secret in a traceback", 40)}, key="broken"
        )
        assert broken.status_code == 500
    made = api.post(url, {**body, "secret_access_key": known.new("AWS secret", 40)}, key="account")
    assert made.status_code == 201, made.content
    account: str = made.json()["id"]
    url = f"{url}/{account}"
    changed = api.patch(url, {"secret_access_key": known.new("second AWS secret", 40)}, if_match="*")
    assert changed.status_code == 200, changed.content
    for error in ("AccessDenied", "SignatureDoesNotMatch", "ServiceFailure", "validation"):
        aws.fail_with = error
        assert api.post(f"{url}/test").json()["health"] == "FAILING"
        assert api.get(f"{url}/iam-principals").status_code == 502
    aws.fail_with = ""
    begun = api.post(f"{url}/rotate-credential").json()["operation"]["id"]
    long_ago = timezone.now() - timedelta(days=2)
    done = run_to_end(
        Operation.objects.get(pk=begun), lambda: CspAccount.objects.exclude(retire_after=None).update(retire_after=long_ago)
    )  # fmt: skip
    assert done.state == "SUCCEEDED", done.error
    assert unseal(CspAccount.objects.get(pk=account), "secret_access_key").reveal_text() == aws.new_secret
    return account


def walk_stores(known: Known, api: ApiClient, aws: Aws, account: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key set with its store and credentials, and an AWS store that AWS refuses in every way; the key set's id."""
    made = api.post(
        "/api/v1/key-sets",
        {"name": "pay", "csp_account": account, "use_as_external_key_store": True},
        key="set",
    ).json()
    known.add("XKS secret", made["credential"]["secret_access_key"])
    store = made["xks_key_store"]
    url = f"/api/v1/xks-key-stores/{store}"
    spare = api.post(f"{url}/credentials", key="credential").json()
    known.add("XKS secret", spare["secret_access_key"])
    assert api.post(f"/api/v1/xks-credentials/{spare['id']}/retire").status_code == 200
    assert api.post(f"{url}/block", {"reason": "test"}).status_code == 200
    assert api.post(f"{url}/unblock").status_code == 200
    report = EndpointReport(milliseconds=5, tls_version="TLSv1.3", fleet_size=1, vendor="Keystead")
    monkeypatch.setattr(store_links, "check_endpoint", lambda *args, **more: report)
    for error in ("ValidationException", "NobodyKnowsThisException", "validation"):

        def fail_late(client: Any, operation: str, request: dict[str, Any], error: str = error) -> Any:
            aws.fail_with = error if operation == "CreateCustomKeyStore" else ""
            return aws(client, operation, request)

        monkeypatch.setattr(BaseClient, "_make_api_call", fail_late)
        begun = api.post("/api/v1/aws-store-links", {"store": store, "region": "eu-west-1"}, key=error)
        assert begun.status_code == 202, begun.content
        failed = run_to_end(Operation.objects.get(pk=begun.json()["operation"]["id"]))
        assert failed.state == "FAILED", (failed.state, failed.steps)
        assert failed.error
        assert "create_store" in [step["name"] for step in failed.steps if step["started_at"]]
        link = begun.json()["link"]["id"]
        assert api.delete(f"/api/v1/aws-store-links/{link}", if_match="*").status_code == 200
    found: str = made["id"]
    return found


def walk_keys(api: ApiClient, key_set: str) -> None:
    """A key through its life."""
    made = api.post("/api/v1/cloud-keys", {"key_set": key_set, "name": "k", "region": "eu-west-1"}, key="key")
    assert made.status_code == 201, made.content
    url = f"/api/v1/cloud-keys/{made.json()['cloud_key']['id']}"
    rotated = api.post(f"{url}/rotate").json()["operation"]["id"]
    assert run_to_end(Operation.objects.get(pk=rotated)).state == "SUCCEEDED"
    acts: list[tuple[str, dict[str, Any]]] = [
        ("disable", {"reason": "test"}), ("enable", {}), ("block", {}), ("unblock", {}), ("retire", {}),
        ("schedule-deletion", {"confirm_name": "k", "window_days": 7}), ("cancel-deletion", {}),
    ]  # fmt: skip
    for act, body in acts:
        assert api.post(f"{url}/{act}", body).status_code == 200, act
    rows = {"key_set": key_set, "csv": "name,region\na,eu-west-1\nb,us-east-1\n"}
    begun = api.post("/api/v1/cloud-keys/csv", rows, key="csv").json()["operation"]["id"]
    assert run_to_end(Operation.objects.get(pk=begun)).state == "SUCCEEDED"
    ids = [str(pk) for pk in CloudKey.objects.filter(kind="USER", name__in="ab").values_list("pk", flat=True)]
    begun = api.post("/api/v1/cloud-keys/bulk", {"action": "rotate", "ids": ids}, key="bulk").json()[
        "operation"
    ]["id"]
    assert len(run_to_end(Operation.objects.get(pk=begun)).result["done"]) == 2


def database() -> Iterator[tuple[str, bytes]]:
    """Every value of every table; and SQLite's files as they are, with what deleted rows may have left in them."""
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")  # noqa: S608 (from the catalogue)
            columns = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                for column, value in zip(columns, row, strict=True):
                    raw = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
                    yield f"{table}.{column}", raw
    if connection.vendor == "sqlite":
        for suffix in ("", "-wal"):
            path = Path(f"{connection.settings_dict['NAME']}{suffix}")
            if path.exists():
                yield str(path), path.read_bytes()


def broker(known: Known) -> Iterator[tuple[str, bytes]]:
    """Every message that was published, and what lies in the folders of the embedded queue."""
    for message in known.messages:
        yield "message", message
    folder = Path(django_settings.DATA_DIR) / "broker"
    for path in folder.rglob("*") if folder.exists() else ():
        if path.is_file():
            yield str(path), path.read_bytes()


def look_everywhere(known: Known) -> None:
    """Fail when any form of any secret is anywhere; name the place, never the secret."""
    places = [*database(), *broker(known), ("the log", known.log.getvalue().encode())]
    for name, secret in known.secrets.items():
        wanted = forms(secret)
        leaks = {place for place, content in places if any(form in content for form in wanted)}
        assert not leaks, f"{name} is in {sorted(leaks)}"


@pytest.mark.django_db(transaction=True)
def test_nothing_that_is_kept_or_written_holds_a_secret(
    known: Known, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    known.add("root key", Path(os.environ["KEYSTEAD_ROOT_KEY_FILE"]).read_bytes())
    aws, now = Aws(known), timezone.now()
    node = Node.objects.create(name="node-a", started_at=now, last_seen_at=now)
    WorkerProcess.objects.create(
        node=node, pid=4711, instance="one", applied_generation=2**62, last_seen_at=now + timedelta(days=1)
    )
    monkeypatch.setattr(BaseClient, "_make_api_call", lambda client, *request: aws(client, *request))
    api = walk_people(known, cast)
    account = walk_accounts(known, api, aws, monkeypatch)
    key_set = walk_stores(known, api, aws, account, monkeypatch)
    walk_keys(api, key_set)

    # The watch works: it knows the material of every version, and the search sees what is there.
    material = {unseal(version, "material").reveal() for version in KeyVersion.objects.all()}
    assert len(material) == 7  # one health-check key; k with two versions, a and b with two each
    assert material <= set(known.secrets.values())
    assert IdempotencyRecord.objects.count() >= 8
    assert any(b"grace@example.com" in content for _, content in database())
    assert any(b"cloudkeys.run_operation" in content for _, content in broker(known))
    assert "ZeroDivisionError" in known.log.getvalue()
    look_everywhere(known)

    # And at the end of the vault.
    vault = api.get("/api/v1/vaults").json()["items"][0]["id"]
    appliance = cast.api("appliance")
    assert appliance.post(f"/api/v1/vaults/{vault}/disable").status_code == 200
    gone = appliance.post(f"/api/v1/vaults/{vault}/destruction", {"confirm_name": "Guide"}, if_match="*")
    assert gone.status_code == 200, gone.content
    look_everywhere(known)


@pytest.mark.django_db(transaction=True)
def test_nothing_of_keys_in_hsms_is_kept_or_written(
    known: Known, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No byte of a key that lives in an HSM, and none in clear of one that an HSM wraps, whatever fails."""
    hsms = hsm_world.install(monkeypatch)
    mixed = protection._mixed_random

    def watched(connection_id: UUID) -> bytes:
        value = mixed(connection_id)
        known.add("mixed random", value)
        return value

    monkeypatch.setattr(protection, "_mixed_random", watched)
    hsms.connect(cast.vault)
    api, vault = cast.api("owner"), str(cast.vault.pk)
    for number, kind in enumerate(("hsm-resident", "hsm-wrapped")):
        body = {"vault": vault, "name": kind, "protection": kind, "use_as_external_key_store": True}
        made = api.post("/api/v1/key-sets", body, key=f"set-{number}")
        assert made.status_code == 201, made.content
        known.add("XKS secret", made.json()["credential"]["secret_access_key"])
        key_set = made.json()["id"]
        body = {"key_set": key_set, "name": f"key-{number}", "region": "eu-west-1"}
        key = api.post("/api/v1/cloud-keys", body, key=f"key-{number}")
        assert key.status_code == 201, key.content
        hsms.failure = hsm_world.GONE
        failed = api.post("/api/v1/cloud-keys", {**body, "name": "not"}, key=f"not-{number}")
        assert failed.status_code == 503, failed.content
        hsms.failure = None
        assert api.post(f"/api/v1/cloud-keys/{key.json()['cloud_key']['id']}/rotate").status_code == 202
        hsms.failure = DataInvalid("altered")
        for operation in Operation.objects.filter(state__in=Operation.UNFINISHED):
            runner.run_operation(operation.pk)
        hsms.failure = None
        loaded = load_everything(60.0, None)
        assert not loaded.left_out
    assert api.get(f"/api/v1/key-sets/{key_set}/protection").status_code == 200
    hsms.put("foo")
    resident = KeySet.objects.get(protection="hsm-resident").pk
    body = {"key_label": "foo", "name": "old", "region": "eu-west-1"}
    adopted = cast.api("appliance").post(f"/api/v1/key-sets/{resident}/adopt", body, key="adopt")
    assert adopted.status_code == 201, adopted.content
    for inside in hsms.keys.values():
        known.add("key in the HSM", inside)
    assert len(hsms.keys) == 4  # a CloudKey, a wrapping key, the adopted one and its successor
    assert sum(name.startswith("mixed random") for name in known.secrets) >= 2
    versions = KeyVersion.objects.filter(protection="hsm-resident")
    assert versions.count() == 4
    assert all(version.material is None for version in versions)
    look_everywhere(known)
