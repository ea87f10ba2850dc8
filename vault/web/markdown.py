"""As much of Markdown as docs/ uses, as HTML. Everything is escaped first, so that no page can hold markup of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

_CODE = re.compile(r"`([^`]+)`")
_BOLD = re.compile(r"\*\*([^*]+)\*\*")
_SLANTED = re.compile(r"(?<![*\w])\*([^*\s][^*]*)\*(?![*\w])")
_LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
_ITEM = re.compile(r"(\s*)([-*]|\d+\.)\s+(.*)")
_OWN_PAGE = re.compile(r"([a-z0-9-]+)\.md(#[\w-]+)?")


def to_html(text: str) -> SafeString:
    """Headings (one level down is kept), paragraphs, lists, tables, code and links. The first heading is left to the page's title."""
    blocks = list(_blocks(text.splitlines()))
    return mark_safe("\n".join(blocks))  # noqa: S308 - every piece of text was escaped


def _inline(text: str) -> str:
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(f"<code>{found[1]}</code>")
        return f"\0{len(kept) - 1}\0"

    told = _CODE.sub(keep, escape(text))
    told = _LINK.sub(_link, told)
    told = _BOLD.sub(r"<strong>\1</strong>", told)
    told = _SLANTED.sub(r"<em>\1</em>", told)
    return re.sub("\0(\\d+)\0", lambda found: kept[int(found[1])], told)


def _link(found: re.Match[str]) -> str:
    words, target = found[1], found[2]
    own = _OWN_PAGE.fullmatch(target)
    if own:
        return f'<a href="/docs/{own[1]}/{own[2] or ""}">{words}</a>'
    if target.startswith(("https://", "#", "/docs/", "/api/")):
        return f'<a href="{target}" rel="noopener noreferrer">{words}</a>'
    return words  # a path in the repository leads nowhere here


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _blocks(lines: list[str]) -> Iterator[str]:
    at, headed = 0, False
    while at < len(lines):
        line = lines[at]
        if line.startswith("```"):
            end = next((i for i in range(at + 1, len(lines)) if lines[i].startswith("```")), len(lines))
            body = escape("\n".join(lines[at + 1 : end]))
            yield f'<pre tabindex="0"><code>{body}</code></pre>'
            at = end + 1
        elif line.startswith("#"):
            level = len(line) - len(line.lstrip("#"))
            words = line.lstrip("# ").strip()
            if headed or level > 1:
                level = min(max(level, 2), 4)
                yield f'<h{level} id="{_slug(words)}">{_inline(words)}</h{level}>'
            headed = True
            at += 1
        elif line.startswith("|"):
            end = next((i for i in range(at, len(lines)) if not lines[i].startswith("|")), len(lines))
            yield _table(lines[at:end])
            at = end
        elif _ITEM.fullmatch(line):
            end = at
            while end < len(lines) and lines[end].strip() and not lines[end].startswith(("#", "|", "```")):
                end += 1
            yield _list(lines[at:end])
            at = end
        elif line.strip():
            end = at
            while end < len(lines) and lines[end].strip() and not lines[end].startswith(("#", "|", "```")):
                if end > at and _ITEM.fullmatch(lines[end]):
                    break
                end += 1
            yield f"<p>{_inline(' '.join(part.strip() for part in lines[at:end]))}</p>"
            at = end
        else:
            at += 1


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]


def _table(lines: list[str]) -> str:
    head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in _cells(lines[0]))
    body = "".join(
        "<tr>" + "".join(f"<td>{_inline(cell)}</td>" for cell in _cells(line)) + "</tr>" for line in lines[2:]
    )
    return f'<table tabindex="0"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _list(lines: list[str]) -> str:
    items: list[str] = []
    ordered = bool(re.match(r"\s*\d", lines[0]))
    for line in lines:
        found = _ITEM.fullmatch(line)
        if found:
            items.append(found[3])
        else:
            items[-1] += " " + line.strip()
    tag = "ol" if ordered else "ul"
    return f"<{tag}>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + f"</{tag}>"
