#!/usr/bin/env bash
# make check: everything that can be said about the code without running it. Stops at the first fault.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"

step() { printf '== %s\n' "$1"; }
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

step "style"
ruff check .
ruff format --check .

step "types"
mypy

step "layers"
lint-imports --no-cache

step "migrations"
KEYSTEAD_DATA_DIR="$scratch/embedded" python manage.py makemigrations --check --dry-run

step "deployment settings"
env -i PATH="$PATH" \
    KEYSTEAD_DATA_DIR="$scratch/production" \
    KEYSTEAD_DATABASE_URL="postgres://keystead:not-used@127.0.0.1/keystead" \
    KEYSTEAD_REDIS_URL="redis://127.0.0.1:6379/0" \
    KEYSTEAD_SECRET_KEY="$(python -c 'import secrets; print(secrets.token_urlsafe(50))')" \
    KEYSTEAD_PUBLIC_URL="https://keys.keystead.test" \
    KEYSTEAD_TRUSTED_PROXIES="127.0.0.1" \
    KEYSTEAD_BIND="127.0.0.1" \
    python manage.py check --deploy --fail-level WARNING

step "lock files"
python scripts/check_locks.py

step "licences"
python scripts/check_licences.py
