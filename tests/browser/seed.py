"""Fills a fresh installation with the cast (tests/cast.py) as the product's own services do, and prints what was made as JSON.

Run in a process of its own, with the environment of the server: `python -m tests.browser.seed`.
"""

from __future__ import annotations

import json
import os


def main() -> None:
    """Make two vaults and the people around them; everybody's password is PASSWORD."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "vault.settings"
    import django

    django.setup()
    from tests.cast import PASSWORD
    from vault.actors import Actor
    from vault.models import Group, Membership, Role, User, Vault
    from vault.services import vaults

    def person(name: str, **more: bool) -> User:
        return User.objects.create_user(f"{name}@example.com", PASSWORD, name=name.capitalize(), **more)

    admin = Actor(user=person("appliance", is_appliance_admin=True), via="web")
    for name in ("owner", "colleague", "auditor", "outsider"):
        person(name)
    made: dict[str, str] = {}
    for key, vault_name, owner in (("vault", "Payments", "owner"), ("other_vault", "Elsewhere", "outsider")):
        vault = vaults.create_vault(
            admin, name=vault_name, description="", admin_name=owner, admin_email=f"{owner}@example.com"
        ).vault
        made[key] = str(vault.pk)
    payments = Vault.objects.get(pk=made["vault"])
    group = Group.objects.get(vault=payments)
    for name, role in (("colleague", Role.CLOUD_ADMIN), ("auditor", Role.AUDITOR)):
        user = User.objects.get(email=f"{name}@example.com")
        membership = Membership.objects.create(vault=payments, user=user, role=role)
        if role == Role.CLOUD_ADMIN:
            group.members.add(membership)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
