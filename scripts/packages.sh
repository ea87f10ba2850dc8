#!/usr/bin/env bash
# Install the Debian packages that a target needs and this machine lacks: packages.sh run|test
set -euo pipefail

case "${1:-}" in
    run) wanted=(python3 python3-venv) ;;
    test) wanted=(postgresql redis-server softhsm2 p11-kit p11-kit-modules gcc libc6-dev curl jq haproxy prometheus chromium wrk nghttp2-client) ;;
    *) echo "usage: packages.sh run|test" >&2; exit 2 ;;
esac

# What proves that a package is there, also where it did not come from Debian.
has() {
    case "$1" in
        python3) python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ;;
        python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
        postgresql) compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null ;;
        redis-server) command -v redis-server >/dev/null ;;
        softhsm2) command -v softhsm2-util >/dev/null ;;
        p11-kit) command -v p11-kit >/dev/null ;;
        p11-kit-modules) compgen -G '/usr/lib/*/p11-kit-proxy.so' >/dev/null || compgen -G '/usr/lib*/p11-kit-proxy.so' >/dev/null ;;
        # Not on every user's PATH.
        haproxy) command -v haproxy >/dev/null || [ -x /usr/sbin/haproxy ] ;;
        libc6-dev) [ -e /usr/include/stdio.h ] ;;
        prometheus) command -v promtool >/dev/null ;;
        nghttp2-client) command -v h2load >/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

missing=()
for package in "${wanted[@]}"; do
    has "$package" || missing+=("$package")
done
[ "${#missing[@]}" -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "Missing: ${missing[*]}. Install them with this system's package manager, then run make again." >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    become=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    become=(sudo)
else
    echo "Missing Debian packages: run 'sudo apt-get install ${missing[*]}', then make again." >&2
    exit 1
fi

echo "Installing Debian packages: ${missing[*]}"
# The package's own cluster and service are not used: the tests start their own.
"${become[@]}" apt-get update -qq
"${become[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
for package in "${missing[@]}"; do
    has "$package" || { echo "$package is installed, but what it should bring cannot be found." >&2; exit 1; }
done
