"""What a person recognises in a User-Agent: the program and the system, in two words."""

from __future__ import annotations

import re
from typing import Final

# In this order: each browser names the ones before it, too, so that sites let it in (RFC 9110 section 10.1.5 asks for
# less; nobody heeds it).
_PROGRAMS: Final = (
    ("Edge", re.compile(r"\bEdgA?(?:iOS)?/")),
    ("Opera", re.compile(r"\bOPR/")),
    ("Samsung Internet", re.compile(r"\bSamsungBrowser/")),
    ("Firefox", re.compile(r"\b(?:Firefox|FxiOS)/")),
    ("Chromium", re.compile(r"\bChromium/")),
    ("Chrome", re.compile(r"\b(?:HeadlessChrome|Chrome|CriOS)/")),
    ("Safari", re.compile(r"\bVersion/\S+ .*\bSafari/")),
)
_SYSTEMS: Final = (
    ("iPhone", re.compile(r"\biPhone\b")),
    ("iPad", re.compile(r"\biPad\b")),
    ("Android", re.compile(r"\bAndroid\b")),
    ("Windows", re.compile(r"\bWindows\b")),
    ("macOS", re.compile(r"\bMac OS X\b|\bMacintosh\b")),
    ("ChromeOS", re.compile(r"\bCrOS\b")),
    ("Linux", re.compile(r"\bLinux\b|\bX11\b")),
)
_LONGEST: Final = 60
"""Of a program that we do not know, characters."""


def browser_name(user_agent: str) -> str:
    """Return "Firefox on Linux" for a browser's User-Agent; another program's first word; "" for none.

    Anybody can send any User-Agent: it is a help to recognise oneself, and proof of nothing.
    """
    program = next((name for name, sign in _PROGRAMS if sign.search(user_agent)), "")
    system = next((name for name, sign in _SYSTEMS if sign.search(user_agent)), "")
    if program and system:
        return f"{program} on {system}"
    return (program or user_agent.partition(" ")[0])[:_LONGEST]
