"""Try it with the simulator: a CSP account on the bundled AWS simulator, with an IAM user and an access key of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from uuid import UUID

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings

from cloudkeys.models import CspAccount
from cloudkeys.providers.aws_policy import least_privilege_policy
from cloudkeys.services.accounts import create_csp_account, probe_csp_account
from cloudkeys.services.rows import require_live_vault
from cloudkeys.simulators.aws import bootstrap, product
from vault.actors import Actor
from vault.changes import change
from vault.errors import Conflict, Unavailable
from vault.models import Group, Membership, Vault
from vault.permissions import Permission
from vault.secret import Secret

NAME = "AWS simulator"
DESCRIPTION = "The bundled simulator: nothing here reaches AWS. Its keys are real, its cloud is not."
POLICY_NAME = "keystead"


@dataclass(frozen=True)
class TrialAccount:
    """The vault's account on the simulator; `created` tells whether it is new."""

    account: CspAccount
    created: bool


def simulator_offered() -> bool:
    """Whether this installation runs the bundled simulator."""
    return bool(settings.KEYSTEAD_SIMULATOR)


def trial_account(vault: Vault) -> CspAccount | None:
    """The vault's first account on the simulator, if it has one."""
    return (
        CspAccount.objects.filter(vault=vault, partition=CspAccount.Partition.SIMULATOR)
        .order_by("created_at")
        .first()
    )


def try_simulator(actor: Actor, vault: Vault) -> TrialAccount:
    """The vault's account on the bundled simulator, made when it has none: asked twice, it is one account.

    On the simulator an IAM user of the vault's own is made, with exactly the rights that a real account would need, and an
    access key. Raises Conflict where the simulator is off, Unavailable when it does not answer, PermissionDenied.
    """
    actor.require(Permission.CSP_ACCOUNTS_MANAGE, vault)
    require_live_vault(vault)
    if not simulator_offered():
        raise Conflict(
            "The bundled simulator is switched off here.",
            cure="Set KEYSTEAD_SIMULATOR=on for a trial installation, or add a real CSP account.",
        )
    if (present := trial_account(vault)) is not None:
        return TrialAccount(present, created=False)
    # Outside any transaction: the simulator is another process.
    access_key_id, secret, region = _new_access_key(f"keystead-{vault.pk}")
    with change(actor):
        # Two clicks take turns on the vault's row; the second finds what the first has made.
        Vault.objects.select_for_update().get(pk=vault.pk)
        if (present := trial_account(vault)) is not None:
            return TrialAccount(present, created=False)
        account = create_csp_account(
            actor,
            vault,
            name=_free_name(vault),
            description=DESCRIPTION,
            group=_own_group(actor, vault),
            partition=CspAccount.Partition.SIMULATOR,
            access_key_id=access_key_id,
            secret_access_key=secret,
            default_region=region,
        )
    return TrialAccount(probe_csp_account(actor, account.pk), created=True)


def _new_access_key(user_name: str) -> tuple[str, Secret, str]:
    """An access key of that IAM user, made through the simulator's own API. Older keys of the user are removed."""
    where = product.simulator_settings()
    account_id = where.accounts[0]
    try:
        sim = bootstrap.open_simulator(where)
        try:
            admin_id, admin_secret = bootstrap.administrator_credentials(sim, account_id)
        finally:
            sim.close()
        iam = boto3.client(
            "iam",
            endpoint_url=f"http://{where.host}:{where.port}",
            region_name=where.default_region,
            aws_access_key_id=admin_id,
            aws_secret_access_key=admin_secret,
            config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 2}),
        )
        try:
            iam.create_user(UserName=user_name)
        except iam.exceptions.EntityAlreadyExistsException:
            # A try that did not end: IAM allows two access keys, and nobody knows the secrets of these.
            for key in iam.list_access_keys(UserName=user_name)["AccessKeyMetadata"]:
                iam.delete_access_key(UserName=user_name, AccessKeyId=key["AccessKeyId"])
        arn = f"arn:aws:iam::{account_id}:user/{user_name}"
        policy = least_privilege_policy("aws", account_id, arn, arn)
        iam.put_user_policy(UserName=user_name, PolicyName=POLICY_NAME, PolicyDocument=json.dumps(policy))
        made = iam.create_access_key(UserName=user_name)["AccessKey"]
    except (BotoCoreError, ClientError, OSError) as error:
        raise Unavailable(
            f"The bundled simulator does not answer ({type(error).__name__}).",
            cure="See that it runs (keystead serve starts it), then try again.",
        ) from None
    return made["AccessKeyId"], Secret(made["SecretAccessKey"]), where.default_region


def _free_name(vault: Vault) -> str:
    taken = set(CspAccount.objects.filter(vault=vault, name__startswith=NAME).values_list("name", flat=True))
    names = (NAME if number == 1 else f"{NAME} {number}" for number in range(1, len(taken) + 2))
    return next(name for name in names if name not in taken)


def _own_group(actor: Actor, vault: Vault) -> UUID | None:
    """The vault's Cloud Admin Group, when the actor is in it: then colleagues of that group may use the account too."""
    member = (
        Membership.objects.filter(vault=vault, user=actor.user).first() if actor.user is not None else None
    )
    groups = Group.objects.filter(vault=vault, name=Group.CLOUD_ADMIN_GROUP)
    found = groups.filter(members=member).first() if member is not None else None
    return found.pk if found is not None else None
