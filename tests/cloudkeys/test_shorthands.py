"""JSON in short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudkeys import shorthands


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("none", {"kind": "none"}),
        ("inherited", {"kind": "inherited"}),
        ("90d", {"kind": "every", "every": 90, "unit": "days"}),
        ("6w@3", {"kind": "every", "every": 6, "unit": "weeks", "hour": 3}),
        (
            "12m@3/Europe/Berlin",
            {"kind": "every", "every": 12, "unit": "months", "hour": 3, "time_zone": "Europe/Berlin"},
        ),
        ('{"kind": "none"}', {"kind": "none"}),
    ],
)
def test_schedule(text: str, value: Any) -> None:
    assert shorthands.schedule(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("never", {"kind": "never"}),
        ("inherited", {"kind": "inherited"}),
        ("365d", {"kind": "after", "days": 365, "then": "disable"}),
        ("365d:delete", {"kind": "after", "days": 365, "then": "delete"}),
        ("2027-01-31", {"kind": "on", "at": "2027-01-31T00:00:00Z", "then": "disable"}),
        ("2027-01-31T12:00:00Z", {"kind": "on", "at": "2027-01-31T12:00:00Z", "then": "disable"}),
        ("2027-01-31:delete", {"kind": "on", "at": "2027-01-31T00:00:00Z", "then": "delete"}),
        ('{"kind": "never"}', {"kind": "never"}),
    ],
)
def test_expiration(text: str, value: Any) -> None:
    assert shorthands.expiration(text) == value


def test_tags_and_links() -> None:
    assert shorthands.tags(["a=b=c", "d="]) == {"a": "b=c", "d": ""}
    assert shorthands.links(["eu-west-1", "us-east-1:unlinked", '{"region": "x"}']) == [
        {"region": "eu-west-1", "linked": True},
        {"region": "us-east-1", "linked": False},
        {"region": "x"},
    ]


def test_file_content(tmp_path: Path) -> None:
    (tmp_path / "keys.csv").write_text("name,region\n")
    assert shorthands.file_content(str(tmp_path / "keys.csv")) == "name,region\n"
    with pytest.raises(ValueError, match="No such file"):
        shorthands.file_content(str(tmp_path / "other.csv"))


@given(st.text())
def test_anything_else_is_refused_in_words(text: str) -> None:
    for parse in (shorthands.schedule, shorthands.expiration):
        try:
            found = parse(text)
        except ValueError as error:
            found = {"kind": str(error)}
        assert found["kind"]


@pytest.mark.parametrize("text", ["", "often", "90", "90d:delete", "0x1d", "{", "[1]"])
def test_wrong_schedules(text: str) -> None:
    with pytest.raises(ValueError, match=r"schedule|JSON"):
        shorthands.schedule(text)


@pytest.mark.parametrize("item", ["=x", "x", ""])
def test_wrong_tags(item: str) -> None:
    with pytest.raises(ValueError, match="NAME=VALUE"):
        shorthands.tags([item])


def test_wrong_links() -> None:
    with pytest.raises(ValueError, match="REGION"):
        shorthands.links(["eu-west-1:later"])
