"""Settings of the test suite: a data folder of its own for each process, and nothing of the caller's.

The database and Redis are those of KEYSTEAD_DATABASE_URL and KEYSTEAD_REDIS_URL (make test starts both), or else
SQLite in that folder and the cache in memory.
"""

import atexit
import os
import shutil
import tempfile
from urllib.parse import urlsplit

_folder = tempfile.mkdtemp(prefix="keystead-test-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)

_kept = {"KEYSTEAD_DATABASE_URL", "KEYSTEAD_REDIS_URL"}
for _name in [name for name in os.environ if name.startswith("KEYSTEAD_") and name not in _kept]:
    del os.environ[_name]
os.environ["KEYSTEAD_DATA_DIR"] = _folder
if "KEYSTEAD_REDIS_URL" in os.environ:
    # A numbered database for each parallel process, so that one may clear its cache under the others.
    _number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) + 1
    _url = urlsplit(os.environ["KEYSTEAD_REDIS_URL"])
    os.environ["KEYSTEAD_REDIS_URL"] = _url._replace(path=f"/{_number}").geturl()

from vault.settings import *  # noqa: F403
from vault.settings import DATABASES

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # A file, as in use: WAL, IMMEDIATE and other processes mean nothing to a database in memory.
    DATABASES["default"]["TEST"] = {"NAME": os.path.join(_folder, "test.sqlite3")}
# Threads of a test end with it, and so must their connections.
DATABASES["default"]["CONN_MAX_AGE"] = 0

# PBKDF2 is slow on purpose; tests that are about it choose it themselves.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
