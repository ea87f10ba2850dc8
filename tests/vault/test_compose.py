"""docker-compose.yml and Dockerfile: valid by the compose specification, complete, and what they set is right.

No container engine runs here. The schema is the compose specification's own, as check-jsonschema ships it; what a
schema cannot say (names that lead nowhere, settings that contradict each other) is looked at below.
"""

import copy
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.checks import run_checks

from vault import checks, cli, env, probe

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
VARIABLES = {"KEYSTEAD_PUBLIC_URL": "https://localhost"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Return the compose file, variables filled in."""
    return load(COMPOSE.read_text())


def load(text: str) -> dict[str, Any]:
    """Parse a compose file, with ${NAME:-default} and ${NAME:?message} filled in as compose does."""

    def fill(match: re.Match[str]) -> str:
        name, kind, rest = match.group(1), match.group(2), match.group(3)
        if name in VARIABLES:
            return VARIABLES[name]
        assert kind == ":-", f"{name} has no default"
        return rest

    loaded: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", fill, text))
    return loaded


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    """Check a file against the compose specification's schema."""
    program = Path(sys.executable).with_name("check-jsonschema")
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def faults(document: dict[str, Any]) -> list[str]:
    """Return every name in the file that leads nowhere, and what is defined and not used."""
    found = []
    used: dict[str, set[str]] = {"secrets": set(), "networks": set(), "volumes": set(), "configs": set()}
    for name, service in document["services"].items():
        for other, how in service.get("depends_on", {}).items():
            target = document["services"].get(other)
            if target is None:
                found.append(f"{name} depends on {other}, which is no service")
            elif how["condition"] == "service_healthy" and "healthcheck" not in target:
                found.append(f"{name} waits for the health of {other}, which has no check")
        used["secrets"] |= set(service.get("secrets", []))
        used["networks"] |= set(service.get("networks", []))
        used["configs"] |= {config["source"] for config in service.get("configs", [])}
        used["volumes"] |= {volume.partition(":")[0] for volume in service.get("volumes", [])}
        given = {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}
        values = [*(service.get("environment") or {}).values(), *service.get("entrypoint", [])]
        named = {str(value) for value in values if str(value).startswith("/run/secrets/")}
        found += [f"{name} names {path} and is not given that secret" for path in sorted(named - given)]
    for kind, names in used.items():
        defined = set(document.get(kind) or {})
        found += [f"{name} is used and not defined in {kind}" for name in sorted(names - defined)]
        found += [f"{name} is defined in {kind} and not used" for name in sorted(defined - names)]
    return found


@pytest.mark.slow
def test_the_file_is_valid_by_the_compose_specification():
    done = validate(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("    command: [web]", "    comand: [web]"),
        ("  read_only: true", "  read_only: [yes]"),
        ("      interval: 15s", "      interval: {s: 15}"),
        ("services:", "service:"),
        ("  interval: 15s", "  intervall: 15s"),
    ],
)
def test_a_broken_file_is_not_valid(before, after, tmp_path):
    text = COMPOSE.read_text()
    broken = tmp_path / "docker-compose.yml"
    assert before in text or before.strip() in text
    broken.write_text(text.replace(before.strip(), after.strip(), 1))
    assert validate(broken).returncode != 0


def test_every_name_leads_somewhere(document):
    assert faults(document) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda d: d["services"]["web"]["secrets"].remove("web_key"), "web names /run/secrets/web_key"),
        (lambda d: d["secrets"].pop("node_key"), "node_key is used and not defined"),
        (lambda d: d["configs"].pop("haproxy_cfg"), "haproxy_cfg is used and not defined"),
        (lambda d: d["services"]["web"]["networks"].append("dmz"), "dmz is used and not defined"),
        (lambda d: d["volumes"].update(old={}), "old is defined in volumes and not used"),
        (lambda d: d["services"].pop("redis"), "depends on redis"),
        (lambda d: d["services"]["db"].pop("healthcheck"), "waits for the health of db"),
    ],
)
def test_a_name_that_leads_nowhere_is_found(document, change: Callable[[Any], Any], fault):
    broken = copy.deepcopy(document)
    # YAML aliases are shared lists; a change in one service must not reach the others.
    for service in broken["services"].values():
        service["secrets"] = list(service.get("secrets", []))
        service["networks"] = list(service.get("networks", []))
    change(broken)
    assert any(fault in line for line in faults(broken)), faults(broken)


def cli_command(service: dict[str, Any]) -> str | None:
    """Return the management command that a service runs; None for one without Django."""
    found = cli.resolve(service.get("command", []), cli.find_commands())
    return None if found is None else found[0]


def ours(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the services that run Keystead."""
    return {
        name: service
        for name, service in document["services"].items()
        if service["image"].startswith("keystead:")
    }


def test_one_container_for_each_process(document):
    assert set(ours(document)) == {
        "migrate",
        "first-admin",
        "web",
        "xks-agent",
        "xks",
        "hsm",
        "worker",
        "beat",
    }
    for name, service in ours(document).items():
        if "entrypoint" not in service:
            assert cli.resolve(service["command"], cli.find_commands()) is not None, name
    assert ours(document)["xks"]["entrypoint"] == ["python", "-m", "xks.server"]
    assert (ROOT / "xks" / "server.py").exists()


def test_least_privilege(document):
    for name, service in document["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert not service.get("privileged"), name
    for name, service in ours(document).items():
        assert service["user"] == "10001:10001", name
        assert service["ulimits"]["core"] == 0, name
    published = {name for name, service in document["services"].items() if "ports" in service}
    assert published == {"web", "front"}
    assert document["networks"]["inside"]["internal"] is True


def test_the_front_takes_the_configuration_with_the_made_secrets(document, secrets_folder, tmp_path):
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    if not Path(program).exists():
        pytest.skip("HAProxy is not installed")
    front = document["services"]["front"]
    beside = tmp_path / "run"
    beside.mkdir()
    for name in front["secrets"]:
        shutil.copy(secrets_folder / Path(document["secrets"][name]["file"]).name, beside / name)
    environ = {name: str(value) for name, value in front["environment"].items()}
    environ |= {
        "KEYSTEAD_FRONT_DIR": str(beside),
        "KEYSTEAD_FRONT_RUN": str(beside),
        "KEYSTEAD_NODE": "127.0.0.1:8443",
    }
    (config,) = front["configs"]
    file = ROOT / document["configs"][config["source"]]["file"]
    for verify in ("none", "required"):
        done = subprocess.run(
            [program, "-c", "-f", str(file)],
            env={**environ, "KEYSTEAD_FRONT_VERIFY": verify}, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def test_the_front_is_known_to_the_nodes_by_its_network(document):
    network = document["networks"]["edge"]["ipam"]["config"][0]["subnet"]
    assert document["services"]["xks"]["environment"]["KEYSTEAD_XKS_FRONTS"] == network
    assert "edge" in document["services"]["front"]["networks"]


def test_what_lasts_has_a_health_check(document):
    for name, service in document["services"].items():
        if service["restart"] == "no":
            continue
        test = service["healthcheck"]["test"]
        assert service["healthcheck"]["interval"], name
        if name in ours(document):
            assert test[:4] == ["CMD", "python", "-m", "vault.probe"]
            assert test[4] in probe.PROBES


def test_no_secret_stands_in_the_file(document):
    for name, service in document["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            short = variable.removesuffix("_FILE")
            row = env.SETTINGS.get(variable) or env.SETTINGS.get(short)
            if row is not None and row.secret:
                assert variable.endswith("_FILE"), f"{name}: {variable}"
                assert str(value).startswith("/run/secrets/")
            assert "password" not in str(value).lower() or str(value).startswith("/run/secrets/")


def test_the_data_plane_has_neither_database_nor_root_key(document):
    xks, front = document["services"]["xks"], document["services"]["front"]
    assert set(xks["secrets"]) == {"node_cert", "node_key"}
    assert xks["networks"] == ["edge"]
    assert "inside" not in front["networks"]
    assert not set(front["secrets"]) & {"database_url", "redis_url", "secret_key", "root_key"}
    assert not {"KEYSTEAD_DATABASE_URL_FILE", "KEYSTEAD_ROOT_KEY_FILE", "KEYSTEAD_SECRET_KEY_FILE"} & set(
        xks["environment"]
    )


@pytest.fixture(scope="module")
def secrets_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that scripts/make_compose_secrets.sh makes."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    environ = {"PATH": os.environ["PATH"], "KEYSTEAD_GROUP": str(os.getgid())}
    subprocess.run(
        [ROOT / "scripts/make_compose_secrets.sh", folder], env=environ, check=True, capture_output=True
    )
    return folder


def test_made_secrets_are_private_and_kept(document, secrets_folder):
    named = {ROOT / secret["file"] for secret in document["secrets"].values()}
    made = {ROOT / "secrets" / path.name for path in secrets_folder.iterdir()}
    assert named <= made
    assert stat.S_IMODE(secrets_folder.stat().st_mode) == 0o700
    assert (secrets_folder / "root.key").stat().st_size == 32
    before = {path.name: path.read_bytes() for path in secrets_folder.iterdir()}
    environ = {"PATH": os.environ["PATH"], "KEYSTEAD_GROUP": str(os.getgid())}
    command = [str(ROOT / "scripts/make_compose_secrets.sh"), str(secrets_folder)]
    subprocess.run(command, env=environ, check=True, capture_output=True)
    assert {path.name: path.read_bytes() for path in secrets_folder.iterdir()} == before


@pytest.mark.parametrize(
    "name", ["migrate", "first-admin", "web", "xks-agent", "xks", "hsm", "worker", "beat"]
)
def test_the_settings_of_each_container_pass_the_checks(
    name, document, secrets_folder, data_dir, set_environ, monkeypatch
):
    files = {secret: Path(entry["file"]).name for secret, entry in document["secrets"].items()}
    values = {}
    for variable, value in document["services"][name]["environment"].items():
        if str(value).startswith("/run/secrets/"):
            value = secrets_folder / files[value.rpartition("/")[2]]
        values[variable.removeprefix("KEYSTEAD_")] = str(value)
    set_environ(**values)
    monkeypatch.setattr(checks, "command", cli_command(document["services"][name]))
    if name == "xks":
        # Runs without Django; its server reads these variables by itself.
        assert env.errors() == []
        return
    assert [str(message) for message in run_checks(tags=["keystead"]) if message.is_serious()] == []


def test_the_image_holds_what_it_needs_and_nothing_else():
    ignored = (ROOT / ".dockerignore").read_text().split()
    text = (ROOT / "Dockerfile").read_text()
    assert ignored[0] == "*"
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = set()
    for line in text.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied |= set(line.split()[1:-1])
    assert copied <= allowed
    for source in copied - {"templates"}:
        assert (ROOT / source).exists(), source
    for package in ("hsm", "vault", "cloudkeys", "xks"):
        assert package in copied
    assert "--require-hashes" in text
    assert "--only-binary :all:" in text
    assert re.search(r"^USER 10001:10001$", text, re.M)
    assert not re.search(r"^(ENV|ARG) .*(PASSWORD|SECRET|TOKEN)", text, re.M)
