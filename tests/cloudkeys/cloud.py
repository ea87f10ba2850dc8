"""An AWS on this machine for tests of flows: the bundled simulator, an external key store proxy, and our rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySet, Operation, XksKeyStore
from cloudkeys.services import cloud_keys, stores
from cloudkeys.services.accounts import create_csp_account
from cloudkeys.services.key_sets import create_key_set
from cloudkeys.simulators.aws.context import ACCOUNTS, DEFAULT_REGION, Settings
from cloudkeys.simulators.aws.server import RunningServer, running
from tests.cloudkeys.crashing import run_to_end
from tests.cloudkeys.simulators.aws import fake_proxy
from tests.cloudkeys.simulators.aws.conftest import HOST, make_client, proxy, tls_files
from vault.actors import Actor
from vault.keys import unseal
from vault.models import Node, Vault, WorkerProcess
from vault.secret import Secret

__all__ = ["aws", "proxy", "tls_files", "xks_workers"]

REGION = DEFAULT_REGION
ACCOUNT = ACCOUNTS[0]


@pytest.fixture
def xks_workers(db: None) -> WorkerProcess:
    """One XKS worker process that has applied everything there will ever be."""
    now = timezone.now()
    node = Node.objects.create(name="node-a", started_at=now, last_seen_at=now)
    return WorkerProcess.objects.create(
        node=node, pid=4711, instance="one", applied_generation=2**62, last_seen_at=now + timedelta(days=1)
    )


@dataclass
class Aws:
    """The running simulator and its proxy, and shortcuts to look behind our back."""

    server: RunningServer
    proxy: fake_proxy.FakeProxy

    def client(self, service: str, **more: Any) -> Any:
        """A boto3 client of the account's administrator."""
        return make_client(self.server, service, **more)

    def key_stores(self, region: str = REGION) -> list[dict[str, Any]]:
        """Every custom key store."""
        found: list[dict[str, Any]] = self.client("kms", region=region).describe_custom_key_stores()[
            "CustomKeyStores"
        ]
        return found

    def kms_keys(self, region: str = REGION) -> list[dict[str, Any]]:
        """Metadata of every KMS key."""
        kms = self.client("kms", region=region)
        return [
            kms.describe_key(KeyId=entry["KeyId"])["KeyMetadata"]
            for page in kms.get_paginator("list_keys").paginate()
            for entry in page["Keys"]
        ]

    def aliases(self, region: str = REGION) -> dict[str, str]:
        """Alias to key id, without AWS's own."""
        pages = self.client("kms", region=region).get_paginator("list_aliases").paginate()
        return {
            entry["AliasName"]: entry.get("TargetKeyId", "")
            for page in pages
            for entry in page["Aliases"]
            if not entry["AliasName"].startswith("alias/aws/")
        }

    def serve(self, store: XksKeyStore) -> None:
        """Let the proxy know the store's path, credentials and keys, as the data plane would."""
        self.proxy.prefix = store.path_prefix
        for credential in store.credentials.filter(state="ACTIVE"):
            self.proxy.secrets[credential.access_key_id] = unseal(
                credential, "secret_access_key"
            ).reveal_text()
        for key in store.cloud_keys.exclude(state="DESTROYED"):
            status = "ENABLED" if key.state == "ENABLED" else "DISABLED"
            self.proxy.keys.setdefault(key.external_key_id, fake_proxy.ExternalKey()).status = status


@pytest.fixture
def aws(
    tmp_path: Path,
    tls_files: dict[str, Path],
    proxy: fake_proxy.FakeProxy,
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
) -> Iterator[Aws]:
    """A running simulator that reaches the fake proxy, and Keystead set up to use it."""
    own = Settings(
        data_dir=tmp_path / "simulator",
        xks_ca_file=tls_files["ca"],
        connect_to={HOST: ("127.0.0.1", proxy.port)},
        xks_timeout_s=10.0,
        max_custom_key_stores=1000,
    )
    with running(own) as server:
        settings.KEYSTEAD_SIMULATOR = True
        monkeypatch.setenv("KEYSTEAD_SIMULATOR_PORT", server.url.rsplit(":", 1)[1])
        monkeypatch.setenv("KEYSTEAD_XKS_PORT", str(proxy.port))
        monkeypatch.setenv("KEYSTEAD_XKS_TLS_CERT", str(tls_files["ca"]))
        yield Aws(server, proxy)


def simulated_account(
    actor: Actor, vault: Vault, aws: Aws, *, name: str = "simulated", user: str = "", **more: Any
) -> CspAccount:
    """An account of the simulator: its administrator's, or that of a new IAM user with every right of one."""
    if user:
        iam = aws.client("iam")
        iam.create_user(UserName=user)
        iam.put_user_policy(UserName=user, PolicyName="all", PolicyDocument=ALLOW_ALL)
        made = iam.create_access_key(UserName=user)["AccessKey"]
        access_key_id, secret = made["AccessKeyId"], made["SecretAccessKey"]
    else:
        administrator = aws.server.sim.state.ensure_administrators((ACCOUNT,))[0]
        access_key_id, secret = administrator.access_key_id, administrator.secret_access_key
    return create_csp_account(
        actor,
        vault,
        name=name,
        access_key_id=access_key_id,
        secret_access_key=Secret(secret),
        default_region=REGION,
        partition="simulator",
        **more,
    )


ALLOW_ALL = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'


@dataclass
class World:
    """A key set used as external key store, and what was made with it."""

    actor: Actor
    aws: Aws
    account: CspAccount
    key_set: KeySet
    store: XksKeyStore
    link: AwsStoreLink | None = None
    key: CloudKey | None = None

    def operation(self, kind: str, target: Any) -> Operation:
        """The last operation of that kind on the target."""
        found = Operation.objects.filter(kind=kind, target_id=target.pk).order_by("-created_at").first()
        assert found is not None
        return found


def new_world(actor: Actor, vault: Vault, aws: Aws, account: CspAccount, name: str) -> World:
    """A key set with a path prefix of its own, known to the proxy, linked nowhere yet."""
    made = create_key_set(
        actor,
        vault,
        name=name,
        csp_account=account.pk,
        use_as_external_key_store=True,
        path_prefix=f"/{name}",
    )
    store = XksKeyStore.objects.get(key_set=made.key_set)
    aws.serve(store)
    return World(actor, aws, account, made.key_set, store)


def add_link(world: World) -> Operation:
    """Ask for the AWS key store."""
    added = stores.create_store_link(world.actor, world.store.pk, stores.LinkRequest(region=REGION))
    world.link = added.link
    assert added.operation is not None
    return added.operation


def connected(world: World) -> World:
    """With its AWS key store connected."""
    operation = run_to_end(add_link(world))
    assert operation.state == "SUCCEEDED", (operation.error, operation.steps)
    assert world.link is not None
    world.link.refresh_from_db()
    return world


def add_key(world: World, name: str, **more: Any) -> Operation:
    """Ask for a CloudKey with its KMS key."""
    made = cloud_keys.create_cloud_key(world.actor, world.key_set.pk, name=name, region=REGION, **more)
    world.key = made.key
    world.aws.serve(world.store)
    assert made.operation is not None
    return made.operation


def linked(world: World, name: str, **more: Any) -> CloudKey:
    """A CloudKey whose KMS key exists."""
    operation = run_to_end(add_key(world, name, **more))
    assert operation.state == "SUCCEEDED", (operation.error, operation.steps)
    assert world.key is not None
    world.key.refresh_from_db()
    return world.key


def copy_of(world: World) -> World:
    """The same world, to hang another key on."""
    return replace(world, key=None)
