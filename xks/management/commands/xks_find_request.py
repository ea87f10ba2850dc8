"""keystead xks find-request"""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from vault import startup
from vault.hardening import harden_process
from xks.models import JournalChain, XksRequest
from xks.services.requests import with_kms_request_id

FIELDS = (
    "operation", "outcome", "withheld", "microseconds", "kms_operation", "principal_arn", "kms_key_arn", "kms_via_service",
    "source_vpc", "source_vpce", "store_id", "key_id", "external_key_id", "version", "access_key_id", "region", "generation",
)  # fmt: skip


class Command(BaseCommand):
    """Arguments and output; the search is in xks.services.requests."""

    help = "Find a request by the requestId that KMS or CloudTrail tells, whichever node it came to and whatever vault it is of."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """See BaseCommand."""
        parser.add_argument("kms_request_id", metavar="KMS-REQUEST-ID")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """See BaseCommand."""
        harden_process()
        startup.check_database(may_migrate=False)
        rows = with_kms_request_id(XksRequest.objects.all(), options["kms_request_id"]).order_by("at", "id")
        found = [_told(row) for row in rows[:1000]]
        if options["json"]:
            self.stdout.write(json.dumps(found, indent=2))
        for one in [] if options["json"] else found:
            self.stdout.write(f"{one['at']}  node {one['node']}  recorded at {one['id']}")
            for name in FIELDS:
                if one[name] not in ("", None, False):
                    self.stdout.write(f"  {name:<18} {one[name]}")
        if not found:
            raise CommandError(
                "No request with this id is in the database. It did not reach us, or its signature was not valid, or its node has"
                " not shipped it yet (keystead xks node journal), or it is older than KEYSTEAD_XKS_REQUEST_DAYS."
            )


def _told(row: XksRequest) -> dict[str, Any]:
    node = JournalChain.objects.filter(pk=row.chain_id).values_list("node_name", flat=True).first()
    place = {"id": f"{row.chain_id.hex}:{row.segment}:{row.entry}", "at": row.at.isoformat(), "node": node}
    values = {name: getattr(row, name) for name in FIELDS}
    return {
        **place,
        **{name: str(value) if name.endswith("_id") and value else value for name, value in values.items()},
    }
