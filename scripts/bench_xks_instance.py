"""A Keystead of its own for the benchmarks of the data plane: a filled database, an agent and an XKS server.

``bench_xks_instance.py fill FILE`` is run by :class:`Instance` in a process of its own, so that Django stays out
of the process that measures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "scripts"))

from bench_xks_load import Target, call, resident_kib  # noqa: E402
from demo_instance import free_ports  # noqa: E402

PREFIX = "/bench"
ACCOUNT = "111122223333"
START_S = 120.0
BATCH = 2_000

RULES: list[dict[str, Any]] = [
    {"name": name, "effect": effect, "conditions": conditions}
    for name, effect, conditions in (
        (
            "no leavers", "DENY",
            [{"field": "principal", "values": [f"arn:aws:iam::{ACCOUNT}:user/leaver-*"], "negated": False}],
        ),
        (
            "old roles", "DENY",
            [{"field": "role", "values": [f"arn:aws:iam::{ACCOUNT}:role/Old*"], "negated": False}],
        ),
        ("not from VPC 1", "DENY", [{"field": "source_vpc", "values": ["vpc-1"], "negated": False}]),
        ("our account", "ALLOW", [{"field": "account", "values": [ACCOUNT], "negated": False}]),
    )
]  # fmt: skip
"""What the benchmark's stores ask of every use; its requests pass."""


@dataclass(frozen=True)
class Content:
    """What a database is filled with."""

    keys: int = 10_000
    stores: int = 1
    rules: bool = True
    protection: str = "software"
    """hsm-wrapped and hsm-resident: in a SoftHSM token of the instance's own."""


def fill(content: Content) -> dict[str, Any]:
    """Fill the database of this process's settings; return the first store's credential and its keys' ids."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import transaction
    from django.utils import timezone

    from cloudkeys.models import CloudKey, KeySet, KeyVersion, XksCredential, XksKeyStore
    from vault import keys
    from vault.generations import raise_generation
    from vault.models import GenerationChange, Vault
    from xks.models import AccessRuleSet, AccessRuleVersion

    call_command("migrate", interactive=False, verbosity=0, skip_checks=True)
    keys.ensure_root_key(create_allowed=True)
    now = timezone.now()
    with transaction.atomic():
        vault = Vault(name="Bench")
        vault.kek_blob = keys.new_vault_kek(vault.pk)
        vault.save(force_insert=True)
    key_sets = [KeySet(vault=vault, name=f"set-{number}") for number in range(content.stores)]
    if content.protection != "software":
        from bench_xks_hsm import protect

        protect(vault, key_sets, content.protection)
    with transaction.atomic():
        KeySet.objects.bulk_create(key_sets)
        stores = [
            XksKeyStore(
                vault=vault, key_set=key_set, path_prefix=PREFIX if number == 0 else f"{PREFIX}-{number}"
            )
            for number, key_set in enumerate(key_sets)
        ]
        XksKeyStore.objects.bulk_create(stores)
        credentials = []
        for number, store in enumerate(stores):
            letters = "".join(chr(ord("A") + int(digit)) for digit in f"{number:06d}")
            credential = XksCredential(
                vault=vault, store=store, access_key_id=f"BENCHMARKCREDENTIAL{letters}"
            )
            keys.seal(credential, "secret_access_key", credential.access_key_id.lower() * 2)
            credentials.append(credential)
        XksCredential.objects.bulk_create(credentials)
        if content.rules:
            for store in stores:
                rule_set = AccessRuleSet.objects.create(vault=vault, store=store)
                version = AccessRuleVersion.objects.create(
                    vault=vault, rule_set=rule_set, number=1, rules=RULES
                )
                AccessRuleSet.objects.filter(pk=rule_set.pk).update(enforced=version)
    rows = [
        CloudKey(
            vault=vault, key_set=store.key_set, store=store, name="health", external_key_id="health",
            kind=CloudKey.Kind.HEALTH_CHECK, permitted_uses=["ENCRYPT", "DECRYPT"], current_version=1,
            rotated_at=now,
        )
        for store in stores
    ]  # fmt: skip
    for number in range(content.keys):
        store = stores[number % content.stores]
        rows.append(
            CloudKey(
                vault=vault, key_set=store.key_set, store=store, name=f"key-{number:06}",
                external_key_id=f"7f3b9f4c-6b0e-4d5c-9a51-{number:012d}",
                permitted_uses=["ENCRYPT", "DECRYPT"], current_version=1, tags={"stage": "prod"},
                rotated_at=now,
            )
        )  # fmt: skip
    # A transaction for each batch: with one for all, others (a keeper of HSMs) would wait for minutes to write on SQLite.
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        CloudKey.objects.bulk_create(batch)
        protected = [key for key in batch if content.protection == "software" or key.kind == "HEALTH_CHECK"]
        versions = [KeyVersion(vault=vault, cloud_key=key, number=1) for key in protected]
        for version in versions:
            keys.seal(version, "material", os.urandom(32))
        KeyVersion.objects.bulk_create(versions)
    if content.protection != "software":
        from bench_xks_hsm import add_versions

        add_versions([row for row in rows if row.kind != "HEALTH_CHECK"])
    with transaction.atomic():
        raise_generation([(GenerationChange.Kind.STORE, store.pk) for store in stores])
    return {
        "access_key_id": credentials[0].access_key_id,
        "secret": credentials[0].access_key_id.lower() * 2,
        "keys": [
            row.external_key_id for row in rows if row.store_id == stores[0].pk and row.name != "health"
        ],
    }


def migrate() -> None:
    """Make the database of this process's settings."""
    import django

    django.setup()
    from django.core.management import call_command

    from vault import keys, startup

    startup.make_folders()
    call_command("migrate", interactive=False, verbosity=0, skip_checks=True)
    keys.ensure_root_key(create_allowed=True)


def touch() -> None:
    """Tell the data plane of a change of every store and of up to 1,000 keys, once for each line of input."""
    import django

    django.setup()
    from django.db import transaction

    from cloudkeys.models import CloudKey, XksKeyStore
    from vault.generations import raise_generation
    from vault.models import GenerationChange

    stores = list(XksKeyStore.objects.values_list("pk", flat=True))
    keys = list(CloudKey.objects.values_list("pk", flat=True)[:1000])
    changes = [(GenerationChange.Kind.STORE, pk) for pk in stores]
    changes += [(GenerationChange.Kind.KEY, pk) for pk in keys]
    print("ready", flush=True)
    for _ in sys.stdin:
        with transaction.atomic():
            raise_generation(changes)


@dataclass
class Instance:
    """An agent and an XKS server in a folder of their own, with TLS, journal, access rules and metrics."""

    content: Content = Content()
    workers: int = 2
    sync: str = "write"
    settings: dict[str, str] = field(default_factory=dict)
    """Further KEYSTEAD_ settings."""

    def __enter__(self) -> Instance:
        """Fill the database, start both and wait until all workers serve."""
        self._folder = tempfile.TemporaryDirectory(prefix="ks")
        self.folder = Path(self._folder.name)
        ports = free_ports(3)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("KEYSTEAD_", "AWS_", "DJANGO_"))}
        self.environ = {
            **kept,
            "DJANGO_SETTINGS_MODULE": "vault.settings",
            "KEYSTEAD_DATA_DIR": str(self.folder / "var"),
            "KEYSTEAD_XKS_PORT": str(ports[0]),
            "KEYSTEAD_METRICS_PORT": str(ports[1]),
            "KEYSTEAD_WEB_PORT": str(ports[2]),
            "KEYSTEAD_XKS_WORKERS": str(self.workers),
            "KEYSTEAD_XKS_JOURNAL_SYNC": self.sync,
            "PYTHONPATH": str(ROOT),
            **self.settings,
        }
        (self.folder / "var").mkdir(mode=0o700)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            if self.content.protection != "software":
                self._run("migrate")
                self.start("keeper", "hsm", "serve")
            made = self._run("fill")
            self.target = Target(
                name="keystead",
                host="localhost",
                port=ports[0],
                tls=True,
                prefix=PREFIX,
                access_key_id=made["access_key_id"],
                secret=made["secret"],
                keys=tuple(made["keys"]),
            )
            self.start("agent", "xks", "agent")
            self.start("serve", "xks", "serve")
            self.wait_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything and remove the folder."""
        for name in ("serve", "agent", "keeper"):
            self.stop(name)
        self._folder.cleanup()

    def start(self, name: str, *command: str) -> None:
        """Start ``keystead COMMAND`` (left out: ``xks NAME``)."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", "vault.cli", *(command or ("xks", name))],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self, name: str) -> None:
        """Stop one of them, if it runs."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait_ready(self) -> None:
        """Wait until every worker serves. Raises SystemExit with the logs' ends."""
        deadline = time.monotonic() + START_S
        good = 0
        while good < 4 * self.workers:  # connections fall on workers by chance
            if any(process.poll() is not None for process in self.processes.values()):
                raise SystemExit(f"the instance has ended:\n{self.logs()}")
            if time.monotonic() > deadline:
                raise SystemExit(f"the instance does not get ready:\n{self.logs()}")
            try:
                status, _ = call(self.target, "health")
            except (OSError, HTTPException):
                status = 0
            good = good + 1 if status == 200 else 0
            if not good:
                time.sleep(0.1)

    def logs(self) -> str:
        """Return the ends of both logs."""
        return "\n".join(path.read_text("utf-8", "replace")[-2000:] for path in self.folder.glob("*.log"))

    def worker_pids(self) -> list[int]:
        """Return the processes of the XKS server that serve."""
        parent = self.processes["serve"].pid
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]

    def memory_kib(self) -> dict[str, int]:
        """Return resident memory: the largest worker, all of the server, the agent."""
        workers = [resident_kib(pid) for pid in self.worker_pids()]
        return {
            "worker": max(workers, default=0),
            "server": sum(workers) + resident_kib(self.processes["serve"].pid),
            "agent": resident_kib(self.processes["agent"].pid),
        }

    def toucher(self) -> subprocess.Popen[bytes]:
        """Start a process that changes every store and up to 1,000 keys for each line it is sent, once it says ready."""
        process = subprocess.Popen(
            [sys.executable, __file__, "touch", "{}"],
            env=self.environ,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        if process.stdout is None or process.stdout.readline() != b"ready\n":
            raise SystemExit("the process that changes the database did not start")
        return process

    def _run(self, what: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, __file__, what, json.dumps(asdict(self.content))],
            env=self.environ,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        )
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fill", content]:
            print(json.dumps(fill(Content(**json.loads(content)))))
        case ["migrate", _]:
            migrate()
            print("{}")
        case ["touch", _]:
            touch()
        case _:
            sys.exit("usage: bench_xks_instance.py fill CONTENT")
