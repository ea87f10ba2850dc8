"""`keystead audit prove-disable`: what counts as proof, what speaks against it, and what is missing."""

from __future__ import annotations

import io
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from cloudkeys.models import CloudKey
from cloudkeys.services.lifecycle import disable_cloud_key, enable_cloud_key
from tests.cast import Cast
from tests.cloudkeys.matrix import owned_key
from tests.xks import journals
from tests.xks.test_agent_journal import begin, somebody_gone
from vault import startup
from vault.actions import Action
from vault.errors import Conflict
from vault.models import AuditEvent
from vault.services.confirmations import confirm_switch
from xks.agent_journal import Journals
from xks.agent_shipping import Shipping
from xks.journal_writer import journal_folder, segment_path
from xks.models import JournalChain
from xks.services.disable_proof import Proof, prove_disable


class World:
    """A key that was disabled and confirmed, and the journal of a worker."""

    def __init__(self, cast: Cast, data: Path) -> None:
        self.cast = cast
        self.journal = data / "journal"
        self.folder = journal_folder(data, "node-1")
        self.key: CloudKey = owned_key(cast)
        done = disable_cloud_key(cast.actor("owner"), self.key.pk, reason="Incident 7")
        self.generation = done.generation
        assert confirm_switch(cast.actor("owner"), Action.CLOUD_KEY_DISABLE, done.key, done.generation)
        self.switched_at = AuditEvent.objects.get(action="cloudkeys:cloud_key:disable").at
        self.confirmed_at = AuditEvent.objects.get(action="vault:data_plane:confirm").at
        self.chain: JournalChain | None = None

    def record(self, *uses: tuple[int, str, datetime], still_open: bool = False, **more: str) -> None:
        """Have a worker record these uses: generation, outcome, when."""
        self.chain, journal = begin(self.folder, None if still_open else somebody_gone())
        for generation, outcome, at in uses:
            fields = {"key_id": str(self.key.pk), **more}
            journal.append(
                journals.record(generation=generation, outcome=outcome, at=at.timestamp(), **fields)
            )
        if not still_open:
            journal._end_segment()
        journal._close_file()
        Journals("node-1", self.folder).tend(set())

    def prove(self, seconds: float | None = None) -> Proof:
        return prove_disable(self.cast.actor("owner"), self.key.pk, self.journal, seconds=seconds)


@pytest.fixture
def world(cast: Cast, data_dir: Path) -> World:
    return World(cast, data_dir)


SECOND = timedelta(seconds=1)
MS = timedelta(milliseconds=1)


@pytest.mark.parametrize("still_open", [False, True])
def test_proven(world: World, still_open: bool) -> None:
    before, after = world.switched_at - SECOND, world.confirmed_at + SECOND
    now = world.generation
    world.record(
        (now - 1, "OK", before - SECOND),
        (now - 1, "OK", before),
        (now, "InvalidStateException", after),
        (now, "InvalidStateException", after + SECOND),
        still_open=still_open,
    )
    proof = world.prove()
    assert (proof.verdict, proof.gaps, proof.offending) == ("PROVEN", [], None)
    assert proof.last_accepted is not None
    assert proof.first_refused is not None
    assert abs(proof.last_accepted.at - before) < MS
    assert abs(proof.first_refused.at - after) < MS
    assert (proof.segments, proof.records, proof.refused, proof.accepted_between) == (1, 4, 2, 0)
    assert (proof.generation, proof.confirmed_at) == (now, world.confirmed_at)


def test_answered_under_the_generation_that_has_it_closed(world: World) -> None:
    world.record((world.generation, "OK", world.switched_at))
    proof = world.prove()
    assert (proof.verdict, proof.offending is not None) == ("VIOLATED", True)
    assert "has the key closed" in proof.offence
    assert proof.offending is not None
    assert proof.offending.where.endswith("segment 0 entry 2")


def test_answered_after_the_confirmation(world: World) -> None:
    world.record((world.generation - 1, "OK", world.confirmed_at + SECOND))
    proof = world.prove()
    assert (proof.verdict, "when nobody could any more" in proof.offence) == ("VIOLATED", True)


def test_a_worker_that_went_back_needs_no_clock(world: World) -> None:
    long_ago = world.switched_at - timedelta(hours=1)  # as a clock that was set back says
    world.record(
        (world.generation, "InvalidStateException", long_ago), (world.generation - 1, "OK", long_ago)
    )
    assert "by an older state afterwards" in world.prove().offence


def test_use_before_the_last_confirmation_is_counted_and_no_violation(world: World) -> None:
    AuditEvent.objects.filter(action="vault:data_plane:confirm").update(at=world.switched_at + SECOND)
    world.record((world.generation - 1, "OK", world.switched_at + SECOND / 2))
    proof = world.prove()
    assert (proof.verdict, proof.accepted_between) == ("PROVEN", 1)


def test_other_keys_and_metadata_say_nothing(world: World) -> None:
    world.record((world.generation, "OK", world.confirmed_at + SECOND), operation="metadata")
    world.record((world.generation, "OK", world.confirmed_at + SECOND), key_id="another")
    assert (world.prove().verdict, world.prove().records) == ("PROVEN", 0)


def test_never_confirmed_by_all_counts_from_the_bound(world: World) -> None:
    AuditEvent.objects.filter(action="vault:data_plane:confirm").update(
        outcome="FAILURE", detail={"bound_s": 30.0, "missing": ["node-b pid 7 (no sign of life)"]}
    )
    world.record((world.generation - 1, "OK", world.switched_at + 20 * SECOND))
    proof = world.prove()
    assert (proof.verdict, proof.confirmed_at) == ("PROVEN", None)
    assert proof.closed_from == world.switched_at + 30 * SECOND
    assert "node-b pid 7" in proof.notes[0]
    world.record((world.generation - 1, "OK", world.switched_at + 31 * SECOND))
    assert world.prove().verdict == "VIOLATED"


def test_reopened_since(world: World) -> None:
    enable_cloud_key(world.cast.actor("owner"), world.key.pk, reason="Over")
    opened = AuditEvent.objects.filter(action="cloudkeys:cloud_key:enable").latest("sequence")
    assert opened.generation is not None
    world.record((opened.generation, "OK", opened.at))
    proof = world.prove()
    assert (proof.verdict, proof.reopened_at) == ("PROVEN", opened.at)


def test_withheld_results_were_not_answered(world: World) -> None:
    self_chain, journal = begin(world.folder, somebody_gone())
    late = world.confirmed_at + SECOND
    journal.append(
        journals.record(generation=world.generation - 1, key_id=str(world.key.pk), at=late.timestamp())
    )
    journal._note_withheld(journal._sequence - 1, journal._sequence - 1)
    journal._write_withheld()
    journal._end_segment()
    journal._close_file()
    Journals("node-1", world.folder).tend(set())
    assert self_chain is not None
    assert (world.prove().verdict, world.prove().records) == ("PROVEN", 0)


@pytest.mark.parametrize("still_open", [False, True])
def test_an_edited_record_is_a_gap_and_no_proof(world: World, still_open: bool) -> None:
    world.record((world.generation - 1, "OK", world.confirmed_at + SECOND), still_open=still_open)
    assert world.chain is not None
    path = segment_path(world.folder, world.chain.id.hex, 0)
    data = path.read_bytes()
    assert data.count(b"OK") == 1
    path.write_bytes(data.replace(b"OK", b"NO"))
    proof = world.prove()
    assert (proof.verdict, proof.records) == ("INCOMPLETE", 0)
    assert "was edited" in proof.gaps[0]


def test_a_file_that_is_gone_is_a_gap(world: World) -> None:
    world.record((world.generation, "InvalidStateException", world.confirmed_at))
    assert world.chain is not None
    segment_path(world.folder, world.chain.id.hex, 0).unlink()
    proof = world.prove()
    assert (proof.verdict, "not there any more" in proof.gaps[0]) == ("INCOMPLETE", True)


def test_another_host_by_the_database(world: World) -> None:
    world.record((world.generation - 1, "OK", world.switched_at - SECOND))
    Shipping("node-1", world.folder).turn()
    shutil.rmtree(world.folder)
    proof = world.prove()
    assert (proof.verdict, proof.from_database, proof.gaps) == ("PROVEN", 1, [])


def test_another_host_that_has_not_shipped_is_a_gap(world: World) -> None:
    world.record((world.generation - 1, "OK", world.switched_at - SECOND), still_open=True)
    shutil.rmtree(world.folder)
    proof = world.prove()
    assert (proof.verdict, "still written to" in proof.gaps[0]) == ("INCOMPLETE", True)


def test_a_reading_that_is_cut_short_proves_nothing(world: World) -> None:
    world.record((world.generation, "DISABLED", world.confirmed_at + SECOND))
    assert world.prove(60).verdict == "PROVEN"
    cut = world.prove(0)
    assert (cut.verdict, cut.segments) == ("INCOMPLETE", 0)
    assert "keystead audit prove-disable reads them all" in cut.gaps[-1]


def test_over_the_api_reading_ends_after_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xks.api.disable_proof.SECONDS", -1.0)
    world.record((world.generation, "OK", world.confirmed_at + SECOND))
    answer = world.cast.api("owner").get(f"/api/v1/cloud-keys/{world.key.pk}/disable-proof")
    assert answer.status_code == 200
    told = answer.json()
    assert (told["verdict"], told["segments"]) == ("INCOMPLETE", 0)
    assert "keystead audit prove-disable reads them all" in told["gaps"][-1]


def test_never_disabled(cast: Cast, data_dir: Path) -> None:
    key = owned_key(cast)
    with pytest.raises(Conflict, match="never been disabled"):
        prove_disable(cast.actor("owner"), key.pk, data_dir / "journal")


class TestCommand:
    """Exit status and words."""

    @pytest.fixture(autouse=True)
    def _one_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leave the start's check out, which ends with closing the connection, and with it this test's transaction."""
        monkeypatch.setattr(startup, "check_root_key", lambda: None)

    def run(self, world: World) -> str:
        out = io.StringIO()
        call_command("audit_prove_disable", world.key.name, stdout=out, skip_checks=True)
        return out.getvalue()

    def test_proven(self, world: World) -> None:
        world.record((world.generation, "InvalidStateException", world.confirmed_at + SECOND))
        shown = self.run(world)
        assert "PROVEN: no use was answered after that." in shown
        assert f"as generation {world.generation}" in shown

    def test_violated(self, world: World) -> None:
        world.record((world.generation, "OK", world.confirmed_at + SECOND))
        with pytest.raises(CommandError, match=r"NOT SO: .*\n.*segment 0 entry 2"):
            self.run(world)

    def test_incomplete(self, world: World) -> None:
        world.record((world.generation, "InvalidStateException", world.confirmed_at))
        assert world.chain is not None
        segment_path(world.folder, world.chain.id.hex, 0).unlink()
        with pytest.raises(SystemExit) as stop:
            self.run(world)
        assert stop.value.code == 3
