"""An HSM for the conformance store: one that is connected, or else SoftHSM, set up for trying out."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

from hsm.base import HsmUnavailable
from hsm.softhsm import find_module, make_tokens
from vault import env
from vault.actors import Actor
from vault.errors import Conflict, Unavailable
from vault.models import HsmConnection, HsmMember, Vault
from vault.secret import Secret
from vault.services.hsm import MemberSpec, create_connection, update_connection

NAME = "SoftHSM (not for production)"
TOKEN = "keystead"
READY_S = 60.0


def ensure_hsm(actor: Actor, vault: Vault) -> HsmConnection:
    """Return a connection that answers and that the vault may use; SoftHSM is set up where none is connected.

    Raises Conflict where SoftHSM is not installed, Unavailable when no keeper runs that could start its helper.
    """
    connection = _find(vault)
    if connection is None:
        connection = _make_softhsm(actor, vault)
    elif not connection.vaults.filter(pk=vault.pk).exists():
        allowed = [*connection.vaults.values_list("pk", flat=True), vault.pk]
        connection = update_connection(actor, connection.pk, vaults=allowed)
    ends = time.monotonic() + READY_S
    while not _answers(connection):
        if time.monotonic() > ends:
            raise Unavailable(
                f"No member of the HSM connection {connection.name} answers.",
                cure="Start Keystead (keystead serve), or keystead hsm serve beside it, and look at the HSM page.",
            )
        time.sleep(0.2)
    return connection


def _find(vault: Vault) -> HsmConnection | None:
    """The vault's own, else the first that answers, else the first."""
    rows = list(HsmConnection.objects.order_by("created_at"))
    return next(
        (row for row in rows if row.vaults.filter(pk=vault.pk).exists()),
        next((row for row in rows if _answers(row)), rows[0] if rows else None),
    )


def _answers(connection: HsmConnection) -> bool:
    """Whether a member serves, as the keepers last saw."""
    members = HsmMember.objects.filter(connection=connection)
    serving = members.filter(state__in=[HsmMember.State.ACTIVE, HsmMember.State.DEGRADED])
    return (serving if members.count() == 1 else serving.filter(compared=True)).exists()


def _make_softhsm(actor: Actor, vault: Vault) -> HsmConnection:
    module = find_module()
    if module is None:
        raise Conflict(
            "No HSM is connected, and SoftHSM is not installed on this host.",
            cure="Connect an HSM, or install SoftHSM (Debian, Ubuntu: apt install softhsm2).",
        )
    data: Path = env.get("KEYSTEAD_DATA_DIR")
    pin = secrets.token_hex(16)
    try:
        made = make_tokens(data / f"softhsm-{secrets.token_hex(4)}", [TOKEN], pin=pin, module=module)
    except HsmUnavailable as error:
        raise Conflict(str(error), cure="Look at what SoftHSM says.") from error
    return create_connection(
        actor,
        name=NAME,
        module_path=made.module,
        environment=made.environment,
        members=[MemberSpec(token.serial, token.label) for token in made.tokens],
        pin=Secret(pin),
        vaults=[vault.pk],
    )
