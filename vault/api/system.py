"""/api/v1/system: how the installation itself does."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, operation
from vault.api.serializers import JsonObject, StrictSerializer
from vault.services import system

TAG = "System"


class PartSerializer(serializers.Serializer[Any]):
    """One part of the installation."""

    name = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # hides Field.label
    state = serializers.CharField(help_text="OK, WARN, FAIL or UNKNOWN.")
    words = serializers.CharField()
    cure = serializers.CharField(allow_blank=True)
    detail = JsonObject()


class SystemSerializer(serializers.Serializer[Any]):
    """How every part does."""

    state = serializers.CharField(help_text="The worst of the parts.")
    parts = PartSerializer(many=True)
    versions = JsonObject(help_text="Versions by name.")


class SystemStatus(ApiView):
    """system"""

    @operation(
        "system_show",
        summary="Show how the installation does",
        description="Database, schema, broker, workers and beat, disk, last backup, mail, and versions. For appliance admins.",
        tag=TAG,
        response=SystemSerializer,
        example={
            "state": "OK",
            "parts": [
                {
                    "name": "database", "label": "Database", "state": "OK", "words": "It answers within 0.4 ms.", "cure": "",
                    "detail": {"kind": "postgresql", "answer_ms": 0.4, "bytes": 81788928},
                }
            ],
            "versions": {"Keystead": "0.1.0", "PostgreSQL": "15.14"},
        },
    )  # fmt: skip
    def get(self, request: Any) -> Response:
        """GET"""
        return Response(SystemSerializer(system.system_status(request.actor)).data)


class TestMailSerializer(serializers.Serializer[Any]):
    """Whether the mail server took the mail."""

    __test__ = False  # no test, whatever pytest thinks of its name

    sent = serializers.BooleanField()


class TestMailInput(StrictSerializer):
    """Nothing is to be said: the mail goes to whoever asks."""

    __test__ = False  # no test, whatever pytest thinks of its name


class TestMail(ApiView):
    """system/test-mail"""

    __test__ = False  # no test, whatever pytest thinks of its name

    @operation(
        "system_test_mail",
        summary="Send a mail to myself",
        description="Shows whether the mail server takes mails. For appliance admins; 409 where none is set up.",
        tag=TAG,
        request=TestMailInput,
        request_example={},
        response=TestMailSerializer,
        example={"sent": True},
        errors=(409,),
    )
    def post(self, request: Any) -> Response:
        """POST"""
        return Response({"sent": system.send_test_mail(request.actor)})
