"""KMS is many hosts: after a change some go on for a while with what they knew (the fault ``old_credential``)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from cloudkeys.simulators.aws.context import Simulator
from cloudkeys.simulators.aws.kms_state import Store
from cloudkeys.simulators.aws.xks_client import Proxy

_SLOT = "kms_hosts"


@dataclass
class _Remembered:
    """A credential that was replaced, and until when (monotonic clock) some hosts use it."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    until: float
    turns: Iterator[int] = field(default_factory=itertools.count)


def remember_credential(sim: Simulator, store: Store, seconds: float) -> None:
    """Let every other call for the store be signed with the credential that it has now, for so long."""
    known: dict[str, _Remembered] = sim.slots.setdefault(_SLOT, {})
    known[store.store_id] = _Remembered(
        store.access_key_id, store.secret_access_key, time.monotonic() + seconds
    )


def proxy_for_use(sim: Simulator, store: Store) -> Proxy:
    """The proxy as the host sees it whose turn it is."""
    known: dict[str, _Remembered] = sim.slots.get(_SLOT, {})
    old = known.get(store.store_id)
    if old is None or time.monotonic() >= old.until or next(old.turns) % 2:
        return store.proxy
    return replace(store.proxy, access_key_id=old.access_key_id, secret_access_key=old.secret_access_key)
