"""Put the project on its virtual environment's path and make the console script, without building a package.

Run by the environment's own Python. Needs no build backend, so there is none to trust or to hash.
"""

import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = """#!{python}
import sys

from vault.cli import main

if __name__ == "__main__":
    sys.exit(main())
"""


def main() -> None:
    """Write keystead.pth and bin/keystead. Raises SystemExit outside a virtual environment."""
    if sys.prefix == sys.base_prefix:
        sys.exit("scripts/install_project.py: run me with a virtual environment's Python")
    (Path(sysconfig.get_path("purelib")) / "keystead.pth").write_text(f"{ROOT}\n")
    script = Path(sysconfig.get_path("scripts")) / "keystead"
    script.write_text(SCRIPT.format(python=sys.executable))
    script.chmod(0o755)


if __name__ == "__main__":
    main()
