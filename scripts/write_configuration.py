"""Write docs/configuration.md from vault.env and vault.checks; a test holds the page to them."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from vault import checks, env  # noqa: E402

PAGE = ROOT / "docs" / "configuration.md"

BEFORE = """# Configuration

Keystead is configured by environment variables alone. None is needed: `keystead serve` without any runs embedded, on
loopback, with everything in `./var`. `keystead settings` lists what a process sees, secrets masked.

- **Each setting also as `NAME_FILE`**: the name of a file whose content is the value, as container platforms hand out
  secrets. A missing, empty or oversized file ends the start; so does giving both. For a setting that names a file
  itself (marked *file*), `NAME_FILE` is another spelling of it: both take the path.
- An empty variable counts as not set. A `KEYSTEAD_` variable that is no setting ends the start, because it is
  probably a misspelt one.
- **Embedded** means that `KEYSTEAD_DATABASE_URL` is not set: SQLite in the data folder, schema brought up to date at
  each start, a root key made at the very first. With a database server, run `keystead migrate` after an upgrade and
  supply the root key yourself.
"""

AFTER = """
## Settings that are wrong

Every process looks at its settings before it starts. What is wrong or contradictory is said in one line with an
id, the cause and the cure; an error (E) ends the start, a warning (W) does not.

| id | what it means |
|---|---|
"""


def page() -> str:
    """Return the whole page."""
    text = BEFORE
    section = ""
    for row in env.SETTINGS.values():
        if row.section != section:
            section = row.section
            text += f"\n## {section}\n\n| setting | default | what it is |\n|---|---|---|\n"
        default = f"`{row.default}`" if row.default else row.default_note
        marks = " *Secret.*" if row.secret else " *File.*" if row.names_file else ""
        text += f"| `{row.name}` | {default} | {row.help}{marks} |\n"
    text += AFTER
    for name, meaning in checks.IDS.items():
        text += f"| `{name}` | {meaning} |\n"
    return text


if __name__ == "__main__":
    PAGE.write_text(page())
