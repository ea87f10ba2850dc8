"""Sealed segments are compressed, and dropped after a stated time: neither looks like tampering."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from tests.xks.test_audit_check import World
from vault import keys
from xks.journal_keeping import compress_one, drop_old
from xks.journal_recovery import segments_of
from xks.journal_writer import compressed_path, read_segment
from xks.models import AuditSeal

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(db: None, data_dir) -> World:  # type: ignore[no-untyped-def]
    keys.ensure_root_key(create_allowed=True)
    return World(data_dir)


def compress_all(world: World) -> int:
    count = 0
    while compress_one("node-1", world.folder):
        count += 1
    return count


def test_compressed_segments_hold(world: World) -> None:
    before = world.path().read_bytes()
    numbers = segments_of(world.folder, world.closed.id.hex)
    assert compress_all(world) == len(numbers) + 1  # and the killed worker's; the open one stays
    assert not world.path().exists()
    assert read_segment(world.folder, world.closed.id.hex, 1) == before
    assert segments_of(world.folder, world.closed.id.hex) == numbers
    assert world.check().findings == []


def test_tampering_with_a_compressed_segment_shows(world: World) -> None:
    compress_all(world)
    path = compressed_path(world.folder, world.closed.id.hex, 1)
    path.write_bytes(path.read_bytes()[:-20])
    assert any("segment 1" in finding for finding in world.check().findings)
    path.unlink()
    assert any("segment 1: the file is missing" in finding for finding in world.check().findings)


def test_old_ones_are_dropped_with_a_seal(world: World) -> None:
    compress_all(world)
    now = timezone.now()
    assert drop_old("node-1", world.folder, now=now, keep=timedelta(days=90)) == 0
    AuditSeal.objects.filter(number__lt=6).update(created_at=now - timedelta(days=91))
    dropped = drop_old("node-1", world.folder, now=now, keep=timedelta(days=90))
    assert dropped >= 1
    report = world.check()
    assert report.findings == []
    assert sum("dropped after the time" in note for note in report.notes) == dropped
    assert drop_old("node-1", world.folder, now=now, keep=timedelta(days=90)) == 0


def test_drop_that_was_cut_short_is_finished(world: World) -> None:
    compress_all(world)
    now = timezone.now() + timedelta(days=91)
    kept = compressed_path(world.folder, world.closed.id.hex, 0)
    content = kept.read_bytes()
    drop_old("node-1", world.folder, now=now, keep=timedelta(days=90))
    seals = AuditSeal.objects.count()
    kept.write_bytes(content)  # named in a seal, and the process died before it was removed
    assert drop_old("node-1", world.folder, now=now, keep=timedelta(days=90)) == 1
    assert AuditSeal.objects.count() == seals
    assert not kept.exists()


def test_the_keeper_tidies(world: World) -> None:
    for _ in range(20):
        world.keeper.tidy()
    assert not world.path().exists()
    assert world.check().findings == []
