"""Settings of the test suite: a data folder of its own for each process, and nothing from the caller's environment.

The database is that of KEYSTEAD_DATABASE_URL (make test starts a PostgreSQL) or else SQLite in that folder.
"""

import atexit
import os
import shutil
import tempfile

_folder = tempfile.mkdtemp(prefix="keystead-test-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)

_kept = {"KEYSTEAD_DATABASE_URL", "KEYSTEAD_REDIS_URL"}
for _name in [name for name in os.environ if name.startswith("KEYSTEAD_") and name not in _kept]:
    del os.environ[_name]
os.environ["KEYSTEAD_DATA_DIR"] = _folder

from vault.settings import *  # noqa: E402, F403
from vault.settings import DATABASES  # noqa: E402

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, as in use: WAL, IMMEDIATE and other processes mean nothing to a database in memory.
    DATABASES["default"]["TEST"] = {"NAME": os.path.join(_folder, "test.sqlite3")}

# Argon2 and PBKDF2 are slow on purpose; tests that are about them choose their own.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
