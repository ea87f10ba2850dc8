"""Answers of the API as text for people: tables, details, problems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_SHOWN_ONCE = ("one_time_password", "secret_access_key")
_WIDEST = 60


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path; None when any part is missing."""
    found: Any = row
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def values(row: Mapping[str, Any], paths: Iterable[str]) -> list[Any]:
    """The values at several paths."""
    return [value_at(row, path) for path in paths]


def text_of(value: Any) -> str:
    """A value as a person reads it: references by name, lists joined, nothing for null."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case {"kind": str(kind), **rest}:
            return " ".join([kind, *(f"{name}={text_of(item)}" for name, item in rest.items())])
        case {"id": _, "name": str(name)} if len(value) == 2:
            return name
        case Mapping():
            return ", ".join(f"{name}={text_of(item)}" for name, item in value.items())
        case list() | tuple():
            return ", ".join(text_of(item) for item in value)
        case _:
            return str(value)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Rows under headings, and how many there are."""
    heads = [column.replace("_", " ").replace(".", " ").upper() for column in columns]
    cells = [[_short(text_of(value_at(row, column))) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in [heads, *cells]) for index in range(len(columns))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in ([heads, *cells] if cells else [])
    ]
    count = len(rows)
    return [*lines, f"{count} {'row' if count == 1 else 'rows'}" if count else "None."]


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def detail_lines(data: Any) -> list[str]:
    """One answer in lines; what stands beside an object (operation, confirmation) comes in words after it."""
    if isinstance(data, list):
        return [line for item in data for line in [*detail_lines(item), ""]][:-1]
    if not isinstance(data, Mapping):
        return [text_of(data)]
    if set(data) == {"items"}:
        return detail_lines(data["items"])
    lines: list[str] = []
    flat: dict[str, Any] = {}
    for name, value in data.items():
        match name:
            case "operation" | "confirmation" | "idempotency_replayed":
                continue
            case "operations":
                lines += [line for work in value for line in operation_lines(work)]
            case "steps":
                lines += [f"  {step['label']}: {step['state'].lower()}" for step in value]
            case "cloud_key" | "link" | "store" if isinstance(value, Mapping):
                lines.append(summary_line(name, value))
            case "health_detail" if isinstance(value, Mapping):
                lines += _health_lines(value)
            case "credential" | "create_key_step" if isinstance(value, Mapping):
                lines += [f"{name.replace('_', ' ').capitalize()}:", *_indented(detail_lines(value))]
            case "credentials" | "links" | "workers" | "alarms":
                lines += [
                    f"{name.capitalize()}:",
                    *([f"  {_one_line(item)}" for item in value] or ["  none"]),
                ]
            case "console_file":
                continue
            case _:
                flat[name] = value
    shown = {name: text_of(value) for name, value in flat.items() if text_of(value)}
    width = max((len(name) for name in shown), default=0)
    head = [
        f"{name.replace('_', ' ').ljust(width)}  {text}{'   (shown this once)' if name in _SHOWN_ONCE else ''}"
        for name, text in shown.items()
    ]
    after: list[str] = []
    if data.get("confirmation"):
        after += confirmation_lines(data["confirmation"])
    if data.get("operation"):
        after += operation_lines(data["operation"])
    return [*head, *lines, *after]


def summary_line(kind: str, row: Mapping[str, Any]) -> str:
    """What became of an object, in one line."""
    name = text_of(row.get("name") or row.get("key_set"))
    parts = [row.get("state", ""), "BLOCKED" if row.get("blocked") else "", row.get("pointer_state", "")]
    told = ", ".join(part for part in parts if part) or "as it was"
    return f"{kind.replace('_', ' ').capitalize()} {name}: {told}   ({row['id']})"


def _health_lines(detail: Mapping[str, Any]) -> list[str]:
    error = detail.get("error")
    lines = [f"  {text_of(error)}"] if error else []
    lines += [
        f"  {check['result']:<8} {check['action']}  ({check['feature']}) {check['detail']}".rstrip()
        for check in detail.get("checks") or []
    ]
    return ["Health:", *lines] if lines else []


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _one_line(item: Any) -> str:
    if not isinstance(item, Mapping):
        return text_of(item)
    return "  ".join(f"{name}={text_of(value)}" for name, value in item.items() if text_of(value))


def confirmation_lines(confirmation: Mapping[str, Any]) -> list[str]:
    """How far the data plane has followed."""
    head = (
        f"Confirmed by {confirmation['confirmed']} of {confirmation['counted']} XKS worker processes"
        f" after {confirmation['milliseconds']} ms."
    )
    if confirmation["complete"]:
        return [head]
    missing = ", ".join(confirmation["missing"])
    bound = f"They refuse by themselves within {confirmation['bound_s']:.0f} s of the change at the latest."
    return [head, f"NOT CONFIRMED by {missing}. {bound}"]


def operation_lines(work: Mapping[str, Any]) -> list[str]:
    """What is being done, or was."""
    if work["state"] == "SUCCEEDED":
        return [f"Operation {work['kind']}: done."]
    if work["state"] in ("WAITING", "RUNNING"):
        return [f"Operation {work['kind']} has begun. Follow it: keystead operation watch {work['id']}"]
    return failed_operation_lines(work)


def failed_operation_lines(work: Mapping[str, Any]) -> list[str]:
    """Why an Operation did not succeed."""
    error = work["error"] or {}
    told = " ".join(text for text in (error.get("cause", ""), error.get("cure", "")) if text)
    return [f"Operation {work['kind']} ended {work['state']}. {told}".rstrip(), f"Its id is {work['id']}."]


def problem_lines(problem: Mapping[str, Any]) -> list[str]:
    """An RFC 9457 problem in lines: cause and cure, each wrong field by its option."""
    errors = problem.get("errors") or []
    if errors:
        return [
            f"--{str(each['field']).replace('_', '-')}: {each['message']} {each['cure']}".rstrip()
            for each in errors
        ]
    return [f"{problem['detail']} {problem.get('cure', '')}".rstrip()]
