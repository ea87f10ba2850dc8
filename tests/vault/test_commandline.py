"""The API as commands: what is sent, who acts, what is found by name, what people read."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.urls import get_resolver
from django.utils import timezone

from cloudkeys.models import CloudKey, CspAccount
from tests.cast import Cast
from vault import cli, local_api, startup
from vault.actors import Actor
from vault.commandline import ANY_ID, COLLECTIONS, EXIT_NOT_CONFIRMED, GroupCommand
from vault.errors import NotFound
from vault.generations import Confirmation, Missing
from vault.keys import unseal
from vault.models import AuditEvent, Vault

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"  # AWS's own example
GROUPS = (
    "vault", "audit", "xks_node", "csp_account", "key_set", "xks_store", "xks_link", "xks_rules", "xks_limits", "xks_doctor", "xks_request",
    "xks_certificate",
    "cloud_key", "operation", "system", "hsm",
)  # fmt: skip
# Operations that are no commands, and why.
NOT_COMMANDS = {
    "one_time_passwords_issue": "keystead vault reset-password",
    "auth_": "who may read the data folder needs no sign-in, session or token",
    "saved_views_": "they belong to pages",
    "cloud_keys_bulk": "a shell has loops",
    "nodes_accept_rollback": "keystead xks accept-rollback",
    "cloud_keys_disable_proof": "keystead audit prove-disable",
    "vaults_destroy": "left to a person at the API, with the vault's admin",
    "vaults_destruction": "left to a person at the API, with the vault's admin",
    "key_sets_schedule_effects": "a form asks it before it changes anything",
    "system_test_mail": "it goes to the person who asks, and a command has none",
    "groups_": "lists and names only; rights are seen better on a page",
    "audit_events_export": "audit list --json",
}


def command(name: str) -> GroupCommand:
    """A group's command."""
    found = cli.load(name, cli.find_commands()[name])
    assert isinstance(found, GroupCommand)
    return found


def run(*words: str, stdin: str | None = None, monkeypatch: pytest.MonkeyPatch | None = None) -> str:
    """Run a command as it is typed; return what it prints."""
    found = cli.resolve(words, cli.find_commands())
    assert found is not None
    name, rest = found
    out = io.StringIO()
    if stdin is not None and monkeypatch is not None:
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    call_command(name, *rest, stdout=out, stderr=io.StringIO(), skip_checks=True)
    return out.getvalue()


def add_account(tmp_path: Path) -> Any:
    """Add a CSP account to the vault Payments by command."""
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n")
    return json.loads(
        run(
            "csp-account", "add", "--vault", "Payments", "--name", "aws-prod", "--access-key-id", "AKIAIOSFODNN7EXAMPLE",
            "--secret-access-key-file", str(secret), "--default-region", "eu-west-1", "--json",
        )
    )  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_every_verb_leads_to_an_operation_of_the_api(name: str) -> None:
    for verb in command(name).verbs:
        declared = local_api.declaration(
            verb.method, verb.path.format_map(dict.fromkeys(COLLECTIONS, ANY_ID))
        )
        assert declared.summary
        if verb.columns:
            assert declared.listing is not None, verb
        else:
            assert declared.listing is None or verb.arguments, verb
        command(name).create_parser("keystead", name)


def test_every_operation_of_the_api_is_a_command_or_has_a_reason_not_to_be() -> None:
    reached = {
        local_api.declaration(
            verb.method, verb.path.format_map(dict.fromkeys(COLLECTIONS, ANY_ID))
        ).operation_id
        for name in GROUPS
        for verb in command(name).verbs
    }
    known = set()
    for view in _views():
        for method in ("get", "post", "put", "patch", "delete"):
            declared = getattr(getattr(view, method, None), "declared", None)
            if declared is not None:
                known.add(declared.operation_id)
    # Give a new operation a row in its group's table (vault/commandline.py), or its reason above.
    unreached = {id for id in known - reached if not any(id.startswith(reason) for reason in NOT_COMMANDS)}
    assert unreached == set()


def _views() -> list[Any]:
    def walk(patterns: Any) -> Any:
        for item in patterns:
            if hasattr(item, "url_patterns"):
                yield from walk(item.url_patterns)
            elif hasattr(item.callback, "view_class"):
                yield item.callback.view_class

    return list(walk(get_resolver().url_patterns))


@pytest.fixture
def _one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the start's check out, which ends with closing the connection, and with it this test's transaction."""
    monkeypatch.setattr(startup, "check_root_key", lambda: None)


@pytest.mark.usefixtures("cast", "_one_connection")
class TestCommands:
    """Against the cast's installation."""

    def test_local_operator_may_do_everything_and_is_named_in_the_record(self, cast: Cast) -> None:
        shown = run("vault", "block", "Payments", "--reason", "Incident 7")

        assert "Confirmed by 0 of 0" in shown
        assert Vault.objects.get(name="Payments").blocked
        event = AuditEvent.objects.get(action="vault:vault:block")
        assert (event.actor_type, event.via, event.reason) == ("system", "cli", "Incident 7")
        assert "@" in event.actor_name
        assert event.request_id

    def test_acting_as_somebody_has_their_rights_only(self, cast: Cast) -> None:
        with pytest.raises(CommandError, match="Auditor"):
            run("vault", "block", "Payments", "--reason", "x", "--as", "auditor@example.com")

        assert not Vault.objects.get(name="Payments").blocked
        run("vault", "block", "Payments", "--reason", "x", "--as", "OWNER@example.com")
        event = AuditEvent.objects.get(action="vault:vault:block")
        assert (event.actor_type, event.actor_name, event.via) == ("user", "owner@example.com", "cli")

    def test_outsider_does_not_even_find_it(self, cast: Cast) -> None:
        with pytest.raises(CommandError, match="There is no vault named 'Payments'"):
            run("vault", "show", "Payments", "--as", "outsider@example.com")
        with pytest.raises(CommandError, match="no such vault, or it is not yours"):
            run("vault", "show", str(cast.vault.pk), "--as", "outsider@example.com")

    def test_nobody_of_that_address(self, cast: Cast) -> None:
        with pytest.raises(NotFound):
            run("vault", "list", "--as", "nobody@example.com")

    def test_list_as_table_and_as_json(self, cast: Cast) -> None:
        lines = run("vault", "list").splitlines()
        assert lines[0].split()[:2] == ["NAME", "STATE"]
        assert lines[-1] == "2 rows"
        assert {row["name"] for row in json.loads(run("vault", "list", "--json"))} == {
            "Payments",
            "Elsewhere",
        }

    def test_filters_order_and_limit(self, cast: Cast) -> None:
        ordered = json.loads(run("vault", "list", "--order", "name", "--reverse", "--json"))
        assert [row["name"] for row in ordered] == ["Payments", "Elsewhere"]
        assert len(json.loads(run("vault", "list", "--limit", "1", "--json"))) == 1
        assert run("vault", "list", "--search", "nothing").strip() == "None."

    def test_list_reads_every_page(self, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vault.commandline.PAGE", 1)
        assert len(json.loads(run("vault", "list", "--json"))) == 2

    def test_vault_must_be_named_when_there_are_several(self, cast: Cast) -> None:
        with pytest.raises(CommandError, match="several vaults"):
            run("cloud-key", "list")

    def test_only_vault_need_not_be_named(self, cast: Cast) -> None:
        Vault.objects.filter(name="Elsewhere").update(state="DESTROYED")
        assert run("cloud-key", "list").strip() == "None."

    def test_one_time_password_is_shown_once(self, cast: Cast) -> None:
        shown = run(
            "vault", "create", "--name", "New", "--admin-name", "Bob", "--admin-email", "bob@example.com"
        )
        assert "(shown this once)" in shown

    def test_secret_comes_from_a_file_and_is_sealed(self, cast: Cast, tmp_path: Path) -> None:
        made = add_account(tmp_path)
        row = CspAccount.objects.get(pk=made["id"])
        assert unseal(row, "secret_access_key").reveal_text() == SECRET

    def test_secret_comes_from_standard_input(self, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
        run(
            "csp-account", "add", "--vault", "Payments", "--name", "piped", "--access-key-id", "AKIAIOSFODNN7EXAMPLE",
            "--secret-access-key-file", "-", "--default-region", "eu-west-1",
            stdin=f"{SECRET}\n", monkeypatch=monkeypatch,
        )  # fmt: skip
        row = CspAccount.objects.get(name="piped")
        assert unseal(row, "secret_access_key").reveal_text() == SECRET

    def test_secret_left_out_without_a_terminal(self, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(""))
        with pytest.raises(CommandError, match="--secret-access-key-file"):
            run(
                "csp-account", "add", "--vault", "Payments", "--name", "x", "--access-key-id", "AKIAIOSFODNN7EXAMPLE",
                "--default-region", "eu-west-1",
            )  # fmt: skip

    def test_key_set_and_key_with_names_and_shorthands(self, cast: Cast, tmp_path: Path) -> None:
        add_account(tmp_path)
        made = json.loads(
            run(
                "key-set", "create", "--vault", "Payments", "--name", "pay", "--csp-account", "aws-prod",
                "--use-as-external-key-store", "--links", "eu-west-1:unlinked", "--rotation-schedule", "90d@3",
                "--json",
            )
        )  # fmt: skip
        assert made["credential"]["secret_access_key"]
        assert made["rotation_schedule"]["every"] == 90
        shown = run(
            "cloud-key", "create", "--vault", "Payments", "--key-set", "pay", "--name", "cards", "--region",
            "eu-west-1", "--tags", "team=pay", "--expiration", "365d:delete",
        )  # fmt: skip
        assert "Cloud key cards: ENABLED, NOT_LINKED" in shown
        assert "aws kms create-key" in shown
        key = CloudKey.objects.get(name="cards")
        assert key.tags == {"team": "pay"}
        assert key.expiration["then"] == "delete"
        shown = run("cloud-key", "disable", "alias/cards", "--vault", "Payments", "--reason", "test")
        assert "Cloud key cards: DISABLED" in shown
        assert run("cloud-key", "show", "cards", "--vault", "Payments").startswith("id ")
        assert "cards" in run("cloud-key", "export", "--vault", "Payments", "--format", "csv")
        assert "pay" in run("xks", "store", "show", "pay", "--vault", "Payments")
        versions = json.loads(run("cloud-key", "versions", str(key.pk), "--json"))
        assert [version["number"] for version in versions] == [1]

    def test_unknown_and_ambiguous_names(self, cast: Cast) -> None:
        with pytest.raises(CommandError, match="There is no key named 'nope'"):
            run("cloud-key", "show", "nope", "--vault", "Payments")
        with pytest.raises(CommandError, match="no id"):
            run("operation", "show", "nope")

    def test_wrong_field_is_told_by_its_option(self, cast: Cast) -> None:
        with pytest.raises(CommandError, match="--admin-email: "):
            run("vault", "create", "--name", "New", "--admin-name", "Bob", "--admin-email", "no address")
        assert not Vault.objects.filter(name="New").exists()

    def test_wrong_shorthand_is_told_by_its_option(self, cast: Cast) -> None:
        with pytest.raises(CommandError, match="--rotation-schedule: 'often' is no schedule"):
            run("key-set", "create", "--vault", "Payments", "--name", "x", "--rotation-schedule", "often")

    def test_not_confirmed_has_a_status_of_its_own(self, cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
        silent = Missing("node-a", 5, "STALE", "no sign of life", timezone.now(), 40.0)
        late = Confirmation(7, 1, 2, 2000, (silent,), 60.0)
        monkeypatch.setattr("vault.services.confirmations.wait_for_generation", lambda generation: late)
        with pytest.raises(SystemExit) as stop:
            run("vault", "block", "Payments", "--reason", "x")
        assert stop.value.code == EXIT_NOT_CONFIRMED
        assert Vault.objects.get(name="Payments").blocked

    def test_change_and_removal_without_an_older_reading(self, cast: Cast, tmp_path: Path) -> None:
        add_account(tmp_path)
        run("csp-account", "update", "aws-prod", "--vault", "Payments", "--description", "Production")
        assert CspAccount.objects.get().description == "Production"
        assert run("csp-account", "delete", "aws-prod", "--vault", "Payments").strip() == "Done."
        assert not CspAccount.objects.exists()

    def test_problem_of_the_api_comes_as_an_answer(self, cast: Cast) -> None:
        answer = local_api.call(Actor.system("cli"), "GET", f"vaults/{ANY_ID}")
        assert (answer.status, answer.is_problem, answer.data["code"]) == (404, True, "not_found")

    def test_no_such_operation(self) -> None:
        with pytest.raises(LookupError):
            local_api.declaration("DELETE", "vaults")
