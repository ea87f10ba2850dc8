#!/usr/bin/env bash
# Make .venv and install what a lock file names, every file checked by its hash: setup.sh runtime|dev
set -euo pipefail
cd "$(dirname "$0")/.."

lock="${1:?setup.sh runtime|dev}"
scripts/packages.sh run

# One set-up at a time, when two makes run.
mkdir -p .venv
exec 9>.venv/.lock
flock 9

if [ ! -x .venv/bin/python ]; then
    echo "Making .venv"
    python3 -m venv .venv
fi
.venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo ".venv has a Python older than 3.11. Run make clean, and make again." >&2
    exit 1
}

echo "Installing requirements/$lock.lock"
# Wheels only: building a source distribution would run build requirements that no hash covers.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-input --no-deps --only-binary :all: \
    --require-hashes --requirement "requirements/$lock.lock"
.venv/bin/python scripts/install_project.py
touch ".venv/.ready-$lock"
# The larger set holds the smaller one.
if [ "$lock" = dev ]; then touch .venv/.ready-runtime; fi
