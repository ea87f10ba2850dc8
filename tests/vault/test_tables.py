"""Answers as text."""

from __future__ import annotations

from typing import Any

import pytest

from vault import tables


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (False, "no"),
        (3, "3"),
        ("x", "x"),
        (["a", "b"], "a, b"),
        ({"id": "1", "name": "Ada"}, "Ada"),
        ({"id": "1", "name": "Ada", "state": "OK"}, "id=1, name=Ada, state=OK"),
        ({"kind": "every", "every": 90, "unit": "days"}, "every every=90 unit=days"),
        ({"kind": "never"}, "never"),
        ([{"id": "1", "name": "Ada"}], "Ada"),
    ],
)
def test_values(value: Any, text: str) -> None:
    assert tables.text_of(value) == text


def test_table() -> None:
    rows = [{"name": "a", "set": {"id": "1", "name": "pay"}}, {"name": "much longer", "set": None}]
    assert tables.table(rows, ("name", "set")) == [
        "NAME         SET",
        "a            pay",
        "much longer",
        "2 rows",
    ]
    assert tables.table([], ("name",)) == ["None."]
    assert tables.table([{"name": "x" * 100}], ("name",))[1] == "x" * 57 + "..."
    assert tables.table([{"a": {"b": 1}}], ("a.b",)) == ["A B", "1", "1 row"]


def test_confirmation() -> None:
    complete = {
        "confirmed": 2,
        "counted": 2,
        "milliseconds": 9,
        "complete": True,
        "missing": [],
        "bound_s": 60.0,
    }
    assert tables.confirmation_lines(complete) == ["Confirmed by 2 of 2 XKS worker processes after 9 ms."]
    late = {**complete, "confirmed": 1, "complete": False, "missing": ["node-a pid 5"]}
    assert tables.confirmation_lines(late)[1] == (
        "NOT CONFIRMED by node-a pid 5. They refuse by themselves within 60 s of the change at the latest."
    )


def test_operation_by_its_state() -> None:
    work = {"id": "op", "kind": "cloud_key.provision", "state": "RUNNING", "error": None}
    assert "keystead operation watch op" in tables.operation_lines(work)[0]
    assert tables.operation_lines({**work, "state": "SUCCEEDED"}) == ["Operation cloud_key.provision: done."]
    failed = {**work, "state": "FAILED", "error": {"cause": "Denied.", "cure": "Allow it."}}
    assert tables.operation_lines(failed) == [
        "Operation cloud_key.provision ended FAILED. Denied. Allow it.",
        "Its id is op.",
    ]


def test_problem_names_options() -> None:
    problem = {
        "detail": "No.",
        "cure": "Do.",
        "errors": [{"field": "admin_email", "message": "Wrong.", "cure": "Mend."}],
    }
    assert tables.problem_lines(problem) == ["--admin-email: Wrong. Mend."]
    assert tables.problem_lines({"detail": "No.", "cure": "Do."}) == ["No. Do."]


def test_detail_leaves_out_what_is_empty_and_marks_what_is_shown_once() -> None:
    lines = tables.detail_lines(
        {"id": "1", "note": "", "secret_access_key": "s", "steps": [], "console_file": {}}
    )
    assert lines == ["id                 1", "secret access key  s   (shown this once)"]


def test_detail_of_a_change_is_one_line() -> None:
    key = {"id": "1", "name": "cards", "state": "ENABLED", "blocked": True, "pointer_state": "LINKED"}
    assert tables.detail_lines({"cloud_key": key, "operation": None, "confirmation": None}) == [
        "Cloud key cards: ENABLED, BLOCKED, LINKED   (1)"
    ]


def test_detail_of_health_and_lists() -> None:
    check = {"result": "denied", "action": "kms:CreateKey", "feature": "Create CloudKey", "detail": ""}
    lines = tables.detail_lines(
        {"health_detail": {"error": None, "checks": [check]}, "links": [], "workers": [{"pid": 1}]}
    )
    assert lines == [
        "Health:", "  denied   kms:CreateKey  (Create CloudKey)", "Links:", "  none", "Workers:", "  pid=1",
    ]  # fmt: skip
    assert tables.detail_lines([{"a": 1}, {"a": 2}]) == ["a  1", "", "a  2"]
    assert tables.detail_lines({"items": [{"a": 1}]}) == ["a  1"]
