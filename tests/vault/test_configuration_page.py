"""docs/configuration.md says what vault.env and vault.checks say."""

from pathlib import Path

from vault import checks, env

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_page_lists_every_setting_as_the_table_has_it():
    text = PAGE.read_text()
    for row in env.SETTINGS.values():
        line = next((line for line in text.splitlines() if line.startswith(f"| `{row.name}` |")), None)
        assert line is not None, f"{row.name} is missing: run scripts/write_configuration.py"
        assert row.help in line
        assert (f"`{row.default}`" if row.default else row.default_note) in line
        assert ("*Secret.*" in line) == row.secret
        assert ("*File.*" in line) == row.names_file


def test_page_lists_nothing_else():
    named = {line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")}
    assert named == set(env.SETTINGS) | set(checks.IDS)
