import getpass
import stat

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from hsm.software import new_key, wrapping_key_id
from tests.vault.rootkeys import write_key
from vault import keys
from vault.keys import ensure_root_key
from vault.management.commands import keys_import_root
from vault.models import AuditEvent, Installation
from vault.rootshares import split_root
from vault.secret import Secret

pytestmark = pytest.mark.django_db


@pytest.fixture
def installed(root_file):
    """The root key's bytes of an installation."""
    Installation.objects.all().delete()
    ensure_root_key(create_allowed=True)
    return root_file.read_bytes()


@pytest.fixture
def answers(monkeypatch):
    """Give the answers that a person would type without echo."""

    def give(*texts):
        left = iter(texts)
        monkeypatch.setattr(getpass, "getpass", lambda prompt: next(left))

    return give


def printed_shares(text):
    return [Secret(line) for line in text.splitlines() if line and not line.startswith("#")]


class TestExport:
    def test_prints_shares_with_the_id_of_their_key(self, installed, capsys):
        call_command("keys_export_root", shares=3, threshold=2)
        out = capsys.readouterr().out
        assert len(printed_shares(out)) == 3
        assert f"# Keystead root key {wrapping_key_id(installed)}: share 2 of 3, any 2 rebuild it" in out
        assert installed.hex() not in out

    def test_writes_files_for_their_user_only_and_prints_none(self, installed, tmp_path, capsys):
        folder = tmp_path / "shares"
        call_command("keys_export_root", shares=5, threshold=3, out_dir=folder)
        said = capsys.readouterr()
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == [f"root-key-share-{n}-of-5.txt" for n in range(1, 6)]
        for file in files:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert file.read_text().splitlines()[1] not in said.out + said.err
        with pytest.raises(CommandError, match="exists"):
            call_command("keys_export_root", shares=5, threshold=3, out_dir=folder)

    def test_is_audited_without_any_word_of_a_share_and_logs_none(self, installed, capsys, caplog):
        call_command("keys_export_root", shares=3, threshold=2)
        words = printed_shares(capsys.readouterr().out)[0].reveal_text().split()
        event = AuditEvent.objects.get(action="vault:root_key:export")
        assert event.detail == {"root_key_id": wrapping_key_id(installed), "shares": 3, "threshold": 2}
        assert words[4] not in str(event.__dict__)
        assert words[4] not in caplog.text

    @pytest.mark.parametrize(("shares", "threshold"), [(2, 3), (3, 1), (17, 2)])
    def test_impossible_numbers_export_nothing(self, installed, capsys, shares, threshold):
        with pytest.raises(CommandError):
            call_command("keys_export_root", shares=shares, threshold=threshold)
        assert printed_shares(capsys.readouterr().out) == []
        assert not AuditEvent.objects.filter(action="vault:root_key:export").exists()

    def test_without_a_root_key_it_says_so(self, installed, root_file):
        root_file.unlink()
        keys.forget_keys()
        with pytest.raises(CommandError, match="does not exist"):
            call_command("keys_export_root", shares=3, threshold=2)

    def test_passphrases_must_agree_and_not_be_empty(self, installed, answers):
        answers("one", "two")
        with pytest.raises(CommandError, match="different"):
            call_command("keys_export_root", shares=3, threshold=2, passphrase=True)
        answers("", "")
        with pytest.raises(CommandError, match="empty"):
            call_command("keys_export_root", shares=3, threshold=2, passphrase=True)


class TestImport:
    def test_asks_for_shares_without_echo_and_compares_with_the_database(
        self, installed, tmp_path, answers, capsys
    ):
        call_command("keys_export_root", shares=3, threshold=2)
        shares = printed_shares(capsys.readouterr().out)
        answers(shares[2].reveal_text(), shares[0].reveal_text(), "")
        out = tmp_path / "rebuilt"
        call_command("keys_import_root", out=out)
        assert out.read_bytes() == installed
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        said = capsys.readouterr().out
        assert wrapping_key_id(installed) in said
        assert "no database" not in said
        assert shares[0].reveal_text() not in said

    def test_with_a_passphrase(self, installed, tmp_path, answers, capsys):
        answers("open sesame", "open sesame")
        call_command("keys_export_root", shares=2, threshold=2, passphrase=True)
        one, two = (share.reveal_text() for share in printed_shares(capsys.readouterr().out))
        answers(one, two, "", "open sesame")
        call_command("keys_import_root", out=tmp_path / "right", passphrase=True)
        assert (tmp_path / "right").read_bytes() == installed
        answers(one, two, "", "open simsim")
        with pytest.raises(CommandError, match=r"passphrase is wrong\. Nothing was written"):
            call_command("keys_import_root", out=tmp_path / "wrong", passphrase=True)
        assert not (tmp_path / "wrong").exists()

    def test_shares_of_another_root_are_refused_with_both_ids(self, installed, tmp_path, answers):
        other = Secret(new_key())
        answers(*(share.reveal_text() for share in split_root(other, shares=2, threshold=2)), "")
        with pytest.raises(CommandError) as caught:
            call_command("keys_import_root", out=tmp_path / "rebuilt")
        assert wrapping_key_id(other.reveal()) in str(caught.value)
        assert wrapping_key_id(installed) in str(caught.value)
        assert not (tmp_path / "rebuilt").exists()

    def test_an_existing_file_is_never_replaced(self, installed, root_file):
        with pytest.raises(CommandError, match="never replaced"):
            call_command("keys_import_root", out=root_file)
        assert root_file.read_bytes() == installed

    def test_too_few_shares(self, installed, tmp_path, answers):
        answers(split_root(Secret(installed), shares=3, threshold=2)[0].reveal_text(), "")
        with pytest.raises(CommandError, match="2 shares are needed, 1"):
            call_command("keys_import_root", out=tmp_path / "rebuilt")

    def test_without_a_database_the_id_is_left_to_the_person(
        self, installed, tmp_path, answers, capsys, monkeypatch
    ):
        shares = split_root(Secret(installed), shares=2, threshold=2)
        monkeypatch.setattr(keys_import_root, "_ids_of_database", list)
        answers(*(share.reveal_text() for share in shares), "")
        call_command("keys_import_root", out=tmp_path / "rebuilt")
        assert "make sure that this is the id" in capsys.readouterr().out

    def test_an_empty_database_has_no_opinion(self, installed):
        assert keys_import_root._ids_of_database() == [wrapping_key_id(installed)]
        Installation.objects.all().delete()
        assert keys_import_root._ids_of_database() == []

    @pytest.mark.skipif(connection.vendor != "sqlite", reason="about SQLite's file")
    def test_a_database_that_is_gone_has_no_opinion(self, monkeypatch, tmp_path):
        monkeypatch.setitem(connection.settings_dict, "NAME", str(tmp_path / "gone.sqlite3"))
        assert keys_import_root._ids_of_database() == []
        assert not (tmp_path / "gone.sqlite3").exists()

    def test_a_share_file_that_is_not_there(self, installed, tmp_path):
        with pytest.raises(CommandError, match="cannot be read"):
            call_command("keys_import_root", tmp_path / "nothing", out=tmp_path / "rebuilt")

    def test_the_expected_id_can_be_given(self, installed, tmp_path):
        files = []
        for number, share in enumerate(split_root(Secret(installed), shares=2, threshold=2)):
            files.append(tmp_path / f"share-{number}")
            files[-1].write_text(share.reveal_text())
        with pytest.raises(CommandError, match="is needed"):
            call_command("keys_import_root", *files, out=tmp_path / "rebuilt", key_id="00" * 16)
        call_command("keys_import_root", *files, out=tmp_path / "rebuilt", key_id=wrapping_key_id(installed))
        assert (tmp_path / "rebuilt").read_bytes() == installed


def test_rewrap_creates_a_key_only_where_none_is(installed, tmp_path):
    existing = write_key(tmp_path / "given")
    call_command("keys_rewrap", new_root_key_file=tmp_path / "given")
    assert (tmp_path / "given").read_bytes() == existing
