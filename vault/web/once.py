"""A form does its work once: double clicks, reloads and Back send the same hidden token again.

The token is claimed in the table of Idempotency-Key (vault/api/idempotency.py) under the person and the address; that it was used
is written inside the very transaction that does the work.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from django.core.cache import cache
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext
from redis.exceptions import RedisError

from vault.api.idempotency import ABANDONED, KEPT
from vault.errors import DomainError
from vault.models import IdempotencyRecord

T = TypeVar("T")
_WAIT_S = 5.0
_DONE = 303


class AlreadyDone(DomainError):
    """This very form was sent before and did its work. `url` is where it led, empty when that is no longer known."""

    code = "conflict"

    def __init__(self, url: str) -> None:
        super().__init__(
            gettext("This form was sent before, and its work is done."),
            cure=gettext("Nothing was done twice. Look at the list."),
        )
        self.url = url


def new_token() -> str:
    """For a hidden field of a form that is shown anew."""
    return uuid.uuid4().hex


def run(request: Any, token: str, work: Callable[[], T]) -> T:
    """Do `work` unless this token did it before. Raises AlreadyDone; what `work` raises frees the token."""
    if not token or len(token) > 64 or not token.isascii() or not token.isalnum():
        return work()
    actor = request.actor
    record = _claim(actor.user, f"form:{token}", f"FORM {request.path}"[:500])
    if record is None:
        raise AlreadyDone(_recall(request, token))
    request.once_token = token

    def note(change: Any) -> None:
        IdempotencyRecord.objects.filter(pk=record.pk).update(status=_DONE)

    actor.before_commit.append(note)
    try:
        result = work()
    except BaseException:
        IdempotencyRecord.objects.filter(pk=record.pk, status=None).delete()
        raise
    finally:
        actor.before_commit.remove(note)
    IdempotencyRecord.objects.filter(pk=record.pk).update(status=_DONE)
    return result


def remember(request: Any, url: str) -> None:
    """Where the form's work led, for a repeat."""
    token = getattr(request, "once_token", "")
    if token:
        try:
            cache.set(_key(request, token), url, timeout=int(KEPT.total_seconds()))
        except RedisError:
            return  # a repeat is then told that it is done, without the way there


def _recall(request: Any, token: str) -> str:
    try:
        return str(cache.get(_key(request, token)) or "")
    except RedisError:
        return ""


def _key(request: Any, token: str) -> str:
    return f"form-led-to:{request.actor.id}:{token}"


def _claim(user: Any, key: str, path: str) -> IdempotencyRecord | None:
    """A new record; None when the token was used. Waits a little for a first request that is still running."""
    now = timezone.now()
    mine = IdempotencyRecord.objects.filter(user=user)
    mine.filter(created_at__lt=now - KEPT).delete()
    mine.filter(key=key, method_path=path, status=None, created_at__lt=now - ABANDONED).delete()
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            with transaction.atomic():
                return IdempotencyRecord.objects.create(user=user, key=key, method_path=path)
        except IntegrityError:
            earlier = mine.filter(key=key, method_path=path).first()
        if earlier is not None and (earlier.status is not None or time.monotonic() > until):
            return None
        time.sleep(0.1)
