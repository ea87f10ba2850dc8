"""Texts of pages are ready for translation: nothing visible stands outside gettext (docs/decisions/0010-translation.md)."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.template import engines
from django.template.base import Lexer, TokenType
from django.test import Client
from django.utils import translation
from django.utils.translation import trans_real

from tests.browser import fill
from tests.cast import Cast
from tests.web import Browser, text_of

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "templates"

# Not for a reader's eye, or for those who build the product only.
EXCEPTIONS = {
    "vault/styleguide.html",
    "vault/styleguide_row.html",
    # Tag names and class names only; the words come from outside.
    "allauth/elements/button.html",
    "allauth/layouts/base.html",
}

# Names, keys of the keyboard and words that are the same in every language, and machine-readable ones.
NAMES = {"Keystead", "API", "ARN", "AWS", "JSON", "keystead.json", "openapi.json", "p50", "p99"}

SHOWN_ATTRIBUTES = {"title", "aria-label", "aria-description", "placeholder", "alt", "label"}
# Which literal arguments of our own tags a person reads; by place, 1 is the first.
SHOWN_PLACES = {"action": {2}, "copy": {2}, "health": {2}, "pill": {3}}
# fmt: off
SHOWN_NAMES = {
    "button", "cure", "empty", "ending_label", "head", "label", "none", "other", "placeholder", "rotation_hint",
    "rotation_label", "title", "unit", "why_not", "words",
}
# fmt: on
TAGS_WITH_WORDS = {*SHOWN_PLACES, "when", "exact", "field", "include"}

PLACE = "\ue000"
LITERAL = re.compile(r"""^(?:(\w+)=)?(["'])(.*?)\2""", re.DOTALL)
FILTER_LITERAL = re.compile(r"""\|(?:default|default_if_none|yesno):(["'])(.*?)\1""")


def has_words(text: str) -> bool:
    """Whether letters are left when names, entities and the places of tags are taken away."""
    text = re.sub(r"&\w+;|&#\d+;", " ", text).replace(PLACE, " ")
    return any(re.search(r"[^\W\d_]", word) and word.strip(".,:;()·") not in NAMES for word in text.split())


class Visible(HTMLParser):
    """Collects the texts and shown attributes that hold words."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.found: list[str] = []
        self.silent = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.silent = tag if tag in ("script", "style") else self.silent
        kept = dict(attrs)
        for name, value in attrs:
            if name in SHOWN_ATTRIBUTES and value and has_words(value):
                self.found.append(f"{name}: {value}")
        if tag == "input" and kept.get("type") in ("submit", "button") and has_words(kept.get("value") or ""):
            self.found.append(f"value: {kept['value']}")

    def handle_endtag(self, tag: str) -> None:
        self.silent = "" if tag == self.silent else self.silent

    def handle_data(self, data: str) -> None:
        if not self.silent and has_words(data):
            self.found.append(data.strip())


def unmarked(source: str, *, markup: bool = True) -> list[str]:
    """Return the visible texts of a template's source that do not go through gettext."""
    found: list[str] = []
    page: list[str] = []
    inside = False
    for token in Lexer(source).tokenize():
        name = token.contents.split()[0] if token.contents.split() else ""
        if token.token_type == TokenType.BLOCK and name in ("blocktranslate", "endblocktranslate"):
            inside = name == "blocktranslate"
            page.append(PLACE)
        elif token.token_type == TokenType.TEXT:
            page.append("" if inside else token.contents)
        elif token.token_type != TokenType.COMMENT:
            page.append(PLACE)
        if token.token_type in (TokenType.VAR, TokenType.BLOCK) and name not in ("if", "elif"):
            found += [
                words
                for _, words in FILTER_LITERAL.findall(token.contents)
                if has_words(words) and f'_("{words}")' not in token.contents and not shape(words)
            ]
        if token.token_type == TokenType.BLOCK and name in TAGS_WITH_WORDS:
            for place, bit in enumerate(token.split_contents()):
                literal = LITERAL.match(bit)
                if literal is None or not has_words(literal[3]):
                    continue
                if literal[1] in SHOWN_NAMES or (not literal[1] and place in SHOWN_PLACES.get(name, ())):
                    found.append(f"{name}: {literal[3]}")
    text = "".join(page)
    if not markup:
        return found + [line.strip() for line in text.splitlines() if has_words(line)]
    parser = Visible()
    parser.feed(text)
    parser.close()
    return found + parser.found


def shape(words: str) -> bool:
    """Whether a default is a class name, an icon or the like: a part of an attribute, not a word to read."""
    return words in {"primary", "info", "circle-dot", "true,false"}


def templates() -> list[str]:
    return sorted(
        str(path.relative_to(TEMPLATES)) for kind in ("html", "txt") for path in TEMPLATES.rglob(f"*.{kind}")
    )


def test_templates_are_found():
    assert len(templates()) > 200
    assert set(templates()) >= EXCEPTIONS, "an exception for a template that is no more"


@pytest.mark.parametrize("name", [name for name in templates() if name not in EXCEPTIONS])
def test_every_visible_text_is_marked(name):
    source = (TEMPLATES / name).read_text()
    assert unmarked(source, markup=name.endswith(".html")) == []


@pytest.mark.parametrize(
    "source",
    [
        "<h1>Keys</h1>",
        "<p>{{ name }} has ended</p>",
        '<p>{% translate "One" %} two</p>',
        '<a href="/" title="Open {{ name }}">{% icon "x" %}</a>',
        '<button aria-label="Menu"></button>',
        '<input type="search" placeholder="{% if x %}Name{% endif %}">',
        '{% action url "Disable key" icon="x" %}',
        '{% copy row.pk "Copy id" keep=6 %}',
        '{% health "ok" "All well" %}',
        '{% when at none="never" %}',
        '{% include "parts/callout.html" with level="warn" title="Look out" %}',
        '{{ name|default:"none" }}',
        "{% if x %}in {{ n }} days{% endif %}",
        '<input type="submit" value="Save">',
    ],
)
def test_what_is_not_marked_is_found(source):
    assert unmarked(source)


@pytest.mark.parametrize(
    "source",
    [
        '<h1>{% translate "Keys" %}</h1>',
        "<p>{% blocktranslate with name=row.name %}{{ name }} has ended{% endblocktranslate %}</p>",
        '{% action url _("Disable key") icon="x" style="small primary" %}',
        '{% include "parts/callout.html" with level="warn" title=_("Look out") %}',
        '{{ name|default:_("none") }}',
        '<a class="main link" href="/x?y=z">{{ name }}</a> · <b>Keystead</b>',
        "<script>let words = 1</script>",
        "{# a note #}<!-- another -->",
    ],
)
def test_what_is_marked_is_left_alone(source):
    assert unmarked(source) == []


# --- pages in a made-up language ----------------------------------------------------------------------------------


class Bracketing:
    """A catalogue of a language that puts each message in brackets."""

    def gettext(self, message: str) -> str:
        return f"⟦{message}⟧"

    def ngettext(self, one: str, many: str, number: int) -> str:
        return f"⟦{one if number == 1 else many}⟧"

    def pgettext(self, _context: str, message: str) -> str:
        return self.gettext(message)

    def npgettext(self, _context: str, one: str, many: str, number: int) -> str:
        return self.ngettext(one, many, number)

    def language(self) -> str:
        return "x-brackets"

    def to_language(self) -> str:
        return "x-brackets"


@pytest.fixture
def brackets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every message comes out in brackets."""
    monkeypatch.setitem(trans_real._translations, "x-brackets", Bracketing())
    with translation.override("x-brackets"):
        yield


# Where the words of a page's own stand: not in cells, which show what people named, and what services and AWS say.
OWN = ("button", "dt", "h2", "legend", "nav", "summary", "th")


class Spoken(HTMLParser):
    """Collects what stands in elements of the page's own."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, _attrs: Any) -> None:
        if tag in OWN:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            self.open.remove(tag)

    def handle_data(self, data: str) -> None:
        if self.open and has_words(data):
            self.found.append(f"{self.open[-1]}: {data.strip()}")


def unspoken(page: str) -> set[str]:
    """What stands on a page in elements of its own, and in no bracket."""
    while page != (page := re.sub("⟦[^⟦⟧]*⟧", "", page)):
        pass
    parser = Spoken()
    parser.feed(re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL))
    return set(parser.found)


@pytest.fixture
def addresses(cast: Cast, monkeypatch: pytest.MonkeyPatch, settings: Any) -> list[Any]:
    """A vault with one of each, and the address of every page."""
    settings.KEYSTEAD_SIMULATOR = True  # off by default where the database is a PostgreSQL
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    from page_addresses import addresses

    fill.an_hsm()
    fill.a_little(cast.actor("owner"), cast.vault)
    return [each for each in addresses(cast.vault) if each.url]


def test_what_does_not_go_through_gettext_is_seen() -> None:
    page = "<nav>⟦Keys⟧</nav><dl><dt>Region</dt><dd>eu-west-1</dd></dl><button>⟦in ⟦12⟧ days⟧</button><h2>⟦Keys⟧ of x</h2>"
    assert unspoken(page) == {"dt: Region", "h2: of x"}


# What still comes from services and tables outside of the web layer, in English alone (docs/decisions/0010-translation.md):
# the parts of the installation, AWS's own words in the steps for its console, kinds of operations, fields of records.
NOT_YET = re.compile(
    r"th: (Broker and cache|Database|Database schema|Disk|Last backup|Mail|SIEM|Workers and beat)"
    r"|th: (answered|refused) \(requests\)|th: p\d\d \(ms\)"
    r"|(dt|h2|nav): (\d\. )?(Address|Choose the proxy|Configure the proxy|Connect it|Create it|Custom key store name|Name the key|Open the"
    r"|Proxy |Public endpoint|Region|Tell Keystead|VPC endpoint)"
    r"|nav: Rotate the CloudKey|nav: [\w ]+: [\w ]+|legend: (Connectivity|Role)|summary: Vault admin"
)
RECORDS = {"audit-event", "appliance-audit-event", "cloud-key-activity", "xks-rules-diff"}
"""Show fields by the names that the API gives them."""
NAMED = re.compile(
    r"\w+: (Payments\b.*|P|luna|part\d|pay-hyok|plain|prod|Owner|Auditor|Colleague|Outsider|Appliance"
    r"|Cloud Admin Group|Team"
    r"|others|all others"
    r"|nShield|CloudHSM|Luna|SoftHSM|YubiHSM|Django|Python|SQLite|PostgreSQL.*|boto3|celery|cryptography|granian|curl|\d+ \w{3} [\d:]+)"
)


def test_pages_speak_through_gettext(cast: Cast, addresses: list[Any], brackets: None) -> None:
    found: dict[str, set[str]] = {}
    drawn = 0
    browsers = {who: Browser(cast, who) for who in ("owner", "appliance")}
    for each in addresses:
        if each.name == "docs":  # our documentation, as it is written
            continue
        answer = browsers["appliance" if each.url.startswith("/appliance/") else "owner"].get(each.url)
        assert answer.status_code < 500, each
        if answer.status_code != 200 or "html" not in answer["Content-Type"]:
            continue
        drawn += 1
        plain = unspoken(answer.content.decode())
        kept = {text for text in plain if not NOT_YET.match(text)}
        kept = {text for text in kept if not NAMED.fullmatch(text)}
        kept = {text for text in kept if each.name not in RECORDS or not text.startswith(("th: ", "dt: "))}
        if kept:
            found[f"{each.name} {each.variant}"] = kept
    assert drawn > 100
    assert found == {}


@pytest.mark.django_db
@pytest.mark.parametrize("language", ["de", "fr-FR,fr;q=0.9", "zz", ""])
def test_no_browser_makes_a_page_half_translated(language: str) -> None:
    """Django and allauth bring German and French; we do not, and so nobody gets theirs."""
    english = Client().post("/accounts/login/", {"login": "nobody", "password": ""})
    other = Client(headers={"Accept-Language": language}).post(
        "/accounts/login/?lang=de", {"login": "nobody", "password": ""}
    )
    assert "This field is required." in text_of(english)
    assert text_of(other) == text_of(english)
    assert '<html lang="en"' in other.content.decode()


def test_numbers_and_dates_are_as_they_were() -> None:
    moment = datetime(2026, 11, 23, 4, 5, 6, tzinfo=UTC)
    template = engines["django"].from_string(
        "{{ n }} {{ x }} {{ n|floatformat:1 }} {{ at|date:'j F Y, H:i' }} {% blocktranslate %}{{ n }} of {{ x }}{% endblocktranslate %}"
    )
    drawn = template.render({"n": 1234567, "x": 0.5, "at": moment})
    assert drawn == "1234567 0.5 1234567.0 23 November 2026, 04:05 1234567 of 0.5"
