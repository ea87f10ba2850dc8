"""What vendors' documents say of their HSMs. Nothing here was tried by us; each fact names where it was read.

The profile of a token is measured (``hsm.profile``). These facts help where measuring is not possible, choose mechanism
numbers to try, and are shown beside the measured values, marked as unproven.
"""

from __future__ import annotations

from typing import Final, NamedTuple

_NSHIELD = "https://nshielddocs.entrust.com/security-world-docs/v13.6.3/api-pkcs11"
_LUNA = "https://www.thalesdocs.com/gphsm/luna/7/docs/network/Content/sdk/mechanisms"
_AWS_PROXY = "https://github.com/aws-samples/aws-kms-xks-proxy/blob/main/xks-axum/configuration"


class Fact(NamedTuple):
    """One statement and its source."""

    name: str
    value: str
    source: str


class Vendor(NamedTuple):
    """What is known of one vendor's HSMs from documents."""

    name: str
    title: str
    manufacturers: tuple[str, ...]
    """Beginnings of CK_TOKEN_INFO.manufacturerID, lower case."""
    modules: tuple[str, ...]
    """Parts of the module's file name."""
    iv: str
    """Who makes the nonce of AES-GCM: ours, params, appended; or empty: there is no AES-GCM."""
    kwp_numbers: list[int]
    """Vendor-defined numbers of AES key wrap with padding, to be tried after the standard's."""
    environment: tuple[str, ...]
    """Variables that the vendor's library reads and that a connection may set."""
    facts: tuple[Fact, ...]
    proven: bool = False
    session_copies: bool = False
    """Keys are read from files at every call, so that session copies of them are faster."""


VENDORS: Final = (
    Vendor(
        name="softhsm",
        title="SoftHSM 2 (not for production)",
        manufacturers=("softhsm",),
        modules=("softhsm",),
        iv="ours",
        kwp_numbers=[],
        environment=("SOFTHSM2_CONF",),
        facts=(
            Fact("wrong tag", "C_Decrypt returns CKR_GENERAL_ERROR", "measured by us, SoftHSM 2.6.1"),
            Fact(
                "AES_KEY_WRAP_PAD (0x210A)",
                "is RFC 5649, which PKCS#11 3.0 calls AES_KEY_WRAP_KWP (0x210B); by C_WrapKey only",
                "measured by us; https://github.com/opendnssec/softhsmv2/issues/726",
            ),
            Fact(
                "token objects",
                "are read from their file at every call: 34 us of processor time an encryption, 15 us by a session copy",
                "measured by us, SoftHSM 2.6.1",
            ),
        ),
        proven=True,
        session_copies=True,
    ),
    Vendor(
        name="nshield",
        title="Entrust nShield",
        manufacturers=("ncipher", "entrust"),
        modules=("cknfast",),
        iv="params",
        kwp_numbers=[],
        environment=(
            "CKNFAST_LOADSHARING", "CKNFAST_ASSUME_SINGLE_PROCESS", "CKNFAST_NO_ACCELERATOR_SLOTS",
            "CKNFAST_OVERRIDE_SECURITY_ASSURANCES", "CKNFAST_FAKE_ACCELERATOR_LOGIN", "CKNFAST_DEBUG", "CKNFAST_DEBUGFILE",
            "CKNFAST_HSM_POOL", "CKNFAST_SESSION_THREADSAFE", "NFAST_HOME", "NFAST_KMDATA", "NFAST_NFKM_TOKENSFILE",
        ),
        facts=(
            Fact("AES-GCM", "C_Encrypt and C_Decrypt", f"{_NSHIELD}/mechanisms.html"),
            Fact(
                "nonce",
                "made by the HSM and written back; the caller gives zeros",
                f"{_AWS_PROXY}/settings_nshield.toml",
            ),
            Fact(
                "key wrap",
                "both AES_KEY_WRAP_PAD (0x210A) and AES_KEY_WRAP_KWP (0x210B), by C_Encrypt and by C_WrapKey; which of them is "
                "RFC 5649 is found by trying",
                f"{_NSHIELD}/mechanisms.html",
            ),
            Fact(
                "new keys",
                "are seen by processes that began earlier only with CKNFAST_ASSUME_SINGLE_PROCESS=0",
                f"{_NSHIELD}/env-variables.html",
            ),
        ),
    ),
    Vendor(
        name="luna",
        title="Thales Luna",
        manufacturers=("safenet", "thales", "gemalto"),
        modules=("cryptoki2", "libcryptoki"),
        iv="ours",
        kwp_numbers=[0x80000171],
        environment=("ChrystokiConfigurationPath", "SSL_CERT_FILE"),
        facts=(
            Fact(
                "nonce",
                "outside FIPS mode the caller's; in FIPS mode the HSM makes it and appends it to the ciphertext, with 16 bytes "
                "before firmware 7.9.3 (such cannot serve resident keys)",
                f"{_LUNA}/CKM_AES_GCM.htm",
            ),
            Fact(
                "ulIvBits of CK_GCM_PARAMS",
                "must be given in FIPS mode, or decryption fails",
                "https://github.com/parallaxsecond/rust-cryptoki/issues/247",
            ),
            Fact(
                "Functionality Modules",
                "HSM policy 50; once allowed never undone, not by a factory reset. Refused here",
                "https://thalesdocs.com/gphsm/luna/10.2/docs/network/Content/admin_hsm/fms/constraints.htm",
            ),
        ),
    ),
    Vendor(
        name="cloudhsm",
        title="AWS CloudHSM",
        manufacturers=("marvell", "cavium", "aws", "cloudhsm"),
        modules=("cloudhsm",),
        iv="params",
        kwp_numbers=[0x8000216F],
        environment=("CLOUDHSM_CONFIG_FILE",),
        facts=(
            Fact(
                "nonce",
                "always the HSM's, written back; the caller gives zeros",
                f"{_AWS_PROXY}/settings_cloudhsm.toml",
            ),
            Fact(
                "size",
                "AES-GCM takes 16 KB at most",
                "https://docs.aws.amazon.com/cloudhsm/latest/userguide/ki-pkcs11-sdk.html",
            ),
            Fact(
                "sessions",
                "read-only sessions are not supported in SDK 5",
                "https://docs.aws.amazon.com/cloudhsm/latest/userguide/ki-pkcs11-sdk.html",
            ),
            Fact(
                "PIN",
                "user:password of a crypto user",
                "https://docs.aws.amazon.com/cloudhsm/latest/userguide/pkcs11-pin.html",
            ),
        ),
    ),
    Vendor(
        name="yubihsm",
        title="YubiHSM 2",
        manufacturers=("yubico",),
        modules=("yubihsm",),
        iv="",
        kwp_numbers=[],
        environment=("YUBIHSM_PKCS11_CONF",),
        facts=(
            Fact(
                "AES-GCM",
                "none: AES in ECB, CBC and CCM only, and CCM for wrapping objects of its own",
                "https://docs.yubico.com/hardware/yubihsm-2/hsm-2-user-guide/hsm2-device-specs.html",
            ),
        ),
    ),
    Vendor(
        name="opencryptoki",
        title="opencryptoki soft token",
        manufacturers=("ibm",),
        modules=("opencryptoki",),
        iv="",
        kwp_numbers=[],
        environment=("OCK_TRACE_LEVEL",),
        facts=(Fact("AES-GCM, key wrap", "none in 3.8.1's soft token", "tried by us on Debian 12"),),
        proven=True,
    ),
    Vendor(
        name="nss",
        title="NSS softoken (not for production)",
        manufacturers=("mozilla",),
        modules=("softokn",),
        iv="ours",
        kwp_numbers=[],
        environment=("NSS_LIB_PARAMS",),
        facts=(
            Fact("C_Initialize", "wants arguments of NSS's own form", "measured by us, NSS 3.87"),
            Fact("AES-GCM, key wrap", "work, with ulIvBits given and KWP as 0x210B", "measured by us, NSS 3.87"),
            Fact("CKA_LOCAL", "is false for keys that it made itself", "measured by us, NSS 3.87"),
        ),
        proven=True,
    ),
)  # fmt: skip


def find(manufacturer: str, model: str, module: str) -> Vendor | None:
    """Return the vendor of a token, by what it says of itself, else by its module's name."""
    said = manufacturer.lower()
    name = module.rsplit("/", 1)[-1].lower()
    for vendor in VENDORS:
        if said and said.startswith(vendor.manufacturers):
            return vendor
    for vendor in VENDORS:
        if any(part in name for part in vendor.modules) or model.lower().startswith(vendor.name):
            return vendor
    return None


def by_name(name: str) -> Vendor | None:
    """Return the entry of this name."""
    return next((vendor for vendor in VENDORS if vendor.name == name), None)
