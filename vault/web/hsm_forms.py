"""Forms of the HSM pages: what a connection is, and what each vendor's usually looks like."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django import forms
from django.utils.translation import gettext, gettext_lazy, gettext_noop

from vault.web.forms import PageForm

LOGINS = (
    ("pin", "PIN"),
    ("module", gettext_lazy("nShield, module protection")),
    ("softcard", gettext_lazy("nShield, softcard preloaded")),
    ("ocs", gettext_lazy("nShield, operator cards preloaded")),
)
LOGIN_WORDS = {
    "pin": gettext_noop(
        "Password of the token's user; on CloudHSM user:password, on YubiHSM the key's id and its "
        "password. It is tried once."
    ),
    "module": gettext_noop("Keys may be used by whoever reaches the module. No PIN."),
    "softcard": gettext_noop("The vendor's preload holds the softcard open beside Keystead. No PIN here."),
    "ocs": gettext_noop("The vendor's preload reads the operator cards, also K of N. No PIN here."),
}
PIN_SOURCES = (
    ("stored", gettext_lazy("Kept here, encrypted under the installation's key")),
    ("external", gettext_lazy("Read by each host from its environment or a file")),
)
PIN_SOURCE_HELP = gettext_lazy(
    "The HSM that is to hold the root key needs the second: its PIN cannot be kept under a key that "
    "it alone opens."
)
ROUTINGS = (
    ("preferred", gettext_lazy("The first member that is well does it all")),
    ("active-active", gettext_lazy("All members in turn")),
)
MODULES = (
    "libsofthsm2.so",
    "libcknfast.so",
    "libCryptoki2_64.so",
    "libCryptoki2.so",
    "libcloudhsm_pkcs11.so",
    "yubihsm_pkcs11.so",
)


@dataclass(frozen=True)
class Vendor:
    """What somebody with this HSM should know before they connect it, from the vendor's documents (docs/hsm.md)."""

    label: str
    anchor: str
    title: str
    words: str
    module: str = ""
    environment: str = ""
    login: str = "pin"
    level: str = "info"


VENDORS: dict[str, Vendor] = {
    "nshield": Vendor(
        "nShield",
        "entrust-nshield-solo-connect-5c",
        gettext_noop("Entrust nShield: all modules of one Security World count as one member."),
        gettext_noop(
            "Module protection needs no PIN. Softcards and operator cards take their passphrase as PIN, or the vendor's preload, "
            "whose file the environment names. We have not tried this HSM: the test tells what works."
        ),
        "/opt/nfast/toolkits/pkcs11/libcknfast.so",
        "CKNFAST_LOADSHARING=1\nCKNFAST_ASSUME_SINGLE_PROCESS=0",
    ),
    "luna": Vendor(
        gettext_noop("Luna"),
        "thales-luna-network-hsm",
        gettext_noop("Thales Luna: either its own HA group as one member, or each partition as a member."),
        gettext_noop(
            "The client needs an NTLS link to each appliance. The PIN is the Crypto Officer's. HSMs with Functionality Modules are "
            "refused. We have not tried this HSM: the test tells what works."
        ),
        "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    ),
    "cloudhsm": Vendor(
        gettext_noop("CloudHSM"),
        "aws-cloudhsm",
        gettext_noop("AWS CloudHSM: the cluster is one member, and stands at AWS."),
        gettext_noop(
            "If keys are to be held away from AWS, this is no place for them. The PIN is user:password of a crypto user. We have not "
            "tried this HSM: the test tells what works."
        ),
        "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
        level="warn",
    ),
    "yubihsm": Vendor(
        gettext_noop("YubiHSM"),
        "yubihsm-2",
        gettext_noop("YubiHSM 2 has no AES-GCM, by its documents: expect that no protection is possible."),
        gettext_noop(
            "The PIN is the authentication key's id in four hexadecimal digits, then its password. We have not tried this HSM: the test "
            "tells what works."
        ),
        "/usr/lib/x86_64-linux-gnu/pkcs11/yubihsm_pkcs11.so",
        "YUBIHSM_PKCS11_CONF=/etc/yubihsm_pkcs11.conf",
        level="warn",
    ),
    "softhsm": Vendor(
        gettext_noop("SoftHSM"),
        "softhsm-for-trying-out-only",
        gettext_noop("SoftHSM is a program, not hardware: for trying out only."),
        gettext_noop("Its keys are in files under its PIN. Everything that is protected by it says so."),
        "/usr/lib/softhsm/libsofthsm2.so",
        "SOFTHSM2_CONF=/etc/softhsm/softhsm2.conf",
        level="warn",
    ),
}


def modules_in(folders: Iterable[str | Path]) -> list[str]:
    """Known PKCS#11 modules that lie in the allowed folders of this host, to be proposed."""
    return [str(path) for folder in folders for name in MODULES if (path := Path(folder) / name).is_file()]


@dataclass(frozen=True)
class MemberLine:
    """A token as it was typed."""

    serial: str = ""
    label: str = ""


def read_members(text: str) -> list[MemberLine]:
    """One a line: a serial number, or label: and a label. Empty lines count for nothing."""
    found = []
    for line in text.splitlines():
        words = line.strip()
        if not words:
            continue
        kind, colon, rest = words.partition(":")
        if colon and kind.strip().lower() == "label":
            found.append(MemberLine(label=rest.strip()))
        elif colon and kind.strip().lower() == "serial":
            found.append(MemberLine(serial=rest.strip()))
        else:
            found.append(MemberLine(serial=words))
    return found


def write_members(rows: Iterable[Any]) -> str:
    """The same the other way round."""
    return "\n".join(row.token_serial or f"label: {row.token_label}" for row in rows)


def read_environment(text: str) -> dict[str, str]:
    """NAME=VALUE a line. Raises ValueError with the line that is none."""
    found = {}
    for line in text.splitlines():
        if not line.strip():
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.strip():
            raise ValueError(line.strip())
        found[name.strip()] = value.strip()
    return found


class ConnectionForm(PageForm):
    """A connection, without its PIN."""

    name = forms.CharField(
        max_length=100, help_text=gettext_lazy("Such as luna-frankfurt. Key sets show it.")
    )
    module_path = forms.CharField(
        max_length=500,
        label=gettext_lazy("PKCS#11 module"),
        widget=forms.TextInput(attrs={"class": "mono", "spellcheck": "false", "list": "hsm-modules"}),
    )
    environment = forms.CharField(
        required=False,
        max_length=4000,
        label=gettext_lazy("Environment of the module"),
        widget=forms.Textarea(attrs={"rows": "2", "spellcheck": "false", "class": "mono"}),
        help_text=gettext_lazy("What the vendor's library wants to find there: NAME=VALUE, one a line."),
    )
    login = forms.ChoiceField(choices=LOGINS, widget=forms.RadioSelect, initial="pin")
    pin_source = forms.ChoiceField(
        choices=PIN_SOURCES,
        required=False,
        initial="stored",
        label=gettext_lazy("Where the PIN is"),
        help_text=PIN_SOURCE_HELP,
    )
    members = forms.CharField(
        max_length=4000,
        label=gettext_lazy("Tokens"),
        widget=forms.Textarea(attrs={"rows": "3", "spellcheck": "false", "class": "mono"}),
        help_text=gettext_lazy(
            "One a line, the preferred one first: its serial number, or label: and its label. Several must "
            "hold the same keys."
        ),
    )
    routing = forms.ChoiceField(choices=ROUTINGS, initial="preferred", label=gettext_lazy("Sharing the work"))
    timeout_ms = forms.IntegerField(
        min_value=50,
        max_value=60_000,
        initial=1000,
        label=gettext_lazy("Time-out of a call"),
        help_text=gettext_lazy("A helper that hangs longer is ended and started anew."),
    )
    vaults = forms.MultipleChoiceField(
        required=False,
        widget=forms.CheckboxSelectMultiple,
        label=gettext_lazy("Vaults"),
        help_text=gettext_lazy("Only these can choose it for their key sets."),
    )

    def __init__(
        self, *args: Any, folders: Iterable[str | Path], variables: Iterable[str], vaults: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.fields["module_path"].help_text = gettext("In one of %(value)s.") % {
            "value": ", ".join(str(each) for each in folders)
        }
        self.allowed = sorted(variables)
        self.fields["vaults"].choices = [(str(row.pk), row.name) for row in vaults]  # type: ignore[attr-defined]

    def clean_environment(self) -> dict[str, str]:
        """As a mapping."""
        try:
            return read_environment(self.cleaned_data["environment"])
        except ValueError as error:
            raise forms.ValidationError(f"{error} is no NAME=VALUE. Give one a line.") from None

    def clean_members(self) -> list[MemberLine]:
        """As tokens."""
        found = read_members(self.cleaned_data["members"])
        if any(not each.serial and not each.label for each in found):
            raise forms.ValidationError(gettext("A label is missing. Write label: and the token's label."))
        if len(set(found)) != len(found):
            raise forms.ValidationError(gettext("A token stands there twice. Name each once."))
        return found

    @property
    def login_options(self) -> list[dict[str, Any]]:
        """The ways to log in with what each means, for the template."""
        return [
            {"option": option, "words": gettext(LOGIN_WORDS[option.data["value"]])}
            for option in self["login"]
        ]


class NewConnectionForm(ConnectionForm):
    """A connection with its PIN, which is never shown again, not even in this form."""

    pin = forms.CharField(
        required=False,
        max_length=256,
        strip=False,
        label="PIN",
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "data-secret": ""}),
        help_text=gettext_lazy(
            "Typed once and never shown again. After a correction of this form give it once more."
        ),
    )

    def clean(self) -> dict[str, Any]:
        """A PIN where one is needed, and none where it would be kept for nothing."""
        values: dict[str, Any] = super().clean() or self.cleaned_data
        stored = values.get("login") == "pin" and values.get("pin_source") != "external"
        if stored and not values.get("pin") and "pin" not in self.errors:
            self.add_error("pin", gettext("The PIN is missing."))
        if not stored and values.get("pin"):
            self.add_error("pin", gettext("With this login no PIN is kept here. Leave it empty."))
        return values


class PinForm(PageForm):
    """A changed PIN."""

    pin = forms.CharField(
        max_length=256,
        strip=False,
        label=gettext_lazy("New PIN"),
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "data-secret": ""}),
        help_text=gettext_lazy(
            "Typed once and never shown again. It is tried once; if the HSM refuses it, nobody tries it again."
        ),
    )


class ExternalPinForm(PageForm):
    """Says that hosts have another PIN now: it is tried once more. Nothing is typed."""
