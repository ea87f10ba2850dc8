"""The keeper: chains begin with a seal, are anchored while they are written and sealed when they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.xks import journals
from vault import keys
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.event_chain import EventsBroken
from vault.keys import unseal
from vault.models import AuditEvent
from xks import journal_format as form
from xks.agent_journal import Journals, new_chain
from xks.agent_registry import ProcessName, boot_id, pid_namespace, start_ticks
from xks.audit_seals import seal_events
from xks.journal_writer import FileJournal, segment_path
from xks.models import AuditKey, AuditSeal, JournalChain

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _root_key(db: None) -> None:
    keys.ensure_root_key(create_allowed=True)


def me() -> ProcessName:
    return ProcessName(boot_id(), pid_namespace(), os.getpid(), start_ticks(os.getpid()) or 0)


def somebody_gone() -> ProcessName:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.DEVNULL) as process:
        pass
    return ProcessName(boot_id(), pid_namespace(), process.pid, 1)


def begin(
    folder: Path, process: ProcessName | None = None, **settings: object
) -> tuple[JournalChain, FileJournal]:
    row, state = new_chain("node-1", process or me())
    journal = journals.make_journal(folder, started=False, **settings)
    journal.start(row.id.hex, state)
    return row, journal


def statements(kind: str) -> list[dict[str, object]]:
    lines = [json.loads(seal.line)["statement"] for seal in AuditSeal.objects.all()]
    return [line for line in lines if line["kind"] == kind]


def test_an_open_chain_is_anchored(tmp_path: Path) -> None:
    row, journal = begin(tmp_path)
    keeper = Journals("node-1", tmp_path)
    keeper.tend(set())
    row.refresh_from_db()
    assert (row.anchor_segment, row.anchor_sequence) == (0, 0)
    for _ in range(3):
        journal.append(journals.record())
    keeper.tend(set())
    row.refresh_from_db()
    assert (row.anchor_segment, row.anchor_sequence, row.anchor_mac) == (0, 4, journal._mac.hex())
    assert statements("chain")[0]["chain"] == row.id.hex
    assert statements("segment") == []
    journal._close_file()


def test_finished_segments_are_sealed_and_their_keys_told(tmp_path: Path) -> None:
    row, journal = begin(tmp_path, segment_bytes=1500)
    first = unseal(row, "state").reveal()
    for _ in range(40):
        journal.append(journals.record())
    Journals("node-1", tmp_path).tend(set())
    row.refresh_from_db()
    told = statements("segment")
    assert [one["segment"] for one in told] == list(range(journal._segment))
    assert row.sealed_segments == journal._segment
    assert unseal(row, "state").reveal() == form.state_after(first, journal._segment)  # older ones are gone
    for one in told:
        data = segment_path(tmp_path, row.id.hex, int(str(one["segment"]))).read_bytes()
        checked = form.check_chain(data, bytes.fromhex(str(one["mac_key"])))
        assert (checked.mac.hex(), checked.records) == (one["mac"], one["records"])
    journal._close_file()


@pytest.mark.parametrize("clean", [True, False])
def test_a_chain_whose_worker_has_ended(tmp_path: Path, clean: bool) -> None:
    row, journal = begin(tmp_path, somebody_gone())
    journal.append(journals.record())
    if clean:
        journal._end_segment()
    journal._close_file()
    Journals("node-1", tmp_path).tend(set())
    row.refresh_from_db()
    assert row.end == ("CLEAN" if clean else "KILLED")
    assert row.state is None
    assert statements("segment")[0]["end"] == ("clean" if clean else "killed")
    assert statements("end") == [{"kind": "end", "chain": row.id.hex, "segments": 1, "end": row.end}]
    Journals("node-1", tmp_path).tend(set())
    assert len(statements("end")) == 1


def test_goodbye_ends_a_chain(tmp_path: Path) -> None:
    row, journal = begin(tmp_path)
    journal._end_segment()
    journal._close_file()
    Journals("node-1", tmp_path).tend({row.process})
    row.refresh_from_db()
    assert row.end == "CLEAN"


def test_a_worker_that_never_wrote(tmp_path: Path) -> None:
    row, _ = new_chain("node-1", somebody_gone())
    Journals("node-1", tmp_path).tend(set())
    row.refresh_from_db()
    assert (row.end, row.sealed_segments) == ("CLEAN", 0)


def test_a_journal_that_was_removed_shows_as_lost(tmp_path: Path) -> None:
    row, journal = begin(tmp_path)
    journal.append(journals.record())
    keeper = Journals("node-1", tmp_path)
    keeper.tend(set())
    journal._close_file()
    journals_file = segment_path(tmp_path, row.id.hex, 0)
    journals_file.unlink()
    JournalChain.objects.filter(pk=row.pk).update(process=str(somebody_gone()))
    keeper.tend(set())
    row.refresh_from_db()
    assert row.end == "LOST"
    assert statements("segment")[0]["end"] == "missing"


def test_a_cut_below_the_anchor_is_told(tmp_path: Path) -> None:
    row, journal = begin(tmp_path)
    for _ in range(5):
        journal.append(journals.record())
    keeper = Journals("node-1", tmp_path)
    keeper.tend(set())
    journal._close_file()
    path = segment_path(tmp_path, row.id.hex, 0)
    cut = [entry.end for entry in form.read_entries(path.read_bytes())][3]
    os.truncate(path, cut)
    Journals("node-1", tmp_path).tend(set())  # an agent that was started anew must not take it for granted
    Journals("node-1", tmp_path).tend({row.process})
    row.refresh_from_db()
    assert row.end == "DAMAGED"
    assert "anchored entries are missing" in str(statements("segment")[0]["detail"])


def test_seals_are_numbered_and_the_key_is_sealed(tmp_path: Path) -> None:
    for _ in range(3):
        begin(tmp_path)[1]._close_file()
    assert list(AuditSeal.objects.values_list("number", flat=True)) == [1, 2, 3]
    row = AuditKey.objects.get()
    assert row.seals == 3
    assert len(bytes.fromhex(row.public_key)) == 32


def test_events_are_sealed_once_and_only_when_they_hold() -> None:
    assert seal_events() is None
    for _ in range(2):
        with change(Actor.system("cli")) as tx:
            tx.audit(Action.VAULT_UPDATE, None)
    assert seal_events() is not None
    assert seal_events() is None
    assert statements("events")[0]["position"] == 2
    with change(Actor.system("cli")) as tx:
        tx.audit(Action.VAULT_UPDATE, None)
    newest = AuditEvent.objects.order_by("-sequence").first()
    assert newest is not None
    AuditEvent.objects.filter(pk=newest.pk).update(reason="forged")
    with pytest.raises(EventsBroken, match="position 3"):
        seal_events()
    assert len(statements("events")) == 1
