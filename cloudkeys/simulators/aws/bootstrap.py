"""Opening a simulator: its state, the accounts' administrators, and their credentials."""

from __future__ import annotations

import ipaddress

from cloudkeys.simulators.aws import iam, iam_principals, kms_state, s3, sts
from cloudkeys.simulators.aws.context import Settings, Simulator
from cloudkeys.simulators.aws.faults import Faults
from cloudkeys.simulators.aws.state import State, new_id, new_secret_access_key
from cloudkeys.simulators.aws.xks_client import XksClient


def open_simulator(settings: Settings) -> Simulator:
    """Open (or make) the state in ``settings.data_dir`` and the simulator over it. The caller closes it.

    Raises ValueError when the address to listen on is not a loopback one, OSError or sqlite3.Error when the
    folder cannot be used.
    """
    if settings.host != "localhost" and not ipaddress.ip_address(settings.host).is_loopback:
        raise ValueError(f"the AWS simulator listens on loopback addresses only, not on {settings.host}")
    state = State(settings.data_dir, (kms_state.SCHEMA, iam.SCHEMA, sts.SCHEMA, s3.SCHEMA))
    xks = XksClient(settings.connect_to, settings.xks_ca_file, settings.xks_timeout_s)
    sim = Simulator(settings=settings, state=state, faults=Faults(), xks=xks)
    for administrator in state.ensure_administrators(settings.accounts):
        iam.ensure_administrator(sim, administrator)
    return sim


def administrator_credentials(sim: Simulator, account_id: str) -> tuple[str, str]:
    """Access key id and secret of the account's administrator that work now.

    The key of the first start may have been rotated away since, as Keystead does with its own: then another key of
    the administrator is taken, made active, or made.
    """
    administrator = sim.state.ensure_administrators((account_id,))[0]
    with sim.state.transaction() as db:
        row = db.execute(
            "SELECT access_key_id, secret, active FROM iam_access_keys WHERE user_id = ?"
            " ORDER BY active DESC, access_key_id = ? DESC, created_at DESC",
            (administrator.user_id, administrator.access_key_id),
        ).fetchone()
        if row is None:
            access_key_id, secret = new_id("AKIA"), new_secret_access_key()
            iam_principals.store_access_key(sim, access_key_id, administrator.user_id, secret, sim.now())
            return access_key_id, secret
        if not row["active"]:
            db.execute(
                "UPDATE iam_access_keys SET active = 1 WHERE access_key_id = ?", (row["access_key_id"],)
            )
    return row["access_key_id"], row["secret"]
