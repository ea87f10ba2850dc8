"""The console script `keystead`: management commands, grouped, with one clear line for each thing that goes wrong.

`keystead xks conformance-store` runs the management command xks_conformance_store; the command files lie in the app
that owns the code. Only Keystead's own commands and Django's migrate are offered.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from django.core.management.base import BaseCommand

APPS = ("vault", "cloudkeys", "xks")
# The one command of Django that an operator needs.
FROM_DJANGO = {"migrate": "django"}
# Lower-case names of the groups, in the order of the help page. A command belongs to the group that begins its name.
GROUPS = {
    "hsm": "HSMs: connect, test, PINs, their keeper.",
    "keys": "Root key: re-wrap, export as shares, import.",
    "vault": "Vaults, their members and tokens.",
    "csp-account": "Accounts at cloud service providers.",
    "key-set": "Key sets and their external key stores.",
    "cloud-key": "CloudKeys and what can be done with them.",
    "xks": "The endpoint that AWS KMS calls.",
    "simulator": "The bundled AWS simulator.",
    "operation": "Long-running work: watch, retry, cancel.",
    "audit": "The record of who did what.",
}
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def find_commands() -> dict[str, str]:
    """Return the name of each offered management command and the package that holds it, imported or not."""
    found = dict(FROM_DJANGO)
    for app in APPS:
        spec = find_spec(f"{app}.management")
        for folder in (spec.submodule_search_locations or []) if spec is not None else []:
            for module in iter_modules([os.path.join(folder, "commands")]):
                if not module.ispkg and not module.name.startswith("_"):
                    found[module.name] = app
    return found


def spoken(name: str) -> str:
    """Return how a command is typed: xks_conformance_store is `xks conformance-store`."""
    typed = name.replace("_", "-")
    for group in GROUPS:
        if typed.startswith(f"{group}-"):
            return f"{group} {typed[len(group) + 1 :]}"
    return typed


def resolve(words: Sequence[str], commands: Iterable[str]) -> tuple[str, list[str]] | None:
    """Return the command that the first words name, the longest that fits, and what follows it; or None."""
    leading = 0
    while leading < len(words) and not words[leading].startswith("-"):
        leading += 1
    known = set(commands)
    for count in range(min(leading, 4), 0, -1):
        name = "_".join(words[:count]).replace("-", "_")
        if name in known:
            return name, list(words[count:])
    return None


def load(name: str, app: str) -> BaseCommand:
    """Return an instance of a management command."""
    package = "django.core" if app == "django" else app
    command: BaseCommand = import_module(f"{package}.management.commands.{name}").Command()
    return command


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit. Never shows a traceback for what a person can put right."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["hsm-helper"]:
        hsm_helper(words[1:])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "vault.settings")
    try:
        code = run(words)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; give the interpreter nothing more to flush into the broken pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_ERROR
    sys.exit(code)


def hsm_helper(words: list[str]) -> NoReturn:
    """Run the process that loads a PKCS#11 module, without Django. What it needs, the PIN too, comes by standard input."""
    if words:
        print(
            "usage: keystead hsm-helper\n\nStarted by `keystead hsm serve`, one for each member of an HSM connection;"
            " its configuration comes by standard input."
        )
        sys.exit(0 if words in (["--help"], ["-h"]) else EXIT_USAGE)
    from hsm.helper import end, main

    end(main())


def run(words: list[str]) -> int:
    """Run the command that `words` name and return the exit status."""
    commands = find_commands()
    if words in (["--version"], ["version"]):
        from vault import __version__

        print(f"keystead {__version__}")
        return 0
    if words and words[0] == "help":
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help"):
        print(help_page(commands), end="")
        return 0
    found = resolve(words, commands)
    if found is None:
        if words[0] in GROUPS and all(word in ("-h", "--help") for word in words[1:]):
            page = group_page(words[0], commands)
            print(page, end="", file=sys.stdout if len(words) > 1 else sys.stderr)
            return 0 if len(words) > 1 else EXIT_USAGE
        print(unknown_line(words, commands), file=sys.stderr)
        return EXIT_USAGE
    name, rest = found
    return run_command(name, commands[name], rest)


def run_command(name: str, app: str, arguments: list[str]) -> int:
    """Run one management command, with the system checks before it, and return the exit status."""
    with clear_errors() as outcome:
        import django

        django.setup()
        command = load(name, app)
        parser = command.create_parser("keystead", spoken(name))
        hide_plumbing(parser)
        # Django knows the option only for some commands; here every one takes it.
        options = vars(parser.parse_args([word for word in arguments if word != "--skip-checks"]))
        positional = options.pop("args", ())
        if command.requires_system_checks and "--skip-checks" not in arguments:
            from vault import checks, startup

            checks.command = name
            for line in startup.run_checks():
                print(f"keystead: warning: {line}", file=sys.stderr)
        options["skip_checks"] = True  # they have just run, and said what they found in their own way
        try:
            command.execute(*positional, **options)
        finally:
            from django.db import connections

            with contextlib.suppress(Exception):  # a broken connection must not hide the first error
                connections.close_all()
    return outcome.code


class Outcome:
    """The exit status of a command."""

    code = 0


@contextlib.contextmanager
def clear_errors() -> Iterator[Outcome]:
    """Turn what a person can put right into clear lines on standard error; let programming errors through."""
    outcome = Outcome()
    try:
        yield outcome
    except SystemExit as stop:
        outcome.code = stop.code if isinstance(stop.code, int) else (0 if stop.code is None else EXIT_ERROR)
        if isinstance(stop.code, str):
            print(f"keystead: {stop.code}", file=sys.stderr)
    except Exception as error:
        lines = error_lines(error)
        if lines is None:
            raise
        for line in lines:
            print(f"keystead: {line}", file=sys.stderr)
        outcome.code = getattr(error, "returncode", EXIT_ERROR)


def error_lines(error: Exception) -> list[str] | None:
    """Return the lines that tell a person about `error`, or None when it is a fault of the program."""
    from django.core.exceptions import ImproperlyConfigured, ValidationError
    from django.core.management.base import CommandError
    from django.db import OperationalError

    from hsm.base import HsmError
    from vault import env, startup
    from vault.errors import DomainError
    from vault.rootkey import RootKeyError

    match error:
        case startup.StartRefused():
            return list(error.lines)
        case DomainError():
            return [f"{error.message} {error.cure}".strip()]
        case env.SettingError() | RootKeyError() | HsmError() | ImproperlyConfigured():
            return [" ".join(str(error).split())]
        case CommandError():
            return [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        case ValidationError():
            return list(error.messages)
        case OperationalError():
            return [startup.database_line(error)]
        case OSError() if error.strerror:
            return [f"{error.filename}: {error.strerror}" if error.filename else error.strerror]
    return None


def hide_plumbing(parser: object) -> None:
    """Leave Django's own options out of a command's help; they still work."""
    import argparse

    plumbing = {
        "settings",
        "pythonpath",
        "traceback",
        "no_color",
        "force_color",
        "skip_checks",
        "verbosity",
        "version",
    }
    for action in parser._actions:  # type: ignore[attr-defined]
        if action.dest in plumbing or "--version" in action.option_strings:
            action.help = argparse.SUPPRESS


# --- help ----------------------------------------------------------------------------------------------------


def summary(name: str, app: str) -> str:
    """Return the first sentence of a command's help, without a full stop."""
    text = " ".join(str(load(name, app).help).split())
    first, dot, _ = text.partition(". ")
    return (first if dot else text).rstrip(".")


def table(rows: list[tuple[str, str]]) -> str:
    """Return two columns as text."""
    width = max((len(left) for left, _ in rows), default=0)
    return "".join(f"  {left.ljust(width)}  {right}".rstrip() + "\n" for left, right in rows)


def prepare_help() -> Callable[[str, str], str]:
    """Set Django up, so that commands can be imported, and return the function that tells their one line."""
    import django

    django.setup()
    return summary


def help_page(commands: dict[str, str]) -> str:
    """Return `keystead --help`: every group and command with one line each."""
    tell = prepare_help()
    alone: list[tuple[str, str]] = []
    grouped: dict[str, list[tuple[str, str]]] = {}
    for name, app in sorted(commands.items()):
        group, _, rest = spoken(name).partition(" ")
        if rest:
            grouped.setdefault(group, []).append((f"{group} {rest}", tell(name, app)))
        else:
            alone.append((group, tell(name, app)))
    page = "Keystead: hold your own keys, and let the clouds ask for every use.\n\n"
    page += "Usage: keystead COMMAND [OPTIONS]      keystead GROUP COMMAND [OPTIONS]\n\n"
    page += "Commands:\n" + table(alone)
    for group in GROUPS:
        if group in grouped:
            page += f"\n{GROUPS[group]}\n" + table(grouped[group])
    page += "\nkeystead COMMAND --help tells more. Settings come from KEYSTEAD_ variables: docs/configuration.md.\n"
    return page


def group_page(group: str, commands: dict[str, str]) -> str:
    """Return `keystead GROUP --help`."""
    tell = prepare_help()
    rows = [
        (spoken(name), tell(name, app))
        for name, app in sorted(commands.items())
        if spoken(name).startswith(f"{group} ")
    ]
    if not rows:
        return f"{GROUPS[group]}\nThis version has no command in this group.\n"
    return f"{GROUPS[group]}\n\nCommands:\n{table(rows)}\nkeystead {group} COMMAND --help tells more.\n"


def unknown_line(words: list[str], commands: dict[str, str]) -> str:
    """Return the one line for a command that does not exist, with the nearest that do."""
    typed = []
    for word in words[:3]:
        if word.startswith("-"):
            break
        typed.append(word)
    names = [spoken(name) for name in commands]
    near: list[str] = []
    for count in range(len(typed), 0, -1):
        near += difflib.get_close_matches(" ".join(typed[:count]), names, n=3, cutoff=0.6)
    if typed and typed[0] in GROUPS:
        near += [name for name in names if name.startswith(f"{typed[0]} ")]
    near = list(dict.fromkeys(near))[:4]
    said = " ".join(typed) or words[0]
    hint = f"Did you mean: {', '.join(near)}?" if near else "keystead --help lists all."
    return f"keystead: there is no command {said!r}. {hint}"


if __name__ == "__main__":
    main()
