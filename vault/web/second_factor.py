"""Forms of the second factor that differ from django-allauth's."""

from __future__ import annotations

from typing import Any

from allauth.mfa.adapter import get_adapter
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.forms import ActivateTOTPForm
from allauth.mfa.totp.internal.auth import TOTP
from allauth.mfa.webauthn.forms import AddWebAuthnForm, EditWebAuthnForm
from django.utils.translation import gettext


class ActivateForm(ActivateTOTPForm):  # type: ignore[misc]
    """Sets up an authenticator app, in our words. The code that proves it counts as used: it opens no sign-in afterwards."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        code = self.fields["code"]
        code.label = gettext("Code")
        code.help_text = gettext("Six digits. A new one comes every half minute.")
        code.widget.attrs.update({"inputmode": "numeric", "placeholder": ""})

    def clean_code(self) -> str:
        """As allauth's. Raises a form error."""
        code: str = super().clean_code()
        if not TOTP(Authenticator(user=self.user))._mark_code_used(code):
            raise get_adapter().validation_error("incorrect_code")
        return code


class AddPasskeyForm(AddWebAuthnForm):  # type: ignore[misc]
    """Adds a passkey, in our words."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _name(self)
        alone = self.fields.get("passwordless")
        if alone is not None:
            alone.label = gettext("Sign in with it alone, without the password")
            alone.help_text = gettext(
                "The device then asks for a fingerprint, face or PIN. Left out, it is asked for after the "
                "password."
            )


class RenamePasskeyForm(EditWebAuthnForm):  # type: ignore[misc]
    """Gives a passkey another name."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _name(self)


def _name(form: Any) -> None:
    field = form.fields["name"]
    field.label, field.max_length = gettext("Name"), 100
    field.help_text = gettext("Such as Work laptop, or Blue key on the key ring.")
    field.widget.attrs["maxlength"] = "100"
