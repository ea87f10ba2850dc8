"""/api/v1/cloud-keys/{id}/disable-proof: what the journal says of a key since it was closed."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from rest_framework import serializers
from rest_framework.response import Response

from vault import env
from vault.api.endpoints import ApiView, operation
from xks.services.disable_proof import prove_disable

SECONDS = 50.0
"""No more is begun to be read after so long: a thread of the web server must not be had for as long as one likes."""


class UseSerializer(serializers.Serializer[Any]):
    """One recorded use."""

    at = serializers.DateTimeField()
    generation = serializers.IntegerField()
    operation = serializers.CharField()
    outcome = serializers.CharField()
    principal_arn = serializers.CharField(allow_blank=True)
    kms_request_id = serializers.CharField(allow_blank=True)
    where = serializers.CharField(help_text="Journal, segment and entry.")


class ProofSerializer(serializers.Serializer[Any]):
    """Whether a key has answered a use since it was disabled or blocked last."""

    cloud_key = serializers.UUIDField()
    verdict = serializers.ChoiceField(
        choices=["PROVEN", "INCOMPLETE", "VIOLATED"],
        help_text="PROVEN: everything was read, nothing was answered. INCOMPLETE: nothing speaks against it, but see gaps. "
        "VIOLATED: see offending.",
    )
    action = serializers.CharField(help_text="What closed the key: the audit event's action.")
    switched_at = serializers.DateTimeField()
    generation = serializers.IntegerField()
    confirmed_at = serializers.DateTimeField(
        allow_null=True, help_text="When every counted worker process had confirmed."
    )
    closed_from = serializers.DateTimeField(
        help_text="From when no use may have been answered: confirmed, or the last straggler's time was over."
    )
    reopened_at = serializers.DateTimeField(allow_null=True)
    last_accepted = UseSerializer(allow_null=True)
    first_refused = UseSerializer(allow_null=True)
    offending = UseSerializer(allow_null=True)
    offence = serializers.CharField(allow_blank=True)
    accepted_between = serializers.IntegerField(help_text="Uses answered between commit and closed_from.")
    refused = serializers.IntegerField()
    segments = serializers.IntegerField(help_text="Segments read and checked.")
    records = serializers.IntegerField(help_text="Uses of this key among them.")
    from_database = serializers.IntegerField(help_text="Of these, taken from the database.")
    gaps = serializers.ListField(child=serializers.CharField())
    notes = serializers.ListField(child=serializers.CharField())


_USE = {
    "at": "2026-11-22T14:00:00.114000Z",
    "generation": 117,
    "operation": "decrypt",
    "outcome": "OK",
    "principal_arn": "arn:aws:iam::111122223333:user/Alice",
    "kms_request_id": "4112f4d6-db54-4af4-ae30-c55a22a8dfae",
    "where": "journal xks-a/0f3c91be111142228333444455556666 segment 0 entry 812",
}
PROOF = {
    "cloud_key": "3f0c91be-1111-4222-8333-444455556666",
    "verdict": "PROVEN",
    "action": "cloudkeys:cloud_key:disable",
    "switched_at": "2026-11-22T14:00:00.101000Z",
    "generation": 118,
    "confirmed_at": "2026-11-22T14:00:00.139000Z",
    "closed_from": "2026-11-22T14:00:00.139000Z",
    "reopened_at": None,
    "last_accepted": _USE,
    "first_refused": {
        **_USE,
        "at": "2026-11-22T14:00:00.128000Z",
        "generation": 118,
        "outcome": "InvalidStateException",
    },
    "offending": None,
    "offence": "",
    "accepted_between": 4,
    "refused": 310,
    "segments": 2,
    "records": 18514,
    "from_database": 0,
    "gaps": [],
    "notes": [],
}


class DisableProof(ApiView):
    """cloud-keys/{id}/disable-proof"""

    @operation(
        "cloud_keys_disable_proof",
        summary="Prove that a disabled key has answered no use",
        description="Reads the journal and checks its MACs: after the key (or its store or vault) was disabled or blocked last and "
        "every worker had confirmed, was any use of it answered? Tells the last accepted and the first refused use, what was "
        "read, and what is missing. Journals of other hosts are taken from the database, as far as they have come. Reading stops "
        f"after {SECONDS:.0f} s, INCOMPLETE and with a gap that says so: `keystead audit prove-disable` reads on to the end.",
        tag="Cloud keys",
        response=ProofSerializer,
        example=PROOF,
        errors=(404, 409),
        may_take_long=True,
    )
    def get(self, request: Any, key_id: UUID) -> Response:
        """GET"""
        proof = prove_disable(request.actor, key_id, env.data_dir() / "journal", seconds=SECONDS)
        return Response(ProofSerializer(proof.as_json()).data)
