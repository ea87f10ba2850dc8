"""scripts/packages.sh: what it does about missing Debian packages, with every program it calls replaced."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WANTED = "gcc redis-server softhsm2 p11-kit curl jq prometheus chromium wrk nghttp2-client"
PROGRAMS = (
    "gcc",
    "redis-server",
    "softhsm2-util",
    "p11-kit",
    "curl",
    "jq",
    "haproxy",
    "promtool",
    "chromium",
    "wrk",
    "h2load",
)


class Machine:
    """A folder of programs that stands for a machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.log.write_text("")
        for name in ("bash", "env", "cat"):
            (folder / name).symlink_to(shutil.which(name) or "")

    def has(self, name: str, script: str = "exit 0") -> None:
        """Put a program there that notes its call and runs a line of shell."""
        path = self.folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.log}\n{script}\n')
        path.chmod(0o755)

    def run(self, what: str) -> subprocess.CompletedProcess[str]:
        """Run packages.sh there."""
        command = [str(ROOT / "scripts/packages.sh"), what]
        return subprocess.run(command, env={"PATH": str(self.folder)}, capture_output=True, text=True)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Return a machine on which the programs of the test packages are missing."""
    return Machine(tmp_path)


def missing(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that was said."""
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_nothing_missing_asks_nothing(machine):
    for name in ("initdb", *PROGRAMS):
        machine.has(name)
    # p11-kit-proxy.so and haproxy lie where no PATH need lead; the machine under the suite has it.
    assert machine.run("test").returncode == 0
    assert machine.log.read_text() == ""


def test_without_root_and_sudo_one_line_names_them(machine):
    machine.has("id", "echo 1000")
    machine.has("apt-get")
    said = missing(machine.run("test"))
    assert said.startswith("Missing Debian packages: run 'sudo apt-get install ")
    assert all(name in said for name in WANTED.split())
    assert "apt-get" not in machine.log.read_text()


def test_sudo_that_asks_for_a_password_is_not_used(machine):
    machine.has("id", "echo 1000")
    machine.has("apt-get")
    machine.has("sudo", "exit 1")
    assert "Missing Debian packages" in missing(machine.run("test"))
    assert "apt-get" not in machine.log.read_text()


def test_another_system(machine):
    machine.has("id", "echo 0")
    assert "package manager" in missing(machine.run("test"))


@pytest.mark.parametrize("root", [True, False])
def test_they_are_installed(machine, root):
    machine.has("id", f"echo {0 if root else 1000}")
    machine.has("sudo", '[ "$1" = -n ] && shift; exec "$@"')
    machine.has("true")
    install = "; ".join(
        f"printf '#!/bin/bash\\n' >{machine.folder}/{name}; /bin/chmod +x {machine.folder}/{name}"
        for name in PROGRAMS
    )
    machine.has("apt-get", f'[ "$1" = update ] || {{ {install}; }}')
    done = machine.run("test")
    assert done.returncode == 0, done.stderr
    calls = [line for line in machine.log.read_text().splitlines() if line.startswith("apt-get")]
    assert calls[0] == "apt-get update -qq"
    assert calls[1].startswith("apt-get install -y -qq --no-install-recommends ")
    assert all(name in calls[1].split() for name in WANTED.split())
    assert ("sudo" in machine.log.read_text()) == (not root)


def test_an_install_that_brings_nothing_is_a_failure(machine):
    machine.has("id", "echo 0")
    machine.has("apt-get")
    done = machine.run("test")
    assert done.returncode == 1
    assert "cannot be found" in done.stderr


def test_usage(machine):
    assert machine.run("everything").returncode == 2
