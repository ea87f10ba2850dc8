"""Every kind of long work as data: what it works on, its steps in order, and how it gets on with other work.

Apart from the flows (cloudkeys/flows), which import services, so that services can start operations without a
cycle. A test holds that FLOWS and KINDS name the same kinds and steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from django.db import models

from cloudkeys.models import AwsStoreLink, CloudKey, CspAccount, KeySet, XksKeyStore
from vault.actions import Action
from vault.models import Vault
from vault.permissions import Permission

TARGETS: dict[str, type[models.Model]] = {
    "cloudkey": CloudKey,
    "awsstorelink": AwsStoreLink,
    "cspaccount": CspAccount,
    "keyset": KeySet,
    "xkskeystore": XksKeyStore,
    "vault": Vault,
}


@dataclass(frozen=True)
class StepKind:
    """A step's name (in code and API) and what a person reads."""

    name: str
    label: str


@dataclass(frozen=True)
class Kind:
    """One kind of operation.

    exclusive: a second one, or another exclusive one of the same target, is a Conflict while the first is unfinished;
    all others queue behind what is unfinished, in the order in which they were asked for.
    supersedes: unfinished kinds of the same target that are cancelled when this one is asked for.
    permission: what retrying or cancelling it needs on its target, beside operations.manage. Starting is authorised by
    the service that starts it; nobody gets by a retry what they could not ask for.
    guarded_by: the action whose approval a retry needs anew (vault.approvals).
    in_requesters_name: what it does is done with the rights of who asked, so nobody else may take it up.
    no_return: the step after which a cancel comes too late.
    give_up_after: how long transient errors are retried; then the operation fails, and can be retried by hand.
    """

    name: str
    label: str
    permission: Permission
    steps: tuple[StepKind, ...]
    targets: tuple[str, ...] = ("cloudkey",)
    exclusive: bool = False
    supersedes: frozenset[str] = frozenset()
    guarded_by: Action | None = None
    no_return: str = ""
    in_requesters_name: bool = False
    give_up_after: timedelta = timedelta(hours=24)

    def new_steps(self) -> list[dict[str, object]]:
        """The value of Operation.steps before anything was done."""
        return [new_step(step) for step in self.steps]

    def may_cancel_at(self, step: int) -> bool:
        """Whether a cancel before step number `step` can still be obeyed."""
        if not self.no_return:
            return True
        names = [each.name for each in self.steps]
        return step <= names.index(self.no_return)


def new_step(step: StepKind) -> dict[str, object]:
    """One member of Operation.steps: states are PENDING, RUNNING, WAITING, DONE, FAILED, UNDOING, UNDONE."""
    return {
        "name": step.name,
        "label": step.label,
        "state": "PENDING",
        "started_at": None,
        "ended_at": None,
        "detail": "",
        "polls": 0,
    }


def _steps(*pairs: tuple[str, str]) -> tuple[StepKind, ...]:
    return tuple(StepKind(name, label) for name, label in pairs)


def _by_name(kinds: Iterable[Kind]) -> dict[str, Kind]:
    return {kind.name: kind for kind in kinds}


_WORKERS = ("wait_workers", "Every XKS worker knows of it")
_LINK = ("awsstorelink",)

KINDS: dict[str, Kind] = _by_name(
    (
        Kind(
            "cloud_key.provision",
            "Create the KMS key",
            Permission.CLOUD_KEYS_CREATE,
            _steps(
                _WORKERS,
                ("wait_store", "The key store is connected in AWS"),
                ("create_key", "Create the KMS key"),
                ("create_alias", "Create its alias"),
                ("confirm", "AWS confirms the KMS key"),
            ),
            exclusive=True,
        ),
        Kind(
            "cloud_key.link",
            "Link to an existing KMS key",
            Permission.CLOUD_KEYS_UPDATE,
            _steps(("check_key", "AWS describes the KMS key"), ("adopt", "Take the KMS key over")),
            exclusive=True,
        ),
        Kind(
            "cloud_key.update_pointer",
            "Update the KMS key",
            Permission.CLOUD_KEYS_UPDATE,
            _steps(
                ("description", "Set the description"),
                ("policy", "Set the key policy"),
                ("tags", "Set the tags"),
                ("alias", "Set the alias"),
                ("confirm", "AWS confirms the KMS key"),
            ),
        ),
        Kind(
            "cloud_key.disable_pointer",
            "Disable the KMS key",
            Permission.CLOUD_KEYS_DISABLE,
            _steps(("disable_kms", "Disable the KMS key")),
            supersedes=frozenset({"cloud_key.enable", "cloud_key.cancel_deletion"}),
        ),
        Kind(
            "cloud_key.enable",
            "Enable the CloudKey",
            Permission.CLOUD_KEYS_ENABLE,
            _steps(
                ("enable_kms", "Enable the KMS key"),
                ("enable_here", "Enable the CloudKey"),
                ("wait_workers", "Every XKS worker serves it"),
            ),
            guarded_by=Action.CLOUD_KEY_ENABLE,
            no_return="enable_here",
        ),
        Kind(
            "cloud_key.schedule_deletion",
            "Schedule the KMS key's deletion",
            Permission.CLOUD_KEYS_DESTROY,
            _steps(("schedule_kms", "Schedule the deletion in AWS KMS")),
            guarded_by=Action.CLOUD_KEY_SCHEDULE_DELETION,
            supersedes=frozenset({"cloud_key.enable", "cloud_key.cancel_deletion"}),
        ),
        Kind(
            "cloud_key.cancel_deletion",
            "Cancel the deletion",
            Permission.CLOUD_KEYS_DESTROY,
            _steps(
                ("cancel_kms", "Cancel the deletion in AWS KMS"),
                ("cancel_here", "Keep the CloudKey, disabled"),
            ),
            supersedes=frozenset({"cloud_key.destroy"}),
            no_return="cancel_here",
        ),
        Kind(
            "cloud_key.destroy",
            "Destroy the CloudKey",
            Permission.CLOUD_KEYS_DESTROY,
            _steps(
                ("confirm_gone", "AWS no longer has the KMS key"),
                ("destroy_material", "Destroy the key material"),
            ),
            exclusive=True,
            guarded_by=Action.CLOUD_KEY_DESTROY,
            no_return="destroy_material",
            give_up_after=timedelta(days=45),
        ),
        Kind(
            "cloud_key.rotate",
            "Rotate the CloudKey",
            Permission.CLOUD_KEYS_ROTATE,
            _steps(
                ("make", "Make the new version"),
                ("wait_workers", "Every XKS worker can decrypt with the new version"),
                ("activate", "Encrypt with the new version"),
                ("wait_active", "Every XKS worker encrypts with it"),
            ),
            no_return="activate",
        ),
        Kind(
            "cloud_key.refresh",
            "Ask AWS about the KMS key",
            Permission.CLOUD_KEYS_UPDATE,
            _steps(("look", "Ask AWS KMS")),
        ),
        Kind(
            "store_link.create",
            "Create and connect the key store in AWS",
            Permission.XKS_STORES_MANAGE,
            _steps(
                _WORKERS,
                ("preflight", "Our own check of the endpoint: TLS, signature, health"),
                ("create_store", "Create the custom key store"),
                ("connect", "Ask AWS to connect it"),
                ("confirm", "AWS reports it connected"),
            ),
            targets=_LINK,
            exclusive=True,
            give_up_after=timedelta(hours=1),
        ),
        Kind(
            "store_link.link",
            "Link to an existing key store in AWS",
            Permission.XKS_STORES_MANAGE,
            _steps(("check_store", "AWS describes the key store"), ("adopt", "Take the key store over")),
            targets=_LINK,
            exclusive=True,
        ),
        Kind(
            "store_link.update",
            "Update the key store in AWS",
            Permission.XKS_STORES_MANAGE,
            _steps(_WORKERS, ("update_store", "Update the custom key store")),
            targets=_LINK,
        ),
        Kind(
            "store_link.connect",
            "Connect the key store",
            Permission.XKS_STORES_MANAGE,
            _steps(_WORKERS, ("connect", "Ask AWS to connect it"), ("confirm", "AWS reports it connected")),
            targets=_LINK,
        ),
        Kind(
            "store_link.disconnect",
            "Disconnect the key store",
            Permission.XKS_STORES_MANAGE,
            _steps(("disconnect", "Ask AWS to disconnect it"), ("confirm", "AWS reports it disconnected")),
            targets=_LINK,
        ),
        Kind(
            "store_link.delete",
            "Delete the key store in AWS",
            Permission.XKS_STORES_MANAGE,
            _steps(
                ("disconnect", "Disconnect it"),
                ("wait_disconnected", "AWS reports it disconnected"),
                ("delete_store", "Delete the custom key store"),
            ),
            targets=_LINK,
            exclusive=True,
        ),
        Kind(
            "store_link.refresh",
            "Ask AWS about the key store",
            Permission.XKS_STORES_MANAGE,
            _steps(("look", "Ask AWS KMS")),
            targets=_LINK,
        ),
        Kind(
            "csp_account.rotate_credential",
            "Rotate the account's access key",
            Permission.CSP_ACCOUNTS_MANAGE,
            _steps(
                ("create", "Create a second access key"),
                ("verify", "Sign in with it"),
                ("switch", "Use it from now on"),
                ("deactivate", "Deactivate the old access key"),
                ("delete", "Delete the old access key after the grace period"),
            ),
            targets=("cspaccount",),
            exclusive=True,
            no_return="switch",
            give_up_after=timedelta(days=7),
        ),
        Kind(
            "xks_store.rotate_credential",
            "Rotate the XKS credential",
            Permission.XKS_CREDENTIALS_MANAGE,
            _steps(
                ("create", "Make a second credential"),
                _WORKERS,
                ("hand_over", "Give it to AWS in every region"),
                ("watch", "AWS uses the new one everywhere, and the old one no more"),
                ("retire_old", "Retire the old credential"),
                ("wait_retired", "Every XKS worker refuses the old one"),
            ),
            targets=("xkskeystore",),
            exclusive=True,
            no_return="retire_old",
            give_up_after=timedelta(days=30),
        ),
        Kind(
            "cloud_keys.bulk",
            "Act on several CloudKeys",
            Permission.CLOUD_KEYS_VIEW,
            _steps(("items", "One CloudKey after the other")),
            targets=("vault", "keyset"),
            in_requesters_name=True,
        ),
        Kind(
            "cloud_keys.csv_create",
            "Create CloudKeys from a file",
            Permission.CLOUD_KEYS_CREATE,
            _steps(("rows", "One row after the other")),
            targets=("vault", "keyset"),
            in_requesters_name=True,
        ),
    )
)
