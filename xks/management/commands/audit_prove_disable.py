"""keystead audit prove-disable"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db.models import Q

from cloudkeys.models import CloudKey
from hsm.hardening import harden_process
from vault import env, startup
from vault.errors import DomainError
from vault.local_api import local_actor
from xks.api.disable_proof import ProofSerializer
from xks.services.disable_proof import Proof, Use, prove_disable

EXIT_INCOMPLETE = 3


class Command(BaseCommand):
    """Arguments and output; the work is in xks.services.disable_proof."""

    help = (
        "Show from the journal that a key which was disabled (or blocked, or whose store or vault was) has answered no use since. "
        "Exits with 1 when one was answered, naming its record, and with 3 when the evidence is incomplete."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("key", help="its name, id, external key id or KMS key id")
        parser.add_argument("--vault", metavar="VAULT", help="name (when more than one vault has such a key)")
        parser.add_argument(
            "--journal", type=Path, help="folder of the journals (default: journal in the data folder)"
        )
        parser.add_argument(
            "--as", dest="as_email", metavar="EMAIL", help="act as this person, with their rights only"
        )
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        startup.check_database(may_migrate=False)
        startup.check_root_key()
        actor = local_actor(options["as_email"])
        text = options["key"]
        named = Q(name=text) | Q(external_key_id=text) | Q(kms_key_id=text)
        if len(text.replace("-", "")) == 32:
            named |= Q(pk=text) if text.count("-") == 4 else Q()
        keys = actor.visible(CloudKey).filter(named)
        if options["vault"]:
            keys = keys.filter(vault__name=options["vault"])
        found = list(keys[:2])
        if len(found) != 1:
            raise CommandError(
                f"There is no CloudKey {text}."
                if not found
                else f"More than one CloudKey is called {text}: give its id."
            )
        try:
            proof = prove_disable(actor, found[0].pk, options["journal"] or env.data_dir() / "journal")
        except DomainError as error:
            raise CommandError(f"{error.message} {error.cure}".strip()) from error
        if options["json"]:
            self.stdout.write(json.dumps(dict(ProofSerializer(proof.as_json()).data), indent=2, default=str))
        else:
            for line in lines(found[0].name, proof):
                self.stdout.write(line)
        if proof.verdict == "VIOLATED" and proof.offending is not None:
            raise CommandError(f"NOT SO: {proof.offence}.\n  {told(proof.offending)}")
        if proof.verdict == "INCOMPLETE":
            sys.exit(EXIT_INCOMPLETE)


def lines(name: str, proof: Proof) -> list[str]:
    """The proof in words."""
    confirmed = proof.confirmed_at.isoformat() if proof.confirmed_at else "never by all"
    head = [
        f"CloudKey {name}: {proof.action} as generation {proof.generation}",
        f"  committed      {proof.switched_at.isoformat()}",
        f"  confirmed      {confirmed}",
        f"  closed from    {proof.closed_from.isoformat()}",
        f"  reopened       {proof.reopened_at.isoformat() if proof.reopened_at else 'not since'}",
        f"  last accepted  {told(proof.last_accepted)}",
        f"  first refused  {told(proof.first_refused)}",
        f"  between commit and confirmation {proof.accepted_between} answered; refused since: {proof.refused}",
        f"  read: {proof.segments} segments, {proof.records} uses of this key ({proof.from_database} from the database)",
    ]
    verdict = {
        "PROVEN": "PROVEN: no use was answered after that.",
        "INCOMPLETE": "INCOMPLETE: nothing that was read speaks against it, but not everything could be read.",
        "VIOLATED": "VIOLATED.",
    }[proof.verdict]
    return [
        *head,
        *(f"note  {note}" for note in proof.notes),
        *(f"GAP   {gap}" for gap in proof.gaps),
        verdict,
    ]


def told(use: Use | None) -> str:
    """One use in one line."""
    if use is None:
        return "none on record"
    who = f" by {use.principal_arn}" if use.principal_arn else ""
    return (
        f"{use.at.isoformat()} {use.operation} {use.outcome}{who}, request {use.kms_request_id} ({use.where})"
    )
