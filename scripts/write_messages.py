"""Writes every text that pages mark for translation to locale/en/LC_MESSAGES/django.po, with GNU gettext.

Copy it to locale/<language>/LC_MESSAGES/ to begin a translation; docs/decisions/0010-translation.md tells what else a language needs.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OURS = ("vault", "cloudkeys", "xks", "hsm", "templates")


def main() -> int:
    """Write it; 1 where GNU gettext is missing."""
    if shutil.which("xgettext") is None or shutil.which("msguniq") is None:
        print("GNU gettext is not installed (Debian: the package gettext).", file=sys.stderr)
        return 1
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="keystead-messages-") as folder:
        # Settings want a data folder; nothing of it is used.
        os.environ["KEYSTEAD_DATA_DIR"] = folder
        os.environ["DJANGO_SETTINGS_MODULE"] = "vault.settings"
        import django
        from django.core.management import call_command

        django.setup()
        others = sorted(
            path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in (*OURS, "locale")
        )
        call_command(
            "makemessages",
            locale=["en"],
            no_wrap=True,
            add_location="file",
            ignore_patterns=[f"{name}/*" for name in others],
            verbosity=0,
        )
    written = ROOT / "locale/en/LC_MESSAGES/django.po"
    texts = sum(line.startswith("msgid ") for line in written.read_text().splitlines()) - 1
    print(f"{written.relative_to(ROOT)}: {texts} texts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
