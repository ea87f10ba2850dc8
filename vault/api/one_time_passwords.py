"""/api/v1/one-time-passwords: the way back in for people who have lost their password."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers
from rest_framework.response import Response

from vault.api.endpoints import ApiView, operation
from vault.api.serializers import PlainText, StrictSerializer
from vault.services import users


class IssueSerializer(StrictSerializer):
    """Whose password is lost."""

    email = PlainText(max_length=254)


class IssuedSerializer(serializers.Serializer[Any]):
    """How the person signs in now."""

    email = serializers.CharField()
    one_time_password = serializers.CharField(
        allow_null=True, help_text="Shown this once, when no mail could be sent; null when it was mailed."
    )
    mailed = serializers.BooleanField()
    expires_at = serializers.DateTimeField()


class OneTimePasswords(ApiView):
    """POST one-time-passwords"""

    @operation(
        "one_time_passwords_issue",
        summary="Issue a new one-time password",
        description="Replaces a person's password and ends all of that person's sessions; API tokens stay. The one-time password is "
        "mailed or, when no mail is set up, shown once in this answer. For appliance admins. Whoever asks twice gets another one.",
        tag="Signing in",
        request=IssueSerializer,
        request_example={"email": "ada@example.com"},
        response=IssuedSerializer,
        example={
            "email": "ada@example.com",
            "one_time_password": "k7pdm-x2v9q-hr4tn-w8scz",
            "mailed": False,
            "expires_at": "2026-11-29T14:00:00Z",
        },
        errors=(404,),
    )
    def post(self, request: Any) -> Response:
        """Issue a one-time password."""
        issued = users.issue_one_time_password(request.actor, request.data_in["email"])
        mailed = users.mail_issued(issued)
        body = {
            "email": issued.user.email,
            "one_time_password": None if mailed else issued.password.reveal_text(),
            "mailed": mailed,
            "expires_at": issued.user.one_time_password_expires_at,
        }
        return Response(IssuedSerializer(body).data)
