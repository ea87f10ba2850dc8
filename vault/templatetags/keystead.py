"""Tags that draw the small parts of a page. See vault/web/__init__.py for how they are used, /styleguide for how they look."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import lucide as icons
from django import forms, template
from django.conf import settings
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import get_language, gettext, ngettext

from vault.browsers import browser_name
from vault.web.frame import Can
from vault.web.states import look

register = template.Library()


@register.simple_tag
def icon(name: str, size: int = 16, css: str = "") -> SafeString:
    """A Lucide icon, for the eye alone: words stand beside it or in an aria-label."""
    return _drawn(str(name), int(size), str(css))


@lru_cache(maxsize=1024)
def _drawn(name: str, size: int, css: str) -> SafeString:
    # Icons come from the package by names in our own templates and tables; nothing of a person's is in them.
    attributes = {"class": f"icon {css}".strip(), "aria-hidden": "true", "focusable": "false"}
    return mark_safe(icons._render_icon(name, size, **attributes))  # noqa: S308 - see above


@register.simple_tag
def pill(kind: str, state: Any, words: str = "") -> SafeString:
    """The state of a thing: {% pill "cloud_key" key.state %}; `words` replaces the usual ones ("Deletes in 12 days")."""
    found = look(kind, str(getattr(state, "value", state)))
    css = f"{found.level}{' gone' if found.gone else ''}"
    return format_html(
        '<span class="pill {}">{}{}</span>',
        css,
        icon(found.icon, 12, "spin" if found.moving else ""),
        words or gettext(found.word),
    )


@register.simple_tag
def health(level: str, words: str) -> SafeString:
    """A dot with words: {% health "ok" "Answers in 9 ms" %}. Levels: ok, info, warn, danger, neutral."""
    return format_html('<span class="health {}">{}</span>', level, words)


@register.filter
def browser(user_agent: str) -> str:
    """A User-Agent as a person says it: {{ session.user_agent|browser }}."""
    return browser_name(str(user_agent))


@register.simple_tag(takes_context=True)
def own_frame(context: Any) -> str:
    """What page.html needs, on a page whose view is not ours (django-allauth's)."""
    from vault.web.frame import shell, web_actor

    request = context["request"]
    actor = web_actor(request)
    context.update({"actor": actor, "vault": None, "shell": shell(request, actor)})
    return ""


@register.simple_tag
def simulated() -> SafeString:
    """The mark of everything that lives in the bundled AWS simulator."""
    return format_html('<span class="simulated">{}{}</span>', icon("flask-conical", 13), gettext("Simulated"))


@register.inclusion_tag("parts/copy.html")
def copy(value: Any, label: str = "", keep: int = 0, url: str = "") -> dict[str, Any]:
    """An identifier with a copy button; `keep` shortens it in the middle to so many characters at each end."""
    text = str(value)
    short = text if not keep or len(text) <= 2 * keep + 3 else f"{text[:keep]}…{text[-keep:]}"
    return {"value": text, "short": short, "label": label or gettext("Copy"), "url": url}


# --- time and numbers ---------------------------------------------------------------------------------------------


def _zone(context: Any) -> ZoneInfo:
    user = getattr(context.get("request"), "user", None)
    try:
        return ZoneInfo(getattr(user, "time_zone", "") or "UTC")
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


# fmt: off
_UNITS: tuple[tuple[int, Callable[[int], str]], ...] = (
    (86400 * 365, lambda count: ngettext("%(count)s year", "%(count)s years", count)),
    (86400 * 60, lambda count: ngettext("%(count)s month", "%(count)s months", count)),
    (86400, lambda count: ngettext("%(count)s day", "%(count)s days", count)),
    (3600, lambda count: ngettext("%(count)s hour", "%(count)s hours", count)),
    (60, lambda count: ngettext("%(count)s minute", "%(count)s minutes", count)),
    (1, lambda count: ngettext("%(count)s second", "%(count)s seconds", count)),
)
# fmt: on


@lru_cache(maxsize=2048)
def _told(language: str | None, length: int, count: int, ahead: bool) -> str:
    """in 12 days; kept by language, because a long list says the same amounts over and over."""
    amount = dict(_UNITS)[length](count) % {"count": count}
    told = gettext("in %(amount)s") if ahead else gettext("%(amount)s ago")
    return told % {"amount": amount}


def relative(at: datetime, now: datetime) -> str:
    """in 12 days, 3 hours ago."""
    seconds = (at - now).total_seconds()
    size = abs(seconds)
    if size >= 5:
        for length, _ in _UNITS:
            if size >= length:
                count = int(size // (86400 * 30.44)) if length == 86400 * 60 else int(size / length + 0.05)
                return _told(get_language(), length, count, seconds > 0)
    return gettext("now")


@register.simple_tag(takes_context=True)
def when(context: Any, at: Any, none: str = "") -> SafeString:
    """A moment as people say it, exact in the reader's own zone on hover: {% when key.last_used_at none="not yet" %}."""
    if not at:
        return format_html('<span class="soft">{}</span>', none or gettext("never"))
    if isinstance(at, str):
        at = datetime.fromisoformat(at)
    exact = at.astimezone(_zone(context))
    title = f"{exact.day} {exact:%b %Y, %H:%M:%S %Z}"
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        at.astimezone(ZoneInfo("UTC")).isoformat(),
        title,
        relative(at, timezone.now()),
    )


@register.simple_tag(takes_context=True)
def exact(context: Any, at: Any, none: str = "") -> SafeString:
    """A moment in the reader's own zone, in full."""
    if not at:
        return format_html('<span class="soft">{}</span>', none or gettext("never"))
    if isinstance(at, date) and not isinstance(at, datetime):
        return format_html('<time datetime="{}">{} {}</time>', at.isoformat(), at.day, f"{at:%b %Y}")
    here = at.astimezone(_zone(context))
    return format_html(
        '<time datetime="{}" title="{}">{} {}</time>',
        at.isoformat(),
        relative(at, timezone.now()),
        here.day,
        f"{here:%b %Y, %H:%M:%S %Z}",
    )


@register.filter
def number(value: Any) -> str:
    """12,480"""
    return "" if value is None else f"{value:,}"


@register.filter
def short_number(value: Any) -> str:
    """1.2 M"""
    if value is None:
        return ""
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (10_000, "k")):
        if abs(value) >= size:
            scaled = value / (1000 if unit == "k" else size)
            return f"{scaled:.1f}".removesuffix(".0") + f" {unit}"
    return f"{value:,}"


@register.filter
def bytes_size(value: Any) -> str:
    """4.2 MB"""
    size = float(value or 0)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return ""


@register.filter
def duration(value: Any) -> str:
    """90 days, 1.2 s, 340 ms; of a timedelta or of seconds."""
    seconds = value.total_seconds() if isinstance(value, timedelta) else float(value or 0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for length, words in _UNITS[2:5]:
        if seconds >= length and seconds % length == 0:
            count = int(seconds // length)
            return words(count) % {"count": count}
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds:.1f} s".replace(".0 s", " s")


@register.filter
def translated(text: Any) -> str:
    """A text of a table, marked by gettext_noop, where a tag wants a value: words=act.words|translated."""
    return gettext(str(text))


@register.filter
def get(mapping: Any, key: Any) -> Any:
    """mapping[key], or nothing."""
    return mapping.get(key) if hasattr(mapping, "get") else None


# --- forms --------------------------------------------------------------------------------------------------------


@register.inclusion_tag("parts/field.html")
def field(
    bound: forms.BoundField,
    unit: str = "",
    placeholder: str = "",
    autofocus: bool = False,
    hint: bool = True,
    needed: bool = False,
) -> dict[str, Any]:
    """Label, control, help and errors of one form field: {% field form.name unit="days" %}.

    `needed`: a field that the form itself asks for only in some cases, drawn in the case where it has to be filled.
    """
    widget = bound.field.widget
    described = [f"{bound.auto_id}-help"] if bound.help_text and hint else []
    described += [f"{bound.auto_id}-error"] if bound.errors else []
    extra: dict[str, Any] = (
        {"aria-describedby": " ".join(described)} if described else {"aria-describedby": None}
    )
    if bound.errors:
        extra["aria-invalid"] = "true"
    if placeholder:
        extra["placeholder"] = placeholder
    if autofocus:
        extra["autofocus"] = True
    if needed:
        extra["aria-required"] = "true"
    many = isinstance(widget, forms.RadioSelect | forms.CheckboxSelectMultiple)
    units: dict[str, str] = getattr(bound.form, "units", {})
    one_of: frozenset[str] = getattr(bound.form, "one_of", frozenset())
    return {
        "field": bound,
        "control": bound.as_widget(attrs={k: v for k, v in extra.items() if v is not None}),
        "unit": unit or gettext(units.get(bound.name, "")),
        "is_check": isinstance(widget, forms.CheckboxInput),
        "is_group": many,
        "is_password": isinstance(widget, forms.PasswordInput),
        "is_hidden": bound.is_hidden,
        "hint": bound.help_text if hint else "",
        "optional": not (
            needed or bound.field.required or bound.name in one_of or _always_filled(bound.field)
        ),
    }


def _always_filled(field: forms.Field) -> bool:
    """Whether nothing can be left out: a box that is ticked or not, a choice without an empty one."""
    if isinstance(field.widget, forms.CheckboxInput):
        return True
    if not isinstance(field, forms.ChoiceField) or isinstance(
        field, forms.ModelChoiceField | forms.MultipleChoiceField
    ):
        return False
    offered: Any = field.choices
    return all(str(value) for value, _ in offered)


@register.inclusion_tag("parts/form_problems.html", takes_context=True)
def form_problems(context: Any, form: Any) -> dict[str, Any]:
    """What is wrong with the whole form: a service's refusal, or what somebody else changed meanwhile."""
    return {"form": form, "request": context.get("request")}


# --- buttons ------------------------------------------------------------------------------------------------------


@register.inclusion_tag("parts/action.html")
def action(
    url: str,
    label: str,
    icon: str = "",
    can: Can | bool = True,
    style: str = "",
    dialog: bool = False,
    why_not: str = "",
) -> dict[str, Any]:
    """A link that looks like a button: {% action url "Disable key" icon="circle-pause" can=can_disable dialog=True %}.

    Disabled with its reason when `can` says no; `style` is primary, danger, plain, small or several of them; `dialog` opens
    the address in the dialog.
    """
    reason = why_not or (can.why_not if isinstance(can, Can) else "")
    return {
        "url": url,
        "label": label,
        "icon": icon,
        "allowed": bool(can),
        "why_not": reason,
        "style": style,
        "dialog": dialog,
    }


@register.simple_tag
def vault_url(name: str, vault: Any, **kwargs: Any) -> str:
    """An address in a vault; empty while that page does not exist."""
    values = {"vault_id": vault.pk, **kwargs}
    ids = {key: value for key, value in values.items() if isinstance(value, UUID)}
    try:
        pattern = _pattern(name, tuple(sorted(ids)), tuple((k, v) for k, v in values.items() if k not in ids))
    except NoReverseMatch:
        return ""
    for stand_in, key in zip(_STAND_INS, sorted(ids), strict=False):
        pattern = pattern.replace(str(stand_in), str(ids[key]))
    return pattern


_STAND_INS = tuple(uuid4() for _ in range(8))


@lru_cache(maxsize=512)
def _pattern(name: str, ids: tuple[str, ...], others: tuple[tuple[str, Any], ...]) -> str:
    """An address with stand-ins for its ids: a list of fifty rows asks for the same address fifty times. Raises NoReverseMatch."""
    return reverse(name, kwargs={**dict(zip(ids, _STAND_INS, strict=False)), **dict(others)})


@register.simple_tag
def page_url(name: str, **kwargs: Any) -> str:
    """An address that need not exist; empty then."""
    try:
        return reverse(name, kwargs=kwargs or None)
    except NoReverseMatch:
        return ""


@register.filter
def as_json(value: Any) -> str:
    """For a download or a copy button."""
    return json.dumps(value, indent=2, default=str)


@register.simple_tag
def htmx_config() -> str:
    """htmx without evaluated text, without styles of its own, and without another origin."""
    return json.dumps(
        {
            "allowEval": False,
            "includeIndicatorStyles": False,
            "selfRequestsOnly": True,
            "allowScriptTags": False,
            "historyCacheSize": 0,
            "refreshOnHistoryMiss": True,
            "timeout": 30000,
            "scrollIntoViewOnBoost": False,
            "debug": settings.DEBUG,
        }
    )


@register.filter
def initial(text: Any) -> str:
    """The first letter, for a tile."""
    return (str(text).strip()[:1] or "?").upper()
