"""Which HSMs a key set may be protected by, what each can do, and why one cannot be chosen. Asks the database alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from cloudkeys.models import KeySet
from cloudkeys.services.hsm_replication import check_replication
from vault.errors import ValidationFailed
from vault.hsm import connections_for
from vault.models import HsmConnection, HsmMember, Vault


@dataclass(frozen=True)
class HsmChoice:
    """A connection that the vault may use."""

    id: UUID
    name: str
    tried: bool
    """Whether any member was reached yet, so that it is known what works."""
    possible: frozenset[str]
    missing: str
    serving: int
    members: int
    for_trying: bool

    @property
    def words(self) -> str:
        """The name, with what somebody should know before choosing it."""
        notes = []
        if self.for_trying:
            notes.append("SoftHSM, for trying out only")
        if self.serving < self.members:
            notes.append(f"{self.serving} of {self.members} members serve")
        return f"{self.name} ({'; '.join(notes)})" if notes else self.name


def _choice(row: HsmConnection) -> HsmChoice:
    members: list[HsmMember] = list(row.members.all())  # type: ignore[attr-defined]
    profiles: list[dict[str, Any]] = [each.profile for each in members if each.profile]
    possible = [frozenset(profile.get("possible") or ()) for profile in profiles]
    missing = next((str(profile["missing"][0]) for profile in profiles if profile.get("missing")), "")
    return HsmChoice(
        id=row.pk,
        name=row.name,
        tried=bool(profiles),
        possible=frozenset.intersection(*possible) if possible else frozenset(),
        missing=missing,
        serving=sum(each.state == HsmMember.State.ACTIVE for each in members),
        members=len(members),
        for_trying=any("softhsm" in str(each.identity.get("manufacturer", "")).lower() for each in members)
        or "softhsm" in row.module_path.rpartition("/")[2].lower(),
    )


def hsm_choices(vault: Vault) -> list[HsmChoice]:
    """Every connection that this vault may use, by name. Two queries."""
    return [_choice(row) for row in connections_for(vault).prefetch_related("members")]


def why_not(protection: str, choices: list[HsmChoice]) -> str:
    """Why this protection cannot be chosen in a vault with these connections; empty when it can."""
    if protection == KeySet.Protection.SOFTWARE or any(protection in each.possible for each in choices):
        return ""
    if not choices:
        return "No HSM may be used in this vault. The appliance admin connects one under HSMs and allows this vault."
    if not any(each.tried for each in choices):
        return "No HSM of this vault was reached yet, so nobody knows what it can do. The appliance admin sees why under HSMs."
    told = next((each.missing for each in choices if each.missing), "")
    return f"No HSM of this vault can do it{f': {told}' if told else ''}."


def check_choice(vault: Vault, protection: str, connection: Any, replication: str = "") -> None:
    """See that the connection may be used for that protection here; without one, that the vault has one only.

    Raises ValidationFailed naming protection, hsm_connection or hsm_replication.
    """
    if protection not in KeySet.Protection.values:
        raise ValidationFailed(
            "This protection is unknown.",
            field="protection",
            cure=f"Give one of {', '.join(KeySet.Protection.values)}.",
        )
    if protection == KeySet.Protection.SOFTWARE:
        if connection:
            raise ValidationFailed(
                "Software keys need no HSM.",
                field="hsm_connection",
                cure="Leave it out, or choose another protection.",
            )
        check_replication(replication, protection, None)
        return
    choices = hsm_choices(vault)
    if reason := why_not(protection, choices):
        raise ValidationFailed(reason, field="protection", cure="Choose software, or another protection.")
    only = choices[0] if len(choices) == 1 and not connection else None
    chosen = only or next((each for each in choices if str(each.id) == str(connection or "")), None)
    if chosen is None:
        raise ValidationFailed(
            "Which HSM is to protect the keys is not said, or this vault may not use it.",
            field="hsm_connection",
            cure=f"Choose {' or '.join(each.name for each in choices if protection in each.possible)}.",
        )
    if protection not in chosen.possible:
        told = f": {chosen.missing}" if chosen.missing else ""
        raise ValidationFailed(
            f"{chosen.name} cannot do it{told}.",
            field="hsm_connection",
            cure="Choose another HSM or another protection.",
        )
    if replication:
        row = connections_for(vault).prefetch_related("members").get(pk=chosen.id)
        check_replication(replication, protection, row)
