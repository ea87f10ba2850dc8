"""What bench_xks_instance.py fills with where keys are protected by an HSM: a SoftHSM token of its own."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

from cloudkeys.models import CloudKey, KeySet, KeyVersion
from cloudkeys.services.protection import Material, choose_protection, key_set_wrapper, material_for
from hsm.software import new_key
from vault.actors import Actor
from vault.models import Vault
from vault.secret import Secret
from xks.conformance_hsm import ensure_hsm

BATCH = 2_000


def protect(vault: Vault, key_sets: Sequence[KeySet], protection: str) -> None:
    """Give unsaved key sets their protection; a keeper must run beside this."""
    connection = ensure_hsm(Actor.system("cli"), vault)
    for key_set in key_sets:
        choose_protection(key_set, protection, connection.pk).put(key_set)


def add_versions(keys: Sequence[CloudKey]) -> None:
    """Make the first version of each key, in the HSM or with material under its key set's KEK."""
    began = time.monotonic()
    versions = []
    for key in keys:
        version = KeyVersion(vault=key.vault, cloud_key=key, number=1)
        if key.key_set.protection == KeySet.Protection.HSM_WRAPPED:
            # As the service does it, but for the HSM's share of the randomness: one call a key would be most of the time.
            Material(key.key_set.protection, Secret(new_key()), key_set_wrapper(key.key_set)).put(version)
        else:
            with material_for(key.key_set, key.name) as material:
                material.put(version)
        versions.append(version)
        if len(versions) >= BATCH:
            KeyVersion.objects.bulk_create(versions)
            versions = []
    KeyVersion.objects.bulk_create(versions)
    told = {"versions": len(keys), "seconds": round(time.monotonic() - began, 1)}
    print(json.dumps(told), file=sys.stderr)
