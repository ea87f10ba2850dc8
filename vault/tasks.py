"""Celery tasks of this room: thin, and any number of them may run at once."""

from __future__ import annotations

from celery import shared_task

from vault.actors import Actor
from vault.services import nodes, root_key_move


@shared_task(name="vault.watch_nodes")
def watch_nodes() -> int:
    """Raise the alarm for data-plane nodes that have fallen silent."""
    return nodes.watch_nodes(Actor.system("worker", "keystead schedule"))


@shared_task(name=root_key_move.TASK)
def move_root_key() -> int:
    """Move the root key where somebody has asked for it, or go on with a move that a worker left."""
    return root_key_move.do_asked_moves()
