"""keystead serve"""

import os
import signal
import sys
import time
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import connections

from vault import env, probe, startup
from vault.services.users import ensure_first_admin
from vault.supervisor import Part, Supervisor

# The XKS endpoint's processes get no credential of anything but their own socket.
XKS_SERVE_MAY_NOT_KNOW = [row.name for row in env.SETTINGS.values() if row.secret] + [
    "KEYSTEAD_ROOT_KEY_FILE"
]


class Command(BaseCommand):
    """Runs every part under one supervisor."""

    help = "Run everything: web, XKS agent and endpoint, keeper of HSMs, worker, beat, and the AWS simulator when it is on."

    def handle(self, *args: Any, **options: Any) -> None:
        """Check, prepare, start all parts, and look after them until told to stop."""
        began = time.monotonic()
        lock = startup.lock_data_dir()
        startup.make_folders()
        startup.check_ports(listening())
        startup.check_database(may_migrate=env.is_embedded())
        startup.check_root_key()
        password = ensure_first_admin()
        connections.close_all()
        for name in ("worker", "beat", "hsm"):
            probe.pulse_path(name).unlink(missing_ok=True)

        def when_ready() -> None:
            for line in ready_lines(password, time.monotonic() - began):
                supervisor.say(line)

        supervisor = Supervisor(
            parts(),
            write=write_line,
            when_ready=when_ready,
            # A prefix would break what collectors parse; each JSON line names its logger.
            prefix=env.get("KEYSTEAD_LOG_FORMAT") == "console",
        )
        code = supervisor.run()
        supervisor.say("stopped.")
        lock.close()
        connections.close_all()
        sys.stdout.flush()
        sys.stderr.flush()
        # Taking the interpreter down with all of Django in it can take a second on a busy machine, and people wait.
        os._exit(code)


def write_line(text: str) -> None:
    """Print one line at once. A reader that has gone must not end the service."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def listening() -> list[tuple[str, str, int]]:
    """Return (setting, address, port) of everything that will listen."""
    bind = env.get("KEYSTEAD_BIND")
    found = [(name, bind, env.get(name)) for name in ("KEYSTEAD_WEB_PORT", "KEYSTEAD_XKS_PORT")]
    if env.get("KEYSTEAD_SIMULATOR"):
        found.append(("KEYSTEAD_SIMULATOR_PORT", "127.0.0.1", env.get("KEYSTEAD_SIMULATOR_PORT")))
    return found


def parts() -> list[Part]:
    """Return the parts to run. The supervisor has run the system checks for all of them."""
    root = str(settings.BASE_DIR)
    environ = dict(os.environ)
    environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, [environ.get("PYTHONPATH")])])
    environ["PYTHONUNBUFFERED"] = "1"
    # Said outright, because what they default to depends on settings that not every part is given.
    environ["KEYSTEAD_DATA_DIR"] = str(env.data_dir())
    environ["KEYSTEAD_LOG_FORMAT"] = env.get("KEYSTEAD_LOG_FORMAT")
    environ["KEYSTEAD_SIMULATOR"] = "on" if env.get("KEYSTEAD_SIMULATOR") else "off"
    # PINs of HSMs are for their keeper alone.
    keeping = dict(environ)
    for name in [name for name in environ if name.startswith(env.PIN_PREFIX)]:
        del environ[name]
    bare = {
        name: value
        for name, value in environ.items()
        if name.removesuffix("_FILE") not in XKS_SERVE_MAY_NOT_KNOW
    }

    def command(*words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "vault.cli", *words, "--skip-checks"]

    found = [
        # First, because a root key in an HSM is reached through it. It ends its helpers, hence SIGTERM.
        Part("hsm", command("hsm", "serve"), keeping, probe.hsm, signal.SIGTERM),
        # granian has worker processes of its own to take along, hence SIGTERM.
        Part("web", command("web"), environ, probe.web, signal.SIGTERM),
        Part("agent", command("xks", "agent"), environ, probe.agent),
        # The data plane without Django; `keystead xks serve` is the same for people.
        Part("xks", [sys.executable, "-P", "-m", "xks.server"], bare, probe.xks, signal.SIGTERM),
        Part("worker", command("worker"), environ, probe.worker),
        Part("beat", command("beat"), environ, probe.beat),
    ]
    if env.get("KEYSTEAD_SIMULATOR"):
        found.append(Part("simulator", command("simulator", "aws"), environ, probe.simulator))
    return found


def ready_lines(password: str | None, seconds: float) -> list[str]:
    """Return what a person wants to know when everything runs."""
    url = env.get("KEYSTEAD_PUBLIC_URL")
    scheme = "https" if env.get("KEYSTEAD_XKS_TLS") else "http"
    lines = [
        "",
        f"Keystead is ready ({seconds:.1f} s).",
        f"  Web and REST API    {url}   (API documentation: {url}/api/v1/docs)",
        f"  XKS endpoint        {scheme}://localhost:{env.get('KEYSTEAD_XKS_PORT')}",
    ]
    if env.get("KEYSTEAD_SIMULATOR"):
        lines.append(f"  AWS simulator       http://127.0.0.1:{env.get('KEYSTEAD_SIMULATOR_PORT')}")
    lines.append(f"  Data folder         {env.data_dir()}")
    if password is not None:
        lines += ["", f"First administrator   {env.get('KEYSTEAD_ADMIN_EMAIL')}"]
        if env.is_set("KEYSTEAD_ADMIN_PASSWORD"):
            lines.append("  Password            the one given in KEYSTEAD_ADMIN_PASSWORD")
        else:
            lines.append(
                f"  One-time password   {password}   (shown this once; it must be changed at sign-in)"
            )
    lines += [
        "",
        f"Keep a copy of {env.get('KEYSTEAD_ROOT_KEY_FILE')} elsewhere: without it, nothing here can be read again.",
        f"Next: sign in at {url} and create a vault, or see the whole walk with: make demo",
        "Ctrl-C stops everything.",
    ]
    return lines
