"""Tags of KMS keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cloudkeys.simulators.aws.context import ApiRequest, AwsError, Simulator
from cloudkeys.simulators.aws.kms_access import authorized_key, customer_key, refuse_pending_deletion
from cloudkeys.simulators.aws.kms_state import page, tags_of

MAX_TAGS = 50
_ALLOWED = re.compile(r"[\w\s+\-=._:/@]*")


def check_tags(tags: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The tags of a request by name. Raises AwsError TagException, LimitExceededException."""
    found: dict[str, str] = {}
    for tag in tags:
        name, value = tag["TagKey"], tag["TagValue"]
        if name.lower().startswith("aws:") or not _ALLOWED.fullmatch(name) or not _ALLOWED.fullmatch(value):
            raise AwsError("TagException", f"The tag {name!r} is not valid.")
        if name in found:
            raise AwsError("TagException", f"Duplicate tag key {name!r}.")
        found[name] = value
    if len(found) > MAX_TAGS:
        raise AwsError("LimitExceededException", f"A KMS key has {MAX_TAGS} tags at most.")
    return found


def tag_resource(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """TagResource: adds tags, or gives existing ones their new value."""
    key = customer_key(sim, request)
    refuse_pending_deletion(key)
    tags = check_tags(request.params["Tags"])
    with sim.state.transaction() as db:
        if len(tags_of(sim, key.key_id).keys() | tags.keys()) > MAX_TAGS:
            raise AwsError("LimitExceededException", f"A KMS key has {MAX_TAGS} tags at most.")
        for name, value in tags.items():
            db.execute(
                "INSERT INTO kms_tags VALUES (?, ?, ?) ON CONFLICT (key_id, name) DO UPDATE SET value = excluded.value",
                (key.key_id, name, value),
            )
    return {}


def untag_resource(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """UntagResource: takes tags away; one that is not there is no error."""
    key = customer_key(sim, request)
    refuse_pending_deletion(key)
    with sim.state.transaction() as db:
        for name in request.params["TagKeys"]:
            db.execute("DELETE FROM kms_tags WHERE key_id = ? AND name = ?", (key.key_id, name))
    return {}


def list_resource_tags(sim: Simulator, request: ApiRequest) -> dict[str, Any]:
    """ListResourceTags of one key."""
    key = authorized_key(sim, request)
    tags = [{"TagKey": name, "TagValue": value} for name, value in tags_of(sim, key.key_id).items()]
    listed, more = page(tags, request.params, "TagKey", 50)
    return {"Tags": listed, **more}
