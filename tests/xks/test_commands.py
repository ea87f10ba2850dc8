"""keystead xks rules and keystead xks limits, as they are typed."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from tests.cast import Cast
from tests.xks.matrix import RULES, owned_rules
from vault import cli, startup
from xks.models import AccessRuleSet, StoreLimits
from xks.shorthands import json_file, rate, version


@pytest.fixture(autouse=True)
def _one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    # The start's check ends with closing the connection, and with it this test's transaction.
    monkeypatch.setattr(startup, "check_root_key", lambda: None)


def run(*words: str) -> str:
    found = cli.resolve(words, cli.find_commands())
    assert found is not None
    name, rest = found
    out = io.StringIO()
    call_command(name, *rest, stdout=out, stderr=io.StringIO(), skip_checks=True)
    return out.getvalue()


def test_the_life_of_rules(cast: Cast, tmp_path: Path) -> None:
    rules = owned_rules(cast)
    AccessRuleSet.objects.all().delete()
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(RULES))
    made = json.loads(
        run(
            "xks",
            "rules",
            "create",
            "--store",
            "pay-hyok",
            "--rules",
            str(file),
            "--vault",
            "Payments",
            "--json",
        )
    )
    assert made["store"] == str(rules.store_id)
    name = ("pay-hyok", "--vault", "Payments")
    run("xks", "rules", "add-version", *name, "--rules", "[]", "--reason", "Ticket 2")
    run("xks", "rules", "shadow", *name, "--version", "1")
    run("xks", "rules", "enforce", *name, "--version", "2")
    row = AccessRuleSet.objects.get()
    assert row.enforced is not None
    assert row.shadowed is not None
    assert (row.enforced.number, row.shadowed.number) == (2, 1)
    table = run("xks", "rules", "versions", *name)
    assert "Ticket 2" in table
    assert "NUMBER" in table
    assert "pay-hyok" in run("xks", "rules", "list", "--vault", "Payments")
    run("xks", "rules", "enforce", *name, "--version", "none")
    row.refresh_from_db()
    assert row.enforced is None


def test_dry_run_and_check(cast: Cast, tmp_path: Path) -> None:
    owned_rules(cast)
    file = tmp_path / "requests.json"
    ada = "arn:aws:iam::111122223333:user/ada"
    file.write_text(json.dumps([{"principal_arn": ada}, {"principal_arn": "AWS Internal"}]))
    told = run(
        "xks", "rules", "dry-run", "pay-hyok", "--vault", "Payments", "--version", "1", "--requests", str(file)
    )  # fmt: skip
    assert "would have denied 1 of 2" in told
    assert "locks-everybody-out" in run(
        "xks", "rules", "check", "--rules", '[{"name": "x", "effect": "DENY"}]'
    )
    with pytest.raises(CommandError, match="rules"):
        run("xks", "rules", "check", "--rules", '[{"name": "x"}]')


def test_limits(cast: Cast) -> None:
    owned_rules(cast)
    run("xks", "limits", "set", "pay-hyok", "--vault", "Payments", "--requests-per-s", "100")
    assert StoreLimits.objects.get().requests_per_s == 100
    shown = json.loads(run("xks", "limits", "show", "pay-hyok", "--vault", "Payments", "--json"))
    assert (shown["requests_per_s"], shown["credential_requests_per_s"]) == (100, None)
    run("xks", "limits", "set", "pay-hyok", "--vault", "Payments", "--requests-per-s", "none")
    assert StoreLimits.objects.get().requests_per_s is None


@pytest.mark.parametrize(
    ("function", "text"),
    [(json_file, "/no/such/file"), (json_file, "[1,"), (version, "two"), (version, "²"), (rate, "fast")],
)
def test_bad_shorthands_are_explained(function: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        function(text)


def test_json_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("[1]"))
    assert json_file("-") == [1]
