#!/usr/bin/env bash
# Make ./secrets for docker-compose.yml: passwords, the root key, and trial certificates signed by themselves.
# Files that exist stay as they are, so put real certificates there first, or later and restart web and xks.
# Keep a copy of secrets/root.key elsewhere: without it nothing in the database can be read again.
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-secrets}"
group="${KEYSTEAD_GROUP:-10001}"

umask 077
mkdir -p "$folder"

random() { head -c 32 /dev/urandom | base64 | tr '+/' '-_' | tr -d '=\n'; }
make_file() { # NAME CONTENT
    [ -e "$folder/$1" ] || printf '%s\n' "$2" >"$folder/$1"
}
certificate() { # NAME HOST
    if [ -e "$folder/$1.pem" ]; then return; fi
    # openssl writes the key as PKCS#8, which is what Keystead takes.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 90 -subj "/CN=$2" \
        -addext "subjectAltName=DNS:$2" -keyout "$folder/$1-key.pem" -out "$folder/$1.pem" 2>/dev/null
}

make_file postgres_password "$(random)"
make_file redis_password "$(random)"
make_file database_url "postgres://keystead:$(cat "$folder/postgres_password")@db:5432/keystead"
make_file redis_url "redis://:$(cat "$folder/redis_password")@redis:6379/0"
make_file redis.conf "$(printf 'requirepass %s\nsave ""\nappendonly no\n' "$(cat "$folder/redis_password")")"
make_file secret_key "$(random)$(random)"
[ -e "$folder/root.key" ] || head -c 32 /dev/urandom >"$folder/root.key"
certificate web "${KEYSTEAD_WEB_HOST:-localhost}"
certificate xks "${KEYSTEAD_XKS_HOST:-xks.keystead.test}"
# Between the front and the nodes; the front accepts this one certificate and no other.
certificate node xks.keystead.test
[ -e "$folder/front.pem" ] || cat "$folder/xks.pem" "$folder/xks-key.pem" >"$folder/front.pem"
# For KEYSTEAD_FRONT_VERIFY=required put the Amazon Trust Services roots here; until then nobody's certificate would do.
[ -e "$folder/client-roots.pem" ] || cat "$folder/xks.pem" >"$folder/client-roots.pem"
[ -e "$folder/balancers.lst" ] || : >"$folder/balancers.lst"

# The folder keeps everybody else on this machine out; the modes are for the users inside the containers.
chmod 0440 "$folder"/*
chmod 0444 "$folder/redis.conf"
if [ "$(id -u)" -eq 0 ]; then
    chgrp "$group" "$folder"/*
else
    echo "Not root, so the files still belong to your group. Run: sudo chgrp $group $folder/*" >&2
fi
echo "Made $folder. Keep a copy of $folder/root.key elsewhere."
