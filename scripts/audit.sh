#!/usr/bin/env bash
# Ask for known vulnerabilities of every locked package; a package that was skipped is a failure, as is no answer.
set -euo pipefail
cd "$(dirname "$0")/.."

report="$(mktemp)"
trap 'rm -f "$report"' EXIT
status=0
.venv/bin/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
    --requirement requirements/dev.lock --format json --output "$report" || status=$?
if [ ! -s "$report" ]; then
    echo "audit: no answer (the lines above say why), so nothing was audited." >&2
    exit 1
fi
.venv/bin/python scripts/read_audit.py "$report" requirements/dev.lock
exit "$status"
