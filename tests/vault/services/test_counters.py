"""Counters in the cache."""

from __future__ import annotations

import pytest

from vault.actors import Actor
from vault.errors import RateLimited, SignInFailed
from vault.secret import Secret
from vault.services import sessions
from vault.services.counters import caller_of, count_one, counted, forget


def test_a_counter_outlives_many_others() -> None:
    """Otherwise a stranger wipes out the count of their wrong passwords by trying many addresses."""
    try:
        # The cache in memory drops a third of its entries, by age, whenever it is full.
        count_one("test-counter:first", 60)
        for number in range(2000):
            count_one(f"test-counter:{number}", 60)
        assert counted("test-counter:first") == 1
    finally:
        for name in ["first", *range(2000)]:
            forget(f"test-counter:{name}")


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        (None, "local"),
        ("", "local"),
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff::9", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("not an address", "not an address"),
    ],
)
def test_callers_are_counted_by_what_one_subscriber_has(address: str | None, caller: str) -> None:
    assert caller_of(address) == caller


@pytest.mark.django_db
def test_wrong_passwords_from_one_ipv6_network_count_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_FAILURES_ADDRESS", 3)
    for number in range(3):
        with pytest.raises(SignInFailed):
            _try(f"2001:db8::{number:x}", number)
    with pytest.raises(RateLimited):
        _try("2001:db8::ffff", 9)
    with pytest.raises(SignInFailed):
        _try("2001:db8:0:1::1", 9)


def _try(address: str, number: int) -> None:
    actor = Actor(user=None, via="api", source_ip=address, request_id="r")
    sessions.verify_password(actor, f"nobody{number}@acme.test", Secret("wrong"))
