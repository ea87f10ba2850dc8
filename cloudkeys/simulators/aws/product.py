"""How the product runs its bundled simulator: the settings of the simulator from those of Keystead."""

from __future__ import annotations

from urllib.parse import urlsplit

from cloudkeys.simulators.aws.context import Settings
from vault import env, probe

XKS_HOST = "xks.keystead.test"


def simulator_settings() -> Settings:
    """The simulator of this data folder, which reaches this machine's XKS endpoint under its public name.

    Raises env.SettingError when a setting cannot be understood.
    """
    endpoint = urlsplit(env.get("KEYSTEAD_XKS_PUBLIC_ENDPOINT")).hostname or XKS_HOST
    target = (probe.local_address(), env.get("KEYSTEAD_XKS_PORT"))
    own_certificate = env.get("KEYSTEAD_XKS_TLS_CERT")
    return Settings(
        data_dir=env.data_dir() / "simulator",
        port=env.get("KEYSTEAD_SIMULATOR_PORT"),
        xks_ca_file=own_certificate or env.data_dir() / "tls" / "ca.pem",
        connect_to=dict.fromkeys((XKS_HOST, endpoint), target),
        xks_timeout_s=env.get("KEYSTEAD_SIMULATOR_XKS_TIMEOUT_MS") / 1000,
    )
