#!/usr/bin/env bash
# Rewrite requirements/*.lock from pyproject.toml: exact versions with hashes, and no package host in them.
# Give package names to raise only these; without any, everything is raised.
set -euo pipefail
cd "$(dirname "$0")/.."

upgrade=(--upgrade)
if [ "$#" -gt 0 ]; then
    upgrade=()
    for name in "$@"; do upgrade+=(--upgrade-package "$name"); done
fi
# Universal: one file for every Python from 3.11 and every platform. The caller's index settings do not matter,
# because neither the index address nor find-links lines are written.
compile=(.venv/bin/uv --quiet pip compile --universal --python-version 3.11 --generate-hashes
         --no-header --no-emit-index-url --no-emit-find-links --no-annotate)

"${compile[@]}" "${upgrade[@]}" --output-file requirements/runtime.lock pyproject.toml
"${compile[@]}" "${upgrade[@]}" --group dev --constraint requirements/runtime.lock \
    --output-file requirements/dev.lock pyproject.toml
.venv/bin/python scripts/check_locks.py
