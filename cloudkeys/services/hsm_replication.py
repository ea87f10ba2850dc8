"""How a key set's keys get to all members of their HSM: by the vendor's own replication, or copied there by Keystead.

Chosen for a key set, or left to Keystead: then a key is copied where the HSM has several members, and device-bound where
it has one, since with nowhere to go it need never have been extractable. Versions and wrapping keys that exist stay as
they were made.
"""

from __future__ import annotations

from django.db.models import Count

from cloudkeys.models import CloudKey, KeySet
from vault.errors import ValidationFailed
from vault.models import HsmConnection, HsmKey

LEFT_TO_US = ""
DEVICE_BOUND: str = HsmKey.Replication.DEVICE_BOUND
REPLICATED: str = HsmKey.Replication.REPLICATED
WORDS: dict[str, tuple[str, str]] = {
    LEFT_TO_US: (
        "As the HSM needs it",
        "With one member a key can never leave it. With several, Keystead copies each new key to all of them, as below.",
    ),
    DEVICE_BOUND: (
        "Device-bound",
        (
            "A key can never leave the HSM, not for a moment. For HSMs that take keys to their other members themselves (Luna HA, "
            "an nShield Security World, CloudHSM): where they do not, no key can be made."
        ),
    ),
    REPLICATED: (
        "Copied by Keystead",
        (
            "For members that know nothing of each other. For a moment a new key can leave the HSM, encrypted for each other "
            "member; then it is locked on all, before its first use. Who holds the HSM's PIN could have copied it in that moment: "
            "the HSM's page says so of the key for ever."
        ),
    ),
}
"""(what it is called, what it means), in plain words."""


def replication_of(chosen: str, connection: HsmConnection) -> str:
    """How a key that is made now for a set with this choice gets to all members of the HSM."""
    if connection.members.count() <= 1:  # type: ignore[attr-defined]
        return DEVICE_BOUND
    return chosen or REPLICATED


def check_replication(wanted: str, protection: str, connection: HsmConnection | None) -> None:
    """See that this choice can be kept. Asks the database alone. Raises ValidationFailed naming hsm_replication."""
    if wanted not in WORDS:
        raise ValidationFailed(
            "This way for keys to reach the HSM's members is unknown.",
            field="hsm_replication",
            cure=f"Give {DEVICE_BOUND} or {REPLICATED}, or leave it out.",
        )
    if not wanted:
        return
    if protection == KeySet.Protection.SOFTWARE or connection is None:
        raise ValidationFailed(
            "Software keys are in no HSM.",
            field="hsm_replication",
            cure="Leave it out, or choose another protection.",
        )
    if wanted != REPLICATED:
        return
    members = list(connection.members.all())  # type: ignore[attr-defined]
    if len(members) < 2:
        raise ValidationFailed(
            f"{connection.name} has one member: there is nowhere to copy a key to.",
            field="hsm_replication",
            cure="Choose device-bound, or leave it to Keystead; or let the appliance admin add a member first.",
        )
    # What a test has found: an empty list is "tried, and nothing works", None is "not tried".
    unable = [str(each) for each in members if (each.profile or {}).get("oaep") == []]
    if unable:
        raise ValidationFailed(
            f"Keys cannot be copied to {', '.join(unable)}: wrapping with RSA-OAEP does not work there.",
            field="hsm_replication",
            cure="Choose device-bound, and let the vendor's replication take keys to the members.",
        )


def replications_of(key_set: KeySet, *, resident: bool = True) -> dict[str, int]:
    """Live keys of this set inside HSMs, by how they got to the members; the wrapping key of its KEK is one of them.

    `resident`: False when the caller knows that no version of the set is in an HSM, and spares the search among all of them.
    """
    found = _resident_replications(key_set) if resident else {}
    if key_set.hsm_key is not None:
        found[key_set.hsm_key.replication] = found.get(key_set.hsm_key.replication, 0) + 1
    return found


def _resident_replications(key_set: KeySet) -> dict[str, int]:
    rows = HsmKey.objects.filter(
        key_version__cloud_key__key_set=key_set,
        key_version__cloud_key__kind=CloudKey.Kind.USER,
        key_version__destroyed_at=None,
        destroyed_at=None,
    )
    return dict(rows.order_by().values_list("replication").annotate(Count("pk")))
