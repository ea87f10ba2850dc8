"""Celery tasks of this room: thin, and any number of them may run at once."""

from __future__ import annotations

from celery import shared_task

from vault import env
from vault.actors import Actor
from vault.services import system
from xks.services import attention, attention_mails, doctor, integrity


def _beat() -> Actor:
    return Actor.system("worker", "keystead schedule")


@shared_task(name="xks.note_chain")  # type: ignore[untyped-decorator]  # celery has no types
def note_chain() -> None:
    """Show that beat, broker and a worker together work."""
    system.note_chain()


@shared_task(name="xks.count_unused_keys")  # type: ignore[untyped-decorator]  # celery has no types
def count_unused_keys() -> int:
    """Count, for a few vaults, the keys that nobody uses."""
    return attention.count_unused_keys(_beat())


@shared_task(name="xks.mail_attention")  # type: ignore[untyped-decorator]  # celery has no types
def mail_attention() -> int:
    """Mail what needs attention to those who wish."""
    return attention_mails.mail_attention(_beat())


@shared_task(name="xks.verify_audit_record")  # type: ignore[untyped-decorator]  # celery has no types
def verify_audit_record() -> bool | None:
    """Look about every hour whether the record is what was written."""
    return integrity.verify_when_due(_beat(), env.get("KEYSTEAD_NODE_NAME"), env.data_dir() / "journal")


@shared_task(name=doctor.TASK)  # type: ignore[untyped-decorator]  # celery has no types
def examine_stores() -> int:
    """Examine the stores for which somebody has asked it on a page."""
    return doctor.examine_asked_stores()
