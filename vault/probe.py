"""Does a part of Keystead work? Asked by the supervisor and by container health checks; needs no Django.

python -m vault.probe web|xks|simulator|agent|worker|beat|hsm
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import sys
import time
from pathlib import Path

from vault import env

PULSE_SECONDS = 5.0  # how often worker and beat show that they turn
PULSE_LIMIT = 30.0  # after which they are taken for stuck


def http_answers(host: str, port: int, path: str, *, tls: bool, statuses: range = range(200, 300)) -> bool:
    """Tell whether GET `path` on one of our own ports answers with one of `statuses` within a second."""
    connection: http.client.HTTPConnection
    if tls:
        context = ssl.create_default_context()
        # Only asks our own process on this machine whether it works: nothing secret is sent or believed.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=1, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=1)
    try:
        connection.request("GET", path)
        return connection.getresponse().status in statuses
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def local_address() -> str:
    """Return the address under which this machine reaches what listens on KEYSTEAD_BIND."""
    bind = ipaddress.ip_address(env.get("KEYSTEAD_BIND"))
    if bind.is_unspecified:
        return "127.0.0.1" if bind.version == 4 else "::1"
    return str(bind)


def web() -> bool:
    """Ask /healthz of the web part."""
    tls = env.is_set("KEYSTEAD_WEB_TLS_CERT")
    return http_answers(local_address(), env.get("KEYSTEAD_WEB_PORT"), "/healthz", tls=tls)


def xks() -> bool:
    """Ask /ping of the XKS endpoint."""
    return http_answers(
        local_address(), env.get("KEYSTEAD_XKS_PORT"), "/ping", tls=env.get("KEYSTEAD_XKS_TLS")
    )


def simulator() -> bool:
    """Ask the AWS simulator for anything; even a refusal shows that it works."""
    return http_answers(
        "127.0.0.1", env.get("KEYSTEAD_SIMULATOR_PORT"), "/", tls=False, statuses=range(200, 500)
    )


def agent() -> bool:
    """Connect to the XKS agent's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        try:
            connection.connect(str(env.get("KEYSTEAD_XKS_SOCKET")))
        except OSError:
            return False
    return True


def pulse_path(name: str) -> Path:
    """Return the file whose age tells whether `worker` or `beat` still turns."""
    return env.data_dir() / "run" / f"{name}.pulse"


def beat_pulse(name: str) -> None:
    """Show that the process turns. Raises OSError."""
    pulse_path(name).touch(mode=0o600)


def has_pulse(name: str) -> bool:
    """Tell whether the process has shown a sign of life within PULSE_LIMIT seconds."""
    try:
        return time.time() - pulse_path(name).stat().st_mtime < PULSE_LIMIT
    except OSError:
        return False


def worker() -> bool:
    """Look at the Celery worker's pulse."""
    return has_pulse("worker")


def beat() -> bool:
    """Look at the Celery beat's pulse."""
    return has_pulse("beat")


def hsm() -> bool:
    """Look at the pulse of the keeper of HSMs."""
    return has_pulse("hsm")


PROBES = {
    "web": web,
    "xks": xks,
    "simulator": simulator,
    "agent": agent,
    "worker": worker,
    "beat": beat,
    "hsm": hsm,
}


def main(arguments: list[str]) -> int:
    """Return 0 when the named part works, 1 when not, 2 for a wrong name."""
    if len(arguments) != 1 or arguments[0] not in PROBES:
        print(f"usage: python -m vault.probe {'|'.join(PROBES)}", file=sys.stderr)
        return 2
    return 0 if PROBES[arguments[0]]() else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
