"""What --keep adds to the demo, so that there is something to look at: more people, keys in every state, an unlinked store."""

from __future__ import annotations

import secrets
from typing import Any

from demo_api import Api

PEOPLE = (
    ("Cloud admin", "CLOUD_ADMIN", "Grace Hopper", "grace@acme.test"),
    ("Auditor", "AUDITOR", "Emmy", "emmy@acme.test"),
)
UNLINKED_REGION = "eu-central-1"


def add_more(
    api: Api,
    account: dict[str, Any],
    key_set: dict[str, Any],
    vault: dict[str, Any],
    sign_ins: dict[str, tuple[str, str]],
    region: str,
) -> None:
    """Add them; sign-ins of the new people are added to `sign_ins`. Raises demo_api.Deviation."""
    group = account["group"]["id"]
    for who, role, name, email in PEOPLE:
        made = api.post("members", vault=vault["id"], email=email, name=name, role=role, groups=[group])
        password = secrets.token_urlsafe(15)
        person = Api(api.url)
        person.sign_in(email, made["one_time_password"])
        person.set_password(made["one_time_password"], password)
        person.close()
        sign_ins[who] = (email, password)
    for name in ("payments-archive", "reporting", "legacy-ledger", "cards-2025"):
        made = api.post("cloud-keys", key_set=key_set["id"], region=region, name=name)
        api.wait(made["operation"])
        path = f"cloud-keys/{made['cloud_key']['id']}"
        match name:
            case "payments-archive":
                api.wait(api.post(f"{path}/disable", reason="Not in use since May")["operation"])
            case "reporting":
                api.post(f"{path}/block", reason="Incident 7")
            case "legacy-ledger":
                done = api.post(
                    f"{path}/schedule-deletion", confirm_name=name, window_days=7, reason="Project ended"
                )
                api.wait(done["operation"])
            case "cards-2025":
                api.post(f"{path}/retire", reason="Replaced by payments-prod")
    unlinked = api.post(
        "key-sets",
        name="cold-archive",
        description="Its AWS key store is made by hand",
        group=group,
        csp_account=account["id"],
        use_as_external_key_store=True,
        links=[{"region": UNLINKED_REGION, "linked": False}],
        expiration={"kind": "after", "days": 365, "then": "disable"},
    )
    api.post("cloud-keys", key_set=unlinked["id"], region=UNLINKED_REGION, name="archive-2024")
