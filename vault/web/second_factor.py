"""Forms of the second factor that differ from django-allauth's."""

from __future__ import annotations

from allauth.mfa.adapter import get_adapter
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.forms import ActivateTOTPForm
from allauth.mfa.totp.internal.auth import TOTP


class ActivateForm(ActivateTOTPForm):  # type: ignore[misc]
    """Sets up an authenticator app. The code that proves it counts as used: it opens no sign-in afterwards."""

    def clean_code(self) -> str:
        """As allauth's. Raises a form error."""
        code: str = super().clean_code()
        if not TOTP(Authenticator(user=self.user))._mark_code_used(code):
            raise get_adapter().validation_error("incorrect_code")
        return code
