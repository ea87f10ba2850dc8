"""`keystead audit verify`: what holds, and every way of tampering with journal, seals, rows and files."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from django.core.management import CommandError, call_command

from tests.xks import journals
from tests.xks.test_agent_journal import begin, somebody_gone
from vault import keys
from vault.actions import Action
from vault.actors import Actor
from vault.changes import change
from vault.models import AuditEvent, Generation
from xks import journal_format as form
from xks.agent_journal import Journals, Keeper
from xks.agent_registry import ProcessName
from xks.agent_shipping import Shipping
from xks.audit_check import Report, verify
from xks.audit_seals import ensure_key, seal_events, seal_restore
from xks.journal_strays import seal_strays
from xks.journal_writer import journal_folder, segment_path
from xks.models import AuditKey, AuditSeal, JournalChain
from xks.seals import Seal

pytestmark = pytest.mark.django_db


class World:
    """A node with one closed chain of several segments, one killed and one still open, and some events."""

    def __init__(self, data: Path) -> None:
        self.journal = data / "journal"
        self.folder = journal_folder(data, "node-1")
        self.keeper = Journals("node-1", self.folder)
        self.closed, journal = begin(self.folder, somebody_gone(), segment_bytes=1500)
        for number in range(30):
            journal.append(journals.record(generation=number))
        journal._end_segment()
        journal._close_file()
        self.killed, journal = begin(self.folder, somebody_gone())
        journal.append(journals.record())
        journal._close_file()
        with segment_path(self.folder, self.killed.id.hex, 0).open("ab") as file:
            file.write(b"\x00\x60\x03torn")
        self.open, journal = begin(self.folder)
        for _ in range(4):
            journal.append(journals.record())
        journal._close_file()
        for _ in range(3):
            with change(Actor.system("cli")) as tx:
                tx.audit(Action.VAULT_UPDATE, None)
        self.keeper.tend(set())
        Shipping("node-1", self.folder).turn()
        seal_events()
        self.public_key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(ensure_key().public_key))

    def check(self, **more: object) -> Report:
        return verify(self.public_key, self.journal, **more)  # type: ignore[arg-type]

    def path(self, segment: int = 1) -> Path:
        return segment_path(self.folder, self.closed.id.hex, segment)


@pytest.fixture
def world(db: None, data_dir: Path) -> World:
    keys.ensure_root_key(create_allowed=True)
    return World(data_dir)


def test_it_holds(world: World) -> None:
    report = world.check()
    assert report.findings == []
    assert (report.chains, report.records, report.events) == (3, 31, 3)
    (killed,) = [note for note in report.notes if "unclean end" in note]
    assert world.killed.id.hex in killed
    assert "unfinished entry" in killed
    assert any("still written to" in note for note in report.notes)


def edit(world: World) -> str:
    data = bytearray(world.path().read_bytes())
    entry = list(form.read_entries(bytes(data)))[3]
    data[entry.offset + 6] ^= 1
    world.path().write_bytes(bytes(data))
    return f"segment 1: entry 3 at byte {entry.offset}"


def remove_record(world: World) -> str:
    data = world.path().read_bytes()
    entry = list(form.read_entries(data))[3]
    world.path().write_bytes(data[: entry.offset] + data[entry.end :])
    return f"segment 1: entry 3 at byte {entry.offset}"


def reorder(world: World) -> str:
    data = world.path().read_bytes()
    entries = list(form.read_entries(data))
    first, second = entries[3], entries[4]
    world.path().write_bytes(
        data[: first.offset]
        + data[second.offset : second.end]
        + data[first.offset : first.end]
        + data[second.end :]
    )
    return f"segment 1: entry 3 at byte {first.offset}"


def cut(world: World) -> str:
    entries = list(form.read_entries(world.path().read_bytes()))
    os.truncate(world.path(), entries[-2].offset)
    return f"segment 1: entry {entries[-2].sequence} at byte {entries[-2].offset}: cut"


def remove_segment(world: World) -> str:
    world.path().unlink()
    return "segment 1: the file is missing"


def swap_segments(world: World) -> str:
    first, second = world.path(1).read_bytes(), world.path(2).read_bytes()
    world.path(1).write_bytes(second)
    world.path(2).write_bytes(first)
    return "segment 1: entry 0 at byte 0"


def put_segment_in(world: World) -> str:
    shutil.copy(world.path(1), world.path(99))
    return "segment 99: put in from outside"


def put_chain_in(world: World) -> str:
    shutil.copytree(world.path().parent, world.folder / ("0" * 32))
    return "no seal says that it began"


def cut_open_journal(world: World) -> str:
    path = segment_path(world.folder, world.open.id.hex, 0)
    entries = list(form.read_entries(path.read_bytes()))
    os.truncate(path, entries[-2].offset)
    return "2 anchored entries are missing from here"


def remove_open_journal(world: World) -> str:
    shutil.rmtree(world.folder / world.open.id.hex)
    return "the file is missing, and it was anchored"


def forget_open_chain(world: World) -> str:
    JournalChain.objects.filter(pk=world.open.pk).delete()
    return "has no row in the database any more"


def edit_seal(world: World) -> str:
    row = AuditSeal.objects.get(number=3)
    AuditSeal.objects.filter(number=3).update(line=row.line.replace("node-1", "node-2"))
    return "seal 3: the signature is not right"


def remove_seal(world: World) -> str:
    AuditSeal.objects.filter(number=2).delete()
    return "seal 2: in its place stands number 3"


def cut_seals(world: World) -> str:
    last = AuditKey.objects.get().seals
    AuditSeal.objects.filter(number=last).delete()
    return f"seal {last}: it is missing"


def edit_event(world: World) -> str:
    event = AuditEvent.objects.order_by("sequence")[1]
    AuditEvent.objects.filter(pk=event.pk).update(reason="forged")
    return "audit event at position 2"


@pytest.mark.parametrize(
    "tamper",
    [
        edit,
        remove_record,
        reorder,
        cut,
        remove_segment,
        swap_segments,
        put_segment_in,
        put_chain_in,
        cut_open_journal,
        remove_open_journal,
        forget_open_chain,
        edit_seal,
        remove_seal,
        cut_seals,
        edit_event,
    ],
)
def test_tampering_is_named(world: World, tamper: Callable[[World], str]) -> None:
    expected = tamper(world)
    report = world.check()
    assert not report.holds
    assert any(expected in finding for finding in report.findings), report.findings


def test_everything_forged_with_another_key_shows(world: World) -> None:
    other = Ed25519PrivateKey.generate().public_key()
    assert "seal 1: the signature" in verify(other, world.journal).findings[0]


def test_seals_cut_together_with_their_count_show_by_a_known_head(world: World) -> None:
    before = world.check()
    last = AuditKey.objects.get().seals
    AuditSeal.objects.filter(number=last).delete()
    AuditKey.objects.update(seals=last - 1)
    assert world.check(known_head=(before.seals, before.head)).findings
    assert world.check(known_head=(1, "0" * 64)).findings == [
        "seal 1: it is not the one that was seen before"
    ]


def test_journals_may_be_checked_where_they_were_copied_to(world: World) -> None:
    copied = world.journal.rename(world.journal.with_name("evidence"))
    world.journal = copied
    report = world.check()
    assert report.findings == []
    assert report.records == 31


def test_journals_of_another_host_are_a_note(world: World) -> None:
    shutil.rmtree(world.folder)
    report = world.check()
    assert report.findings == []
    assert any("on another host" in note for note in report.notes)


@pytest.mark.django_db(transaction=True)  # commands close the connection
def test_commands(world: World) -> None:
    out = StringIO()
    call_command("audit_public_key", stdout=out, skip_checks=True)
    public = out.getvalue().strip()
    assert public == AuditKey.objects.get().public_key
    out = StringIO()
    call_command("audit_verify", "--json", f"--public-key={public}", stdout=out, skip_checks=True)
    told = json.loads(out.getvalue())
    assert told["holds"] is True
    call_command(
        "audit_verify", f"--known-head={told['seals']}:{told['head']}", stdout=StringIO(), skip_checks=True
    )
    expected = edit(world)
    out = StringIO()
    with pytest.raises(CommandError, match="1 findings"):
        call_command("audit_verify", stdout=out, skip_checks=True)
    assert expected in out.getvalue()
    with pytest.raises(CommandError, match="64 hex digits"):
        call_command("audit_verify", "--public-key=zz")


def test_a_restored_database_is_told_as_what_it_is(world: World) -> None:
    before = world.check()
    newer = AuditKey.objects.get().seals
    AuditSeal.objects.filter(number__gt=newer - 2).delete()  # an older database was put back
    kept = AuditSeal.objects.get(number=newer - 2)
    AuditKey.objects.update(seals=newer - 2, last_digest=Seal(kept.line, bytes(kept.signature)).digest)
    assert "it is missing" in world.check(known_head=(before.seals, before.head)).findings[0]
    Generation.objects.update_or_create(pk=1, defaults={"value": 10**12 + 5})
    number = seal_restore()
    assert number == newer - 1
    assert seal_restore() is None
    report = world.check(known_head=(before.seals, before.head))
    assert any(
        f"seals {number} to {before.seals}" in text and "restore of an older" in text
        for text in report.findings
    )
    report = world.check()
    assert any("was restored from a backup" in note for note in report.notes)


# --- journals of the time that a restore lost


@pytest.fixture
def restored(world: World) -> tuple[World, str]:
    """Put back the database of before a worker began; return what is left of its journal."""
    seals = AuditKey.objects.get().seals
    row, journal = begin(world.folder, segment_bytes=1500)
    for number in range(30):
        journal.append(journals.record(generation=number))
    journal._end_segment()
    journal._close_file()
    chain = row.id.hex
    row.delete()
    AuditSeal.objects.filter(number__gt=seals).delete()
    kept = AuditSeal.objects.get(number=seals)
    AuditKey.objects.update(seals=seals, last_digest=Seal(kept.line, bytes(kept.signature)).digest)
    Generation.objects.update_or_create(pk=1, defaults={"value": 10**12 + 5})
    return world, chain


def test_a_worker_that_outlives_a_restore_begins_anew_before_its_old_journal_is_signed(world: World) -> None:
    """Or what it writes from then on would be anchored, sealed and shipped by nobody."""
    seals = AuditKey.objects.get().seals
    process = ProcessName.of(os.getpid(), os.getpid(), 0.0)
    row, journal = begin(world.folder, process)
    journal.append(journals.record(generation=1))
    given: list[tuple[ProcessName, str, bytes]] = []
    journal_keeper = Journals("node-1", world.folder)
    keeper = Keeper(
        journal_keeper, give=lambda *told: given.append(told), failed=lambda error: None, beat_s=0.0
    )
    keeper.holds(process, row.id.hex)
    keeper._work()
    assert given == []  # the database knows it

    lost = row.id.hex
    row.delete()
    AuditSeal.objects.filter(number__gt=seals).delete()
    kept = AuditSeal.objects.get(number=seals)
    AuditKey.objects.update(seals=seals, last_digest=Seal(kept.line, bytes(kept.signature)).digest)
    Generation.objects.update_or_create(pk=1, defaults={"value": 10**12 + 5})
    keeper._chains_known = keeper._restore_sealed = False  # as after any fault of the database
    keeper._work()
    ((to, chain, state),) = given
    assert to == process
    assert chain != lost
    journal.append(journals.record(generation=2))  # until it hears of it, it goes on with the old one
    assert '"strays"' not in "".join(AuditSeal.objects.values_list("line", flat=True))
    journal.start(chain, state)
    journal.append(journals.record(generation=3))
    keeper._work()
    (stray,) = [
        json.loads(seal.line)["statement"]
        for seal in AuditSeal.objects.filter(line__contains='"kind":"stray"')
    ]
    assert stray["chain"] == lost
    assert [segment["records"] for segment in stray["segments"]] == [2]

    journal._end_segment()
    journal._close_file()
    keeper.gone(process)
    keeper._work()
    report = world.check()
    assert report.findings == []
    assert JournalChain.objects.get(pk=chain).sealed_segments == 1


def test_journals_of_the_lost_time_are_told_as_that(restored: tuple[World, str]) -> None:
    world, chain = restored
    assert seal_strays("node-1", world.folder) is None  # nothing was restored that it knows of
    assert seal_restore() is not None
    (finding,) = world.check().findings
    assert chain in finding
    assert "has not looked since the restore" in finding
    assert seal_strays("node-1", world.folder) == [chain]
    assert seal_strays("node-1", world.folder) is None
    assert seal_strays("node-2", world.folder.parent / "node-2") == []
    report = world.check()
    assert report.findings == []
    assert any(chain in note and "found after a restore, unchanged since" in note for note in report.notes)
    assert any(chain in gap and "its 30 records are not in the database" in gap for gap in report.gaps)
    # Another restore is another look: what was found in this one stays known.
    Generation.objects.update(value=2 * 10**12 + 5)
    assert seal_restore() is not None
    assert world.check().findings == []


def changed_since(world: World, chain: str) -> str:
    path = segment_path(world.folder, chain, 1)
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    return "changed since it was found"


def grown_since(world: World, chain: str) -> str:
    with segment_path(world.folder, chain, 1).open("ab") as file:
        file.write(b"x" * 90)
    return "90 bytes more than were found"


def removed_since(world: World, chain: str) -> str:
    segment_path(world.folder, chain, 1).unlink()
    return "the file is missing"


def put_in_since(world: World, chain: str) -> str:
    shutil.copytree(world.folder / chain, world.folder / ("c" * 32))
    return f"{'c' * 32}: no seal says that it began"


@pytest.mark.parametrize("tamper", [changed_since, grown_since, removed_since, put_in_since])
def test_what_happens_to_them_later_is_tampering(
    restored: tuple[World, str], tamper: Callable[[World, str], str]
) -> None:
    world, chain = restored
    seal_restore()
    seal_strays("node-1", world.folder)
    expected = tamper(world, chain)
    (finding,) = world.check().findings
    assert expected in finding
    assert "has not looked" not in finding


def test_what_is_not_of_that_time_and_node_is_not_taken_for_it(restored: tuple[World, str]) -> None:
    world, chain = restored
    shutil.copytree(world.folder / chain, world.folder / ("c" * 32))  # it says another name of itself
    (world.folder / ("d" * 32)).mkdir()
    seal_restore()
    seal = AuditSeal.objects.order_by("-number")[1]
    line = json.loads(seal.line)
    line["at"] = "2126-01-01T00:00:00.000Z"  # as if the backup had been made after the journal
    AuditSeal.objects.filter(pk=seal.pk).update(line=json.dumps(line))
    assert seal_strays("node-1", world.folder) == []
    AuditSeal.objects.filter(pk=seal.pk).update(line=seal.line)
    assert len(world.check().findings) == 3
