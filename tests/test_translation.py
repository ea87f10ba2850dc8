"""Texts of pages are ready for translation: nothing visible stands outside gettext (docs/decisions/0010-translation.md)."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from django.template.base import Lexer, TokenType

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
