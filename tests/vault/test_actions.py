"""Every audited action is written somewhere, and is named as the others are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from vault.actions import Action
from vault.approvals import GUARDED

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("vault", "cloudkeys", "xks", "hsm")
# Asking whether somebody may is not writing that somebody did.
ASKING = {"check_approval", "frozenset"}


def called(call: ast.Call) -> str:
    """The last name of what is called: `audit` for tx.audit(...)."""
    return getattr(call.func, "attr", None) or getattr(call.func, "id", "")


def written() -> set[str]:
    """Names of the members of Action that some source file hands to a call that writes, or keeps in a table for one."""
    found: set[str] = set()
    for room in ROOMS:
        for path in (ROOT / room).rglob("*.py"):
            tree = ast.parse(path.read_text())
            asking = {
                id(node)
                for call in ast.walk(tree)
                if isinstance(call, ast.Call) and called(call) in ASKING
                for node in ast.walk(call)
            }
            found |= {
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "Action"
                and id(node) not in asking
            }
    return found


def test_every_action_is_written_somewhere() -> None:
    assert {action.name for action in Action} - written() == set()


def test_names_are_source_subject_verb_and_unique() -> None:
    values = [action.value for action in Action]
    assert len(set(values)) == len(values)
    assert all(re.fullmatch(r"[a-z]+:[a-z_]+:[a-z_]+", value) for value in values)


def test_what_is_guarded_gives_back_or_takes_for_good() -> None:
    verbs = {action.value.rpartition(":")[2] for action in GUARDED}
    assert verbs == {"enable", "unblock", "destroy", "schedule_deletion"}
    same = {action for action in Action if action.value.rpartition(":")[2] in verbs}
    assert same == GUARDED
