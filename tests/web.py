"""A browser without scripts: follows forms with their hidden fields, for tests of pages."""

from __future__ import annotations

import html
import re
from typing import Any

from django.http import HttpResponse
from django.test import Client

from tests.cast import Cast

_HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)"(?: value="([^"]*)")?')


class Browser:
    """One of the cast, signed in, with CSRF checks on."""

    def __init__(self, cast: Cast, who: str) -> None:
        self.client = Client(enforce_csrf_checks=True) if who == "anonymous" else cast.session(who)

    def get(self, url: str, *, target: str = "", **query: Any) -> HttpResponse:
        """GET; `target` asks as htmx does for the element with that id."""
        headers = {"HX-Request": "true", "HX-Target": target} if target else {}
        found: HttpResponse = self.client.get(url, query, headers=headers)
        return found

    def hidden(self, url: str) -> dict[str, str]:
        """The hidden fields of the page's last form: its token, its once, its revision."""
        text = self.get(url).content.decode()
        forms = re.findall(r"<form[^>]*method=\"post\".*?</form>", text, re.DOTALL)
        assert forms, text
        return {name: html.unescape(value) for name, value in _HIDDEN.findall(forms[-1])}

    def send(self, url: str, hidden: dict[str, str] | None = None, **fields: Any) -> HttpResponse:
        """Fill the page's form and send it; `hidden` sends those of an earlier look again."""
        given = self.hidden(url) if hidden is None else hidden
        found: HttpResponse = self.client.post(url, {**given, **fields})
        return found


def text_of(response: HttpResponse) -> str:
    """What a person reads: without tags, with spaces run together."""
    words = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", response.content.decode(), flags=re.DOTALL)
    return " ".join(html.unescape(words).split())
