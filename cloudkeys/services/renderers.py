"""A CloudKey as a command or document to copy: how to make one like it with curl, the CLI, or as JSON for a machine."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from cloudkeys.models import CloudKey

_UNITS = {"days": "d", "weeks": "w", "months": "m"}


def as_body(key: CloudKey) -> dict[str, Any]:
    """The body of POST /api/v1/cloud-keys that would make a key like this one. Nothing secret is in it."""
    body: dict[str, Any] = {"key_set": str(key.key_set_id), "name": key.name, "region": key.region}
    if key.description:
        body["description"] = key.description
    if sorted(key.permitted_uses) != ["DECRYPT", "ENCRYPT"]:
        body["permitted_uses"] = list(key.permitted_uses)
    for name in ("administrators", "users"):
        if getattr(key, name):
            body[name] = list(getattr(key, name))
    if key.tags:
        body["tags"] = dict(key.tags)
    if key.rotation_schedule is not None:
        body["rotation_schedule"] = key.rotation_schedule
    if key.expiration is not None:
        body["expiration"] = key.expiration
    return body


def as_curl(key: CloudKey, base_url: str) -> str:
    """A curl command that makes a key like this one; the token is taken from the environment."""
    body = json.dumps(as_body(key), indent=2, ensure_ascii=False)
    lines = (
        f"curl --fail-with-body -X POST {shlex.quote(base_url.rstrip('/') + '/api/v1/cloud-keys')}",
        '-H "Authorization: Bearer $KEYSTEAD_TOKEN"',
        "-H 'Content-Type: application/json'",
        '-H "Idempotency-Key: $(uuidgen)"',
        f"-d {shlex.quote(body)}",
    )
    return " \\\n  ".join(lines)


def as_cli(key: CloudKey) -> str:
    """The `keystead cloud-key create` command that makes a key like this one."""
    words = ["--key-set", key.key_set.name, "--name", key.name, "--region", key.region]
    if key.description:
        words += ["--description", key.description]
    if sorted(key.permitted_uses) != ["DECRYPT", "ENCRYPT"]:
        for use in key.permitted_uses:
            words += ["--permitted-uses", use]
    for option, values in (("--administrators", key.administrators), ("--users", key.users)):
        for arn in values:
            words += [option, arn]
    for name in sorted(key.tags):
        words += ["--tags", f"{name}={key.tags[name]}"]
    if key.rotation_schedule is not None:
        words += ["--rotation-schedule", short_schedule(key.rotation_schedule)]
    if key.expiration is not None:
        words += ["--expiration", json.dumps(key.expiration)]
    pairs = [f"{words[at]} {shlex.quote(words[at + 1])}" for at in range(0, len(words), 2)]
    return " \\\n  ".join(["keystead cloud-key create", *pairs])


def short_schedule(value: Mapping[str, Any]) -> str:
    """A schedule as the command line writes it: none, 90d@3/Europe/Berlin."""
    if value.get("kind") != "every":
        return str(value.get("kind", "none"))
    return f"{value['every']}{_UNITS[value['unit']]}@{value.get('hour', 3)}/{value.get('time_zone', 'UTC')}"


def as_document(key: CloudKey) -> dict[str, Any]:
    """The key as a resource in the shape of Terraform's JSON: what is wished under `resource`, ids under `import`."""
    name = "".join(letter if letter.isalnum() else "_" for letter in key.name)
    label = name if name[:1].isalpha() else f"key_{name}"
    return {
        "resource": {"keystead_cloud_key": {label: as_body(key)}},
        "import": [{"to": f"keystead_cloud_key.{label}", "id": str(key.pk)}],
    }
