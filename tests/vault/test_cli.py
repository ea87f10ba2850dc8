"""vault.cli: what is typed, what is run, and what is said when it goes wrong."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management.base import BaseCommand, CommandError
from django.db import OperationalError

from hsm.base import HsmUnavailable
from vault import __version__, cli, env, startup
from vault.errors import Conflict
from vault.rootkey import RootKeyMissing

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("serve", "serve"),
        ("xks_agent", "xks agent"),
        ("xks_conformance_store", "xks conformance-store"),
        ("cloud_key_create", "cloud-key create"),
        ("csp_account_list", "csp-account list"),
        ("keys_export_root", "keys export-root"),
        ("key_set_list", "key-set list"),
    ],
)
def test_a_command_is_typed_as_group_and_command(name, typed):
    assert cli.spoken(name) == typed
    assert cli.resolve([*typed.split(), "--json", "x"], [name, "other"]) == (name, ["--json", "x"])


def test_the_longest_name_wins_and_the_rest_are_arguments():
    commands = ["backup", "xks_agent", "vault_create", "vault"]
    assert cli.resolve(["backup", "a", "file"], commands) == ("backup", ["a", "file"])
    assert cli.resolve(["vault", "create", "Main"], commands) == ("vault_create", ["Main"])
    assert cli.resolve(["vault", "Main"], commands) == ("vault", ["Main"])
    assert cli.resolve(["--flag", "backup"], commands) is None
    assert cli.resolve(["xks"], commands) is None


def test_commands_are_found_where_they_lie():
    found = cli.find_commands()
    assert found["serve"] == "vault"
    assert found["migrate"] == "django"
    # Django's own are not offered, nor the admin of users that is not ours.
    assert not {"runserver", "shell", "createsuperuser", "flush", "testserver"} & set(found)


def test_help_has_every_command_with_one_line(capsys):
    assert cli.run(["--help"]) == 0
    page = capsys.readouterr().out
    for name in cli.find_commands():
        line = next(line for line in page.splitlines() if line.strip().startswith(f"{cli.spoken(name)} "))
        assert len(line.split()) > len(cli.spoken(name).split()) + 2, line
    assert cli.run([]) == 0
    assert capsys.readouterr().out == page


def test_help_of_a_group(capsys):
    assert cli.run(["keys", "--help"]) == 0
    page = capsys.readouterr().out
    assert "keys rewrap" in page
    assert "serve" not in page
    assert cli.run(["help", "keys"]) == 0
    assert capsys.readouterr().out == page
    assert cli.run(["keys"]) == cli.EXIT_USAGE
    assert capsys.readouterr().err == page


def test_help_of_a_command_leaves_out_what_is_djangos(capsys):
    assert cli.run(["serve", "--help"]) == 0
    page = capsys.readouterr().out
    assert page.startswith("usage: keystead serve")
    assert "--pythonpath" not in page
    assert "--traceback" not in page


def test_version(capsys):
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"keystead {__version__}\n"


@pytest.mark.parametrize(
    ("typed", "suggestion"),
    [("serv", "serve"), ("key rewrap", "keys rewrap"), ("keys rewarp", "keys rewrap"), ("wroker", "worker")],
)
def test_an_unknown_command_suggests_near_ones(typed, suggestion, capsys):
    assert cli.run(typed.split()) == cli.EXIT_USAGE
    said = capsys.readouterr().err
    assert said.startswith(f"keystead: there is no command {typed!r}. Did you mean: ")
    assert suggestion in said
    assert said.count("\n") == 1


def test_an_unknown_command_unlike_any(capsys):
    assert cli.run(["qqqqqq", "zz"]) == cli.EXIT_USAGE
    assert (
        capsys.readouterr().err == "keystead: there is no command 'qqqqqq zz'. keystead --help lists all.\n"
    )


@pytest.fixture
def command_that(monkeypatch: pytest.MonkeyPatch, set_environ: Any) -> Any:
    """Return a function that makes `keystead serve` do what it is given."""

    def install(action: Any) -> None:
        class Command(BaseCommand):
            def handle(self, *args: Any, **options: Any) -> None:
                action()

        monkeypatch.setattr(cli, "load", lambda name, app: Command())

    return install


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (startup.StartRefused("Port 1 is in use. Stop it."), "Port 1 is in use. Stop it."),
        (Conflict("The key is disabled.", cure="Enable it."), "The key is disabled. Enable it."),
        (env.SettingError("KEYSTEAD_BIND", "is odd.", "Mend it."), "KEYSTEAD_BIND: is odd. Mend it."),
        (RootKeyMissing("No root key.", "Put it back."), "No root key. Put it back."),
        (HsmUnavailable("the token is gone"), "the token is gone"),
        (CommandError("no such vault"), "no such vault"),
        (OSError(28, "No space left on device", "/data/x"), "/data/x: No space left on device"),
        (
            OperationalError("connection refused\nIs it running?"),
            "The database cannot be used: connection refused. Check the data folder and its disk.",
        ),
    ],
)
def test_what_a_person_can_put_right_is_one_line(error, line, command_that, capsys, set_environ):
    def fail() -> None:
        raise error

    command_that(fail)
    assert cli.run(["serve"]) == cli.EXIT_ERROR
    assert capsys.readouterr().err == f"keystead: {line}\n"


def test_a_fault_of_the_program_keeps_its_traceback(command_that):
    def fail() -> None:
        raise ZeroDivisionError

    command_that(fail)
    with pytest.raises(ZeroDivisionError):
        cli.run(["serve"])


@pytest.mark.parametrize(
    ("raised", "code"), [(SystemExit(3), 3), (SystemExit(None), 0), (SystemExit("no"), 1)]
)
def test_exit_status(raised, code, command_that, capsys):
    def leave() -> None:
        raise raised

    command_that(leave)
    assert cli.run(["serve"]) == code
    assert capsys.readouterr().err == ("keystead: no\n" if isinstance(raised.code, str) else "")


def test_interrupt(command_that):
    def interrupt() -> None:
        raise KeyboardInterrupt

    command_that(interrupt)
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve"])
    assert caught.value.code == 130


def test_wrong_settings_end_the_start_with_one_line_each(command_that, set_environ, capsys):
    ran = []
    command_that(lambda: ran.append(True))
    set_environ(BIND="0.0.0.0", WEB_PORT="x")
    assert cli.run(["serve"]) == cli.EXIT_ERROR
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["keystead.E001", "keystead.E020"]
    assert lines[0] == (
        "keystead: keystead.E001: KEYSTEAD_WEB_PORT: 'x' is not a port number. Give a number from 1 to 65535."
    )
    assert ran == []
    # A child of the supervisor, which has looked already, does not look again.
    assert cli.run(["serve", "--skip-checks"]) == 0
    assert ran == [True]


def test_a_warning_does_not_stop(command_that, set_environ, capsys):
    ran = []
    command_that(lambda: ran.append(True))
    set_environ(DATABASE_URL="postgres://a/b", SECRET_KEY="abcdefghij" * 5)
    assert cli.run(["serve"]) == 0
    assert capsys.readouterr().err.startswith("keystead: warning: keystead.W001: ")
    assert ran == [True]


def test_settings_lists_all_and_masks_secrets(set_environ, capsys):
    set_environ(WEB_PORT="8123", ADMIN_PASSWORD="not to be seen", TRUSTED_PROXIES="10.0.0.0/8")
    assert cli.run(["settings"]) == 0
    page = capsys.readouterr().out
    lines = {line.split()[0]: line.split()[1:] for line in page.splitlines()}
    assert list(lines) == list(env.SETTINGS)
    assert lines["KEYSTEAD_WEB_PORT"] == ["set", "8123"]
    assert lines["KEYSTEAD_ADMIN_PASSWORD"] == ["set", "***"]
    assert lines["KEYSTEAD_TRUSTED_PROXIES"] == ["set", "10.0.0.0/8"]
    assert lines["KEYSTEAD_XKS_TLS"] == ["default", "on"]
    assert "not to be seen" not in page


@pytest.mark.slow
def test_as_a_process(tmp_path):
    environ = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "KEYSTEAD_DATA_DIR": str(tmp_path / "data")}
    command = [sys.executable, "-P", "-m", "vault.cli"]

    def run(*words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *words],
            env={**environ, **extra},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )

    wrong = run("worker", KEYSTEAD_LOG_LEVEL="loud")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == (
        "keystead: keystead.E001: KEYSTEAD_LOG_LEVEL: 'loud' is not one of debug, info, warning, error. "
        "Write debug, info, warning or error.\n"
    )
    unmigrated = run("web")
    assert (unmigrated.returncode, unmigrated.stderr) == (
        1,
        "keystead: The database's schema is not up to date. Run: keystead migrate\n",
    )
