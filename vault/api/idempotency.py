"""Idempotency-Key: a POST that is repeated makes its object once (draft-ietf-httpapi-idempotency-key-header).

The record holds what was made, never the answer, because answers hold secrets. A repeat reads the object anew, through the
caller's permissions, and leaves the secret out. What was made is noted inside the very transaction that makes it
(`Actor.before_commit`), so that a process which dies at any moment leaves either both or neither.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import Model
from django.utils import timezone
from rest_framework.response import Response

from vault.actors import Actor
from vault.api.problems import ApiError
from vault.changes import Change
from vault.errors import NotFound
from vault.models import IdempotencyRecord

HEADER = "HTTP_IDEMPOTENCY_KEY"
KEPT = timedelta(hours=24)
# No request runs this long; a record still open after it belongs to a process that died.
ABANDONED = timedelta(minutes=2)
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Made:
    """What the first request made. Either may be None, not both."""

    target_type: str
    target_id: UUID | None
    operation_id: UUID | None


@dataclass(frozen=True)
class Replay:
    """How to answer a repeat.

    model: what the POST makes; its audit event ties the record to it. None when it makes only an Operation.
    read: (request, made) -> the first answer's body without secrets, read through the caller's permissions. Raises NotFound
    when it is gone.
    """

    model: type[Model] | None
    read: Callable[[Any, Made], dict[str, Any]]


def run(request: Any, replay: Replay, handler: Callable[[], Response], *, status: int) -> Response:
    """Answer from what an earlier request made, or run `handler` and remember what it makes.

    `status` is that of the first answer. Raises ApiError: 400 for a malformed key, 422 when the key came with another body,
    409 while the first request runs or when what it made is gone. When the handler fails before it has committed anything,
    the key is free again.
    """
    if HEADER not in request.META:
        return handler()
    key = request.META[HEADER].strip()
    if not _KEY.fullmatch(key):
        raise ApiError(
            "bad_request",
            "Idempotency-Key must have 1 to 255 printable ASCII characters without spaces.",
            field="Idempotency-Key",
            cure="Send a fresh UUID for each thing you want made.",
        )
    actor: Actor = request.auth
    path = request.get_full_path()
    if len(path) > 500:
        raise ApiError("bad_request", "The address is too long.")
    fresh, record = _claim(actor, key, f"{request.method} {path}", _digest(request.data))
    if not fresh:
        return _replayed(request, replay, record, status)
    actor.before_commit.append(lambda change: _note_made(record, replay, change))
    try:
        response = handler()
    except BaseException:
        # The note was rolled back with the object, or both were committed and a repeat must find them.
        IdempotencyRecord.objects.filter(pk=record.pk, target_id=None).delete()
        raise
    target = getattr(response, "target", None)
    if target is not None:
        record.target_type, record.target_id = target._meta.model_name, target.pk
    record.operation_id = getattr(response, "operation_id", None)
    if record.target_id is None and record.operation_id is None:
        # Nothing was made (a dry run), so there is nothing to repeat: asked again, it looks again.
        record.delete()
        return response
    record.status = response.status_code
    record.save()
    return response


def _note_made(record: IdempotencyRecord, replay: Replay, change: Change) -> None:
    """Write what `change` has made into the record, inside its transaction."""
    if record.target_id is not None:
        return
    wanted = replay.model._meta.model_name if replay.model is not None else None
    for event in change.events:
        if event.target_id and (wanted is None or event.target_type == wanted):
            record.target_type, record.target_id = event.target_type, UUID(event.target_id)
            begun = (event.detail or {}).get("operation")
            record.operation_id = UUID(begun) if begun else None
            record.save(update_fields=["target_type", "target_id", "operation_id"])
            return


def _digest(body: Any) -> str:
    """Keyed, because a body may hold a secret that could be guessed from a bare hash."""
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    key = hashlib.sha256(b"keystead.idempotency:" + settings.SECRET_KEY.encode()).digest()
    return hmac.new(key, canonical, hashlib.sha256).hexdigest()


def _claim(actor: Actor, key: str, method_path: str, digest: str) -> tuple[bool, IdempotencyRecord]:
    """(True, new record), or (False, the earlier one). The unique constraint decides between two at once."""
    now = timezone.now()
    mine = IdempotencyRecord.objects.filter(user=actor.user)
    mine.filter(created_at__lt=now - KEPT).delete()
    # The request that was to make something died before it did.
    mine.filter(
        key=key, method_path=method_path, status=None, target_id=None, created_at__lt=now - ABANDONED
    ).delete()
    try:
        with transaction.atomic():
            record = IdempotencyRecord.objects.create(
                user=actor.user,  # type: ignore[misc]  # a request with a key is signed in
                key=key,
                method_path=method_path,
                request_digest=digest,
            )
            return True, record
    except IntegrityError:
        earlier = mine.filter(key=key, method_path=method_path).first()
    if earlier is None:  # freed in this very moment, because the first request failed
        raise _in_progress()
    if not hmac.compare_digest(earlier.request_digest, digest):
        raise ApiError(
            "idempotency_mismatch",
            "This Idempotency-Key came earlier with another body.",
            field="Idempotency-Key",
        )
    if earlier.status is None and (earlier.target_id is None or earlier.created_at >= now - ABANDONED):
        raise _in_progress()
    return False, earlier


def _in_progress() -> ApiError:
    return ApiError(
        "idempotency_in_progress",
        "The first request with this Idempotency-Key has not ended yet.",
        field="Idempotency-Key",
        headers={"Retry-After": "1"},
    )


def _replayed(request: Any, replay: Replay, record: IdempotencyRecord, status: int) -> Response:
    made = Made(record.target_type, record.target_id, record.operation_id)
    try:
        body = replay.read(request, made)
    except NotFound:
        raise ApiError(
            "idempotency_target_gone",
            "What the first request with this Idempotency-Key made is gone, or no longer yours.",
            field="Idempotency-Key",
        ) from None
    response = Response({**body, "idempotency_replayed": True}, status=record.status or status)
    response["Idempotency-Replayed"] = "true"
    return response
