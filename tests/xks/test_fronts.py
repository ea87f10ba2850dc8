"""Whose word is taken for where a request comes from."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from xks.fronts import Fronts


@dataclass
class Heads:
    """A request's headers, as granian gives them."""

    values: list[str] = field(default_factory=list)

    def get_all(self, name: str) -> list[str]:
        return self.values if name == "x-forwarded-for" else []


@dataclass
class Request:
    client: str
    headers: Heads


@pytest.mark.parametrize(
    ("client", "told", "expected"),
    [
        ("10.0.0.5:4711", ["192.0.2.9"], "192.0.2.9"),
        ("10.0.0.5:4711", ["203.0.113.1, 192.0.2.9"], "192.0.2.9"),
        ("10.0.0.5:4711", ["203.0.113.1", "192.0.2.9"], "192.0.2.9"),
        ("10.0.0.5:4711", ["2001:db8::7"], "[2001:db8::7]"),
        ("10.0.0.5:4711", ["somewhere"], "10.0.0.5"),
        ("10.0.0.5:4711", [], "10.0.0.5"),
        ("[2001:db8::1]:4711", ["192.0.2.9"], "192.0.2.9"),
        ("198.51.100.1:4711", ["192.0.2.9"], "198.51.100.1"),
        ("[2001:db8::2]:4711", ["192.0.2.9"], "[2001:db8::2]"),
    ],
)
def test_only_a_trusted_front_is_believed(client: str, told: list[str], expected: str) -> None:
    fronts = Fronts(["10.0.0.0/24", "2001:db8::1"])
    assert fronts.source(Request(client, Heads(told))) == expected  # type: ignore[arg-type]


def test_without_fronts_nobody_is() -> None:
    assert Fronts().source(Request("10.0.0.5:1", Heads(["192.0.2.9"]))) == "10.0.0.5"  # type: ignore[arg-type]


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(ValueError, match="nowhere"):
        Fronts(["nowhere"])
