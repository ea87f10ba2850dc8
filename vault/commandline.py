"""`keystead GROUP VERB ...`: the API's operations as commands, in a table; options come from what each operation declares.

A group is a management command that derives from `GroupCommand` and lists its verbs. Works without network, beside a running
instance or without one: see `vault.local_api`.
"""

from __future__ import annotations

import argparse
import getpass
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError
from rest_framework import serializers

from vault import local_api, startup, tables
from vault.actors import Actor
from vault.api.endpoints import Declared
from vault.api.serializers import StrictBoolean
from vault.hardening import harden_process
from vault.local_api import Answer

ANY_ID = "00000000-0000-4000-8000-000000000000"
PAGE = 200
WAIT_S = 300.0
EXIT_NOT_CONFIRMED = 3
# A field or argument of this name refers to an object of that collection, and may be given by name.
COLLECTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "vault": ("vaults", ("name",)),
    "member": ("members", ("email", "user.name")),
    "group": ("groups", ("name",)),
    "account": ("csp-accounts", ("name",)),
    "csp_account": ("csp-accounts", ("name",)),
    "key_set": ("key-sets", ("name",)),
    "store": ("xks-key-stores", ("key_set.name", "path_prefix")),
    "link": ("aws-store-links", ("name", "custom_key_store_id")),
    "key": ("cloud-keys", ("name", "alias", "external_key_id", "kms_key_id", "kms_key_arn")),
    "credential": ("xks-credentials", ()),
    "access_rules": ("access-rules", ("name",)),
    "certificate": ("certificates", ("fingerprint", "serial")),
    "operation": ("operations", ()),
    "event": ("audit-events", ()),
    "node": ("nodes", ("name",)),
    "hsm": ("hsms", ("name",)),
}
_SHOWN_AGAIN = {"cloud_key": "cloud-keys", "link": "aws-store-links"}
Shorthand = Callable[[str], Any]


@dataclass(frozen=True)
class Verb:
    """One command of a group: a method and a path of the API, `{name}` being an argument that refers to an object."""

    name: str
    method: str
    path: str
    columns: tuple[str, ...] = ()
    waits: bool = False
    help: str = ""

    @property
    def arguments(self) -> list[str]:
        """Names of the objects that stand in the path."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]


class GroupCommand(BaseCommand):
    """Base of a group's management command; `verbs` is its table."""

    verbs: ClassVar[tuple[Verb, ...]] = ()
    # How a field that is JSON in the API may be written in short: field name -> parser (ValueError says what is wrong).
    shorthands: ClassVar[Mapping[str, Shorthand]] = {}

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """See BaseCommand."""
        actions = parser.add_subparsers(
            dest="verb", metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
        )
        for verb in self.verbs:
            declared = local_api.declaration(verb.method, verb.path.format_map(_AnyId()))
            words = verb.help or declared.summary
            sub = actions.add_parser(verb.name, help=words, description=words)
            for name in verb.arguments:
                what = "its id" if not COLLECTIONS[name][1] else "its name or id"
                sub.add_argument(f"the_{name}", metavar=name.upper().replace("_", "-"), help=what)
            _add_common(sub, verb)
            if declared.listing is not None:
                _add_filters(sub, declared.listing)
            _add_query(sub, _query_names(declared))
            if declared.request is not None:
                fields = _fields(declared.request)
                _add_fields(sub, fields, self.shorthands, partial=verb.method == "PATCH")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        startup.check_database(may_migrate=False)
        startup.check_root_key()
        verb = next(verb for verb in self.verbs if verb.name == options["verb"])
        run = _Run(self, verb, options)
        run.run()


class _AnyId(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return ANY_ID


# --- arguments -----------------------------------------------------------------------------------------------


def _add_common(parser: argparse.ArgumentParser, verb: Verb) -> None:
    if not verb.path.startswith("vaults") or verb.arguments != ["vault"]:
        parser.add_argument("--vault", metavar="VAULT", help="name or id (when there is more than one)")
    parser.add_argument(
        "--as", dest="as_email", metavar="EMAIL", help="act as this person, with their rights only"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    if verb.method != "GET":
        parser.add_argument("--wait", action="store_true", help="wait for the Operation that does the rest")


def _add_filters(parser: argparse.ArgumentParser, listing: Any) -> None:
    for spec in listing.filters:
        options: dict[str, Any] = {"help": spec.help, "dest": f"filter_{spec.name}"}
        if spec.schema.get("type") == "boolean":
            options["choices"] = ("true", "false")
        elif "enum" in spec.schema:
            options["choices"] = spec.schema["enum"]
        if spec.many:
            options["action"] = "append"
        if "choices" not in options:
            options["metavar"] = "VALUE"
        parser.add_argument(f"--{spec.name.replace('_', '-')}", **options)
    parser.add_argument("--order", choices=sorted(listing.orderings), help="in the order of this")
    parser.add_argument("--reverse", action="store_true", help="with --order: the other way round")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="at most so many (default: all)")


def _query_names(declared: Declared) -> list[str]:
    """Query parameters that are no filter of a list."""
    listed = declared.listing.names if declared.listing is not None else frozenset()
    return sorted(declared.query - listed - {"vault"})


def _add_query(parser: argparse.ArgumentParser, names: list[str]) -> None:
    for name in names:
        option = "--format" if name == "as" else f"--{name.replace('_', '-')}"  # --as says who acts
        parser.add_argument(option, dest=f"query_{name}", metavar="VALUE", help="see the API's documentation")


def _fields(serializer: type[Any]) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
    return {
        name: each for name, each in serializer().fields.items() if not each.read_only and name != "vault"
    }


def _is_secret(each: serializers.Field[Any, Any, Any, Any]) -> bool:
    return each.style.get("input_type") == "password" or type(each).__name__ == "SecretField"


def _add_fields(
    parser: argparse.ArgumentParser,
    fields: Mapping[str, serializers.Field[Any, Any, Any, Any]],
    shorthands: Mapping[str, Shorthand],
    *,
    partial: bool,
) -> None:
    for name, each in fields.items():
        option = f"--{name.replace('_', '-')}"
        words = str(each.help_text or each.label or "").replace("%", "%%")
        options: dict[str, Any] = {"dest": f"field_{name}", "help": words}
        needed = each.required and not partial
        if _is_secret(each):
            # Never as an argument: those can be read by everybody on the machine while the command runs.
            option, needed = f"{option}-file", False
            options["help"] = "file that holds it (- for standard input); asked for when left out"
            options["metavar"] = "FILE"
        elif name in shorthands:
            options |= {"metavar": "VALUE", "help": words or _first_line(shorthands[name])}
            if name in ("tags", "links"):
                options["action"] = "append"
        elif isinstance(each, StrictBoolean):
            options["action"] = argparse.BooleanOptionalAction
        elif isinstance(each, serializers.ChoiceField):
            options["choices"] = [str(choice) for choice in each.choices]
        elif isinstance(each, serializers.ListField):
            options |= {"action": "append", "metavar": "VALUE"}
        elif isinstance(each, serializers.IntegerField):
            options |= {"type": int, "metavar": "N"}
        else:
            options["metavar"] = name.upper().replace("_", "-")
        parser.add_argument(option, required=needed, **options)


def _first_line(function: Shorthand) -> str:
    return (function.__doc__ or "").partition("\n")[0].replace("%", "%%")


# --- running -------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """One command that is being carried out."""

    command: GroupCommand
    verb: Verb
    options: dict[str, Any]
    actor: Actor = field(init=False)

    def __post_init__(self) -> None:
        self.actor = local_api.local_actor(self.options["as_email"])

    def run(self) -> None:
        """Call the API and print what it says. Raises CommandError, SystemExit."""
        path = self.verb.path.format_map(
            {name: self.find(name, self.options[f"the_{name}"]) for name in self.verb.arguments}
        )
        declared = local_api.declaration(self.verb.method, path)
        if declared.listing is not None and self.verb.method == "GET":
            self._list(path, declared.listing)
            return
        body = None
        if declared.request is not None:
            body = self._body(_fields(declared.request), takes_vault="vault" in declared.request().fields)
        query = {name: self.options[f"query_{name}"] for name in _query_names(declared)}
        query = {name: value for name, value in query.items() if value is not None}
        if "vault" in declared.query and (vault := self.vault()) is not None:
            query["vault"] = vault
        answer = self.call(self.verb.method, path, body=body, query=query)
        watch = self.verb.waits or self.options.get("wait")
        if watch:
            answer = self._follow(answer)
        self._show(answer)

    def call(self, method: str, path: str, **parts: Any) -> Answer:
        """Call the API. Raises CommandError with the problem's words."""
        answer = local_api.call(self.actor, method, path, **parts)
        if answer.is_problem:
            raise CommandError("\n".join(tables.problem_lines(answer.data)))
        return answer

    # --- finding what was named --------------------------------------------------------------------------

    def find(self, kind: str, given: str) -> str:
        """Return the id of the object that is named `given`. Raises CommandError unless there is exactly one."""
        try:
            return str(UUID(given))
        except ValueError:
            pass
        collection, names = COLLECTIONS[kind]
        if not names:
            raise CommandError(f"{given!r} is no id.")
        found = [row for row in self._search(collection, given) if given in tables.values(row, names)]
        if len(found) == 1:
            return str(found[0]["id"])
        if not found:
            raise CommandError(
                f"There is no {kind.replace('_', ' ')} named {given!r} among the {collection}."
            )
        ids = ", ".join(str(row["id"]) for row in found[:5])
        raise CommandError(f"{len(found)} are named {given!r}; give the id of one: {ids}.")

    def _search(self, collection: str, text: str) -> list[dict[str, Any]]:
        declared = local_api.declaration("GET", collection)
        query: dict[str, Any] = {}
        filters = {spec.name for spec in declared.listing.filters} if declared.listing else set()
        # Only plain names can be looked for in every column; anything else is compared here.
        if "search" in filters:
            query["search"] = text.removeprefix("alias/")
        return list(self.pages(collection, query, with_vault=collection != "vaults"))

    def vault(self) -> str | None:
        """The id of the vault that was named, or of the only one; None leaves it to the API to say that it must be told."""
        given = self.options.get("vault")
        if given:
            return self.find("vault", given)
        living = [row for row in self.pages("vaults", {}, with_vault=False) if row["state"] != "DESTROYED"]
        return str(living[0]["id"]) if len(living) == 1 else None

    def pages(self, path: str, query: dict[str, Any], *, with_vault: bool) -> Iterator[dict[str, Any]]:
        """Yield every item of a list, page by page."""
        declared = local_api.declaration("GET", path)
        takes_vault = declared.listing is not None and "vault" in declared.listing.names
        if with_vault and takes_vault and (vault := self.vault()) is not None:
            query = {**query, "vault": vault}
        limit = int(query.pop("limit", 0) or 0)
        given = 0
        cursor: str | None = None
        while True:
            size = min(PAGE, limit - given) if limit else PAGE
            parts = {**query, "limit": size} | ({"cursor": cursor} if cursor else {})
            page = self.call("GET", path, query=parts).data
            yield from page["items"]
            given += len(page["items"])
            cursor = page["next_cursor"]
            if cursor is None or (limit and given >= limit):
                return

    # --- what is sent ------------------------------------------------------------------------------------

    def _body(self, fields: Mapping[str, Any], *, takes_vault: bool) -> dict[str, Any]:
        body: dict[str, Any] = {}
        for name, each in fields.items():
            given = self.options.get(f"field_{name}")
            if _is_secret(each):
                given = self._secret(name, each, given)
            if given is not None:
                body[name] = self._value(name, each, given)
        if takes_vault and (vault := self.vault()) is not None:
            body["vault"] = vault
        return body

    def _value(self, name: str, each: Any, given: Any) -> Any:
        shorthand = self.command.shorthands.get(name)
        try:
            if shorthand is not None:
                return shorthand(given)
            if isinstance(each, serializers.JSONField):
                return json.loads(given)
        except ValueError as error:
            raise CommandError(f"--{name.replace('_', '-')}: {error}") from None
        if name in COLLECTIONS and isinstance(given, str):
            return self.find(name, given) if given else None
        if name == "groups":
            return [self.find("group", item) for item in given]
        return given

    def _secret(self, name: str, each: Any, given: str | None) -> str | None:
        if given is None:
            if not each.required or self.verb.method == "PATCH":
                return None
            if not sys.stdin.isatty():
                raise CommandError(f"Give --{name.replace('_', '-')}-file (- for standard input).")
            return getpass.getpass(f"{name.replace('_', ' ').capitalize()}: ")
        text = sys.stdin.read() if given == "-" else Path(given).read_text("utf-8")
        return text.strip()

    # --- what is shown -----------------------------------------------------------------------------------

    def _list(self, path: str, listing: Any) -> None:
        query = {
            spec.name: self.options[f"filter_{spec.name}"]
            for spec in listing.filters
            if self.options.get(f"filter_{spec.name}") is not None
        }
        for spec in listing.filters:
            kind = spec.name
            if kind in COLLECTIONS and kind in query:
                given = query[kind] if isinstance(query[kind], list) else [query[kind]]
                query[kind] = [self.find(kind, item) for item in given]
        if self.options.get("order"):
            query["ordering"] = ("-" if self.options["reverse"] else "") + self.options["order"]
        if self.options["limit"]:
            query["limit"] = self.options["limit"]
        rows = list(self.pages(path, query, with_vault=True))
        if self.options["json"]:
            self._write(json.dumps(rows, indent=2))
            return
        for line in tables.table(rows, self.verb.columns):
            self._write(line)

    def _follow(self, answer: Answer) -> Answer:
        """Wait for the Operation of an answer; return the answer with its last state. Raises CommandError."""
        data = answer.data
        if not isinstance(data, dict):
            return answer
        work = data if "steps" in data else data.get("operation")
        if not isinstance(work, dict):
            return answer
        limit = time.monotonic() + WAIT_S
        told: set[str] = set()
        while True:
            for step in work["steps"]:
                mark = f"{step['label']}: {step['state']}"
                if step["state"] not in ("PENDING", "RUNNING") and mark not in told:
                    told.add(mark)
                    if not self.options["json"]:
                        self.command.stderr.write(f"  {step['label']}: {step['state'].lower()}")
            if work["state"] not in ("WAITING", "RUNNING"):
                break
            if time.monotonic() > limit:
                raise CommandError(f"Operation {work['id']} has not ended after {WAIT_S:.0f} s; it goes on.")
            time.sleep(0.1)
            work = self.call("GET", f"operations/{work['id']}").data
        if work["state"] != "SUCCEEDED":
            raise CommandError("\n".join(tables.failed_operation_lines(work)))
        if "steps" in data:
            return Answer(answer.status, work)
        data = {**data, "operation": work}
        for name, collection in _SHOWN_AGAIN.items():
            # It has changed since the answer was given.
            if isinstance(data.get(name), dict):
                data[name] = self.call("GET", f"{collection}/{data[name]['id']}").data
        return Answer(answer.status, data)

    def _show(self, answer: Answer) -> None:
        data = answer.data
        if self.options["json"] and not isinstance(data, str):
            self._write(json.dumps(data, indent=2))
        elif data is None:
            self._write("Done.")
        elif isinstance(data, str):
            self._write(data.rstrip("\n"))
        else:
            for line in tables.detail_lines(data):
                self._write(line)
        confirmation = data.get("confirmation") if isinstance(data, dict) else None
        if confirmation is not None and not confirmation["complete"]:
            sys.exit(EXIT_NOT_CONFIRMED)

    def _write(self, line: str) -> None:
        self.command.stdout.write(line)
