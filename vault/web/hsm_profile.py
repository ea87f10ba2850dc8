"""What a member can do, as a person reads it: its capability profile (hsm/profile.py) and what the vendor's documents say."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.utils.translation import gettext, gettext_noop

from hsm import documented
from vault.models import HsmMember

PROTECTIONS = {
    "hsm-wrapped": gettext_noop("Keys of a key set wrapped by it"),
    "hsm-resident": gettext_noop("Keys that live in it"),
    "root-key": gettext_noop("The root key of the installation"),
}
NONCES = {
    "ours": gettext_noop(
        "Keystead gives the nonce: from the HSM's random generator, mixed with the system's"
    ),
    "params": gettext_noop("the HSM makes the nonce and writes it back"),
    "appended": gettext_noop("the HSM makes the nonce and appends it to the ciphertext"),
}


@dataclass(frozen=True)
class Tried:
    """One line: what was tried, what came of it."""

    what: str
    level: str
    outcome: str
    found: str


@dataclass
class ProfileSeen:
    """A member's profile."""

    name: str
    at: datetime | None
    known: bool
    possible: list[tuple[str, str, str]] = field(default_factory=list)
    rows: list[Tried] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def _answer(works: bool | None, yes: str = "Works", no: str = "Does not work") -> tuple[str, str]:
    return ("neutral", gettext("Not tried")) if works is None else ("ok", yes) if works else ("danger", no)


def profile_of(row: HsmMember) -> ProfileSeen:
    """A member's profile in words; nothing is known before it was reached once."""
    told: dict[str, Any] = row.profile or {}
    seen = ProfileSeen(row.token_label or row.token_serial, row.checked_at, bool(told.get("gcm")))
    if not seen.known:
        return seen
    gcm, kwp = told["gcm"], told.get("kwp") or {}
    possible, missing = told.get("possible") or [], told.get("missing") or []
    why = "; ".join(missing)
    seen.possible = [
        (
            "ok" if name in possible else "danger",
            words,
            ""
            if name in possible
            else gettext("Not possible: %(why)s") % {"why": why}
            if why
            else gettext("Not possible"),
        )
        for name, words in PROTECTIONS.items()
    ]
    level, outcome = _answer(gcm.get("works"))
    nonce = NONCES.get(gcm.get("iv", ""), "")
    found = gcm.get("reason") or (
        gettext("%(nonce)s, %(gcm)s bytes") % {"nonce": nonce, "gcm": gcm.get("nonce_bytes")} if nonce else ""
    )
    seen.rows.append(Tried(gettext("AES-GCM both ways, with associated data"), level, outcome, found))
    if gcm.get("works"):
        known = gcm.get("known_answer")
        level, outcome = _answer(known, gettext("As elsewhere"), gettext("Another result"))
        words = "" if known is not None else gettext("it takes no key of known value, as in FIPS mode")
        seen.rows.append(Tried(gettext("The same result as AES-GCM elsewhere"), level, outcome, words))
        if gcm.get("long_iv") is not None:
            seen.rows.append(
                Tried(
                    gettext("Decrypts under nonces of 16 bytes"),
                    "neutral",
                    "Yes" if gcm["long_iv"] else "No",
                    gettext("AWS's reference proxy may have written such"),
                )
            )
    level, outcome = _answer(kwp.get("works"))
    found = (
        kwp.get("reason")
        or f"mechanism 0x{int(kwp.get('mechanism') or 0):X}, by C_{'Encrypt' if kwp.get('by') == 'encrypt' else 'WrapKey'}"
    )
    if not kwp.get("works") and gcm.get("works"):
        level = "neutral"  # only needed where GCM is missing
    seen.rows.append(Tried(gettext("AES key wrap with padding (RFC 5649)"), level, outcome, found))
    level, outcome = _answer(told.get("random", True))
    seen.rows.append(Tried(gettext("Random generator"), level, outcome, ""))
    level, outcome = _answer(told.get("threads_ok", True), "Yes", "No")
    seen.rows.append(
        Tried(gettext("Calls from several threads"), "neutral" if outcome == "No" else level, outcome, "")
    )
    oaep = told.get("oaep")
    seen.rows.append(
        Tried(
            "RSA-OAEP",
            "neutral" if not oaep else "ok",
            gettext("Not tried") if oaep is None else gettext("Works") if oaep else gettext("Does not work"),
            ", ".join(oaep or []),
        )
    )
    seen.rows += [
        Tried(gettext("Refuses: %(what)s") % {"what": what}, "ok", gettext("Refused"), str(code))
        for what, code in (told.get("errors") or {}).items()
    ]
    seen.facts = _facts(row, told)
    if row.latency_ms is not None and row.latency_ms > 25:
        seen.warnings.append(
            gettext(
                "It takes %(latency_ms)s ms. AWS waits 250 ms for everything together; 25 ms or less is what to "
                "aim for."
            )
            % {"latency_ms": f"{row.latency_ms:.0f}"}
        )
    if not possible:
        seen.warnings.append(
            gettext("Neither wrapped nor resident keys are possible with this token. Protection software is.")
        )
    return seen


def _facts(row: HsmMember, told: dict[str, Any]) -> list[tuple[str, str]]:
    identity = row.identity or {}
    names = (
        ("manufacturer", gettext("Manufacturer")),
        ("model", gettext("Model")),
        ("serial", gettext("Serial")),
        ("firmware", gettext("Firmware")),
        ("hardware", gettext("Hardware")),
        ("library", gettext("Module")),
    )
    found = [(label, str(identity[name])) for name, label in names if identity.get(name)]
    found.append((gettext("FIPS mode"), str(told.get("fips", "unknown"))))
    found.append((gettext("Functionality Modules"), str(told.get("functionality_modules", "not applicable"))))
    limits = told.get("limits") or {}
    if limits:
        found.append((gettext("Limits"), ", ".join(f"{name}: {value:,}" for name, value in limits.items())))
    if told.get("mechanisms"):
        found.append((gettext("Mechanisms in its list"), ", ".join(told["mechanisms"])))
    found.append((gettext("How this is known"), str(told.get("proven", "measured on this token"))))
    return found


def documented_of(members: list[HsmMember], module_path: str) -> tuple[str, list[documented.Fact], bool]:
    """What the documents of this vendor say: title, facts, whether we have tried it."""
    for row in members:
        name = (row.profile or {}).get("vendor", "")
        entry = documented.by_name(name) if name else None
        if entry is not None:
            break
    else:
        entry = documented.find("", "", module_path)
    return (entry.title, list(entry.facts), entry.proven) if entry is not None else ("", [], False)
