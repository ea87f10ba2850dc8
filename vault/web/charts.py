"""Charts as SVG made on the server, each with words for who does not see it and its numbers in a table behind.

The drawing stretches to its place (no text inside); scales and legends are HTML beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from django.template.loader import render_to_string
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext

_W, _H = 720.0, 120.0
_COLOURS = 6


@dataclass(frozen=True)
class Series:
    """A name and one number for each place on the axis; None is a gap."""

    name: str
    values: Sequence[float | int | None]


def _number(value: float | int | None) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 100 else f"{value:,.1f}"


def _day(at: date | datetime) -> str:
    if isinstance(at, datetime):
        return f"{at.day} {at:%b %H:%M}"
    return f"{at.day} {at:%b}"


def _figure(
    svg: SafeString,
    title: str,
    words: str,
    places: Sequence[Any],
    series: Sequence[Series],
    unit: str,
    top: float,
) -> SafeString:
    labels = [_day(place) if isinstance(place, date) else str(place) for place in places]
    rows = [(label, [_number(s.values[i]) for s in series]) for i, label in enumerate(labels)]
    return render_to_string(
        "parts/chart.html",
        {
            "svg": svg,
            "title": title,
            "words": words,
            "series": list(enumerate(series, 1)),
            "rows": rows,
            "unit": unit,
            "top": _number(top),
            "labels": (labels[0], labels[len(labels) // 2], labels[-1]) if labels else (),
        },
    )


def bars(
    title: str, places: Sequence[date | datetime], series: Sequence[Series], *, unit: str = ""
) -> SafeString:
    """Stacked bars, one a day (or hour): series are services, kinds, outcomes. At most six; join the rest as "Other"."""
    series = list(series)[:_COLOURS]
    totals = [sum(s.values[i] or 0 for s in series) for i in range(len(places))]
    top = max([*totals, 0]) or 1
    step = _W / max(len(places), 1)
    width = max(step * 0.72, 1.0)
    parts: list[SafeString] = []
    for i, place in enumerate(places):
        x, y = i * step + (step - width) / 2, _H
        for number, s in enumerate(series, 1):
            height = (s.values[i] or 0) / top * (_H - 4)
            if height <= 0:
                continue
            y -= height
            parts.append(
                format_html(
                    '<rect class="f{}" x="{}" y="{}" width="{}" height="{}"/>',
                    number,
                    f"{x:.1f}",
                    f"{y:.1f}",
                    f"{width:.1f}",
                    f"{height:.1f}",
                )
            )
        told = ", ".join(f"{s.name} {_number(s.values[i])}" for s in series if s.values[i])
        parts.append(
            format_html(
                '<rect class="hit" x="{}" y="0" width="{}" height="{}"><title>{}: {}{}</title></rect>',
                f"{i * step:.1f}",
                f"{step:.1f}",
                f"{_H:.0f}",
                _day(place),
                told or "none",
                f" {unit}" if unit else "",
            )
        )
    words = f"{title}: {_number(sum(totals))} {unit} in all, at most {_number(max([*totals, 0]))}.".replace(
        "  ", " "
    )
    return _figure(_svg(parts, words), title, words, places, series, unit, max([*totals, 0]))


def lines(
    title: str, places: Sequence[date | datetime], series: Sequence[Series], *, unit: str = ""
) -> SafeString:
    """Lines over time, such as p50 and p99; gaps stay gaps."""
    series = list(series)[:3]
    values = [v for s in series for v in s.values if v is not None]
    top = max([*values, 0]) or 1
    step = _W / max(len(places) - 1, 1)
    parts: list[SafeString] = []
    for number, s in enumerate(series, 1):
        path, dots, pen_down = [], [], False
        for i, value in enumerate(s.values):
            if value is None:
                pen_down = False
                continue
            at = f"{i * step:.1f} {_H - value / top * (_H - 6):.1f}"
            if not pen_down and (i + 1 == len(s.values) or s.values[i + 1] is None):
                # A value between two gaps is a dot: a line that goes nowhere, with round ends, and thick enough to be seen.
                dots.append(f"M{at}L{at}")
            path.append(f"L{at}" if pen_down else f"M{at}L{at}")
            pen_down = True
        if dots:
            parts.append(format_html('<path class="line dot l{}" d="{}"/>', number, " ".join(dots)))
        parts.append(format_html('<path class="line l{}" d="{}"/>', number, " ".join(path)))
    for i, place in enumerate(places):
        told = ", ".join(f"{s.name} {_number(s.values[i])} {unit}".strip() for s in series)
        parts.append(
            format_html(
                '<rect class="hit" x="{}" y="0" width="{}" height="{}"><title>{}: {}</title></rect>',
                f"{i * step - step / 2:.1f}",
                f"{step:.1f}",
                f"{_H:.0f}",
                _day(place),
                told,
            )
        )
    told = "; ".join(
        (
            gettext("%(name)s at most %(max)s %(unit)s")
            % {
                "name": s.name,
                "max": _number(max((v for v in s.values if v is not None), default=None)),
                "unit": unit,
            }
        ).strip()
        for s in series
    )
    words = f"{title}: {told}."
    return _figure(_svg(parts, words), title, words, places, series, unit, max([*values, 0]))


def _svg(parts: Iterable[SafeString], words: str) -> SafeString:
    inside = format_html_join("", "{}", ((part,) for part in parts))
    return format_html(
        '<svg viewBox="0 0 {} {}" width="{}" height="{}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<line class="axis" x1="0" x2="{}" y1="{}" y2="{}"/>{}</svg>',
        f"{_W:.0f}",
        f"{_H:.0f}",
        f"{_W:.0f}",
        f"{_H:.0f}",
        words,
        f"{_W:.0f}",
        f"{_H:.0f}",
        f"{_H:.0f}",
        inside,
    )


@dataclass(frozen=True)
class Due:
    """What falls on one day of a calendar strip. `count` where the words sum up more things than there are words."""

    day: date
    words: tuple[str, ...]
    count: int = 0

    @property
    def things(self) -> int:
        """How many things fall due."""
        return self.count or len(self.words)


def calendar(title: str, days: Sequence[date], due: Iterable[Due]) -> SafeString:
    """A strip of days, darker where more falls due; the table behind lists what."""
    due = list(due)
    by_day = {entry.day: entry.words for entry in due}
    things = {entry.day: entry.things for entry in due}
    step = _W / max(len(days), 1)
    parts: list[SafeString] = []
    for i, day in enumerate(days):
        words = by_day.get(day, ())
        shade = min(things.get(day, 0), 3)
        parts.append(
            format_html(
                '<rect class="cell{}" x="{}" y="4" width="{}" height="32" rx="2"><title>{}: {}</title></rect>',
                shade,
                f"{i * step + 1:.1f}",
                f"{max(step - 2, 1):.1f}",
                _day(day),
                ", ".join(words[:12]) or "nothing due",
            )
        )
    count = sum(things.values())
    told = gettext("%(title)s: %(count)s in %(days)s days.") % {
        "title": title,
        "count": f"{count:,}",
        "days": len(days),
    }
    svg = format_html(
        '<svg viewBox="0 0 {} 40" width="{}" height="40" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>',
        f"{_W:.0f}",
        f"{_W:.0f}",
        told,
        format_html_join("", "{}", ((part,) for part in parts)),
    )
    labels = [_day(day) for day in days]
    return render_to_string(
        "parts/chart.html",
        {
            "svg": svg,
            "title": title,
            "words": told,
            "strip": True,
            "rows": [(_day(day), [", ".join(words)]) for day, words in sorted(by_day.items()) if words],
            "series": [(1, Series(gettext("Due"), ()))],
            "labels": (labels[0], labels[len(labels) // 2], labels[-1]) if labels else (),
        },
    )


def sparkline(values: Sequence[float | int], words: str) -> SafeString:
    """A line the size of a word, for a table's cell."""
    if not values:
        return mark_safe("")
    top = max(values) or 1
    step = 96 / max(len(values) - 1, 1)
    path = " ".join(
        f"{'M' if i == 0 else 'L'}{i * step:.1f} {22 - value / top * 20:.1f}"
        for i, value in enumerate(values)
    )
    return format_html(
        '<svg class="spark" viewBox="0 0 96 24" width="96" height="24" role="img" aria-label="{}"><title>{}</title>'
        '<path class="line l1" d="{}"/></svg>',
        words,
        words,
        path,
    )
