"""vault.supervisor, with small programs as parts."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vault import supervisor as supervising
from vault.supervisor import Part, Supervisor

ROOT = Path(__file__).parents[2]


def wait_for(condition: Callable[[], Any], seconds: float = 10) -> Any:
    """Return the first true value of `condition`; fail when it does not come."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        threading.Event().wait(0.01)
    pytest.fail("it did not happen in time")


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def program(code: str) -> list[str]:
    """Return the command that runs a few lines of Python."""
    return [sys.executable, "-I", "-S", "-c", textwrap.dedent(code)]


class Run:
    """A supervisor in this process's main thread, driven by another thread."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ready = threading.Event()
        self.driver_error: BaseException | None = None

    def go(self, parts: list[Part], driver: Callable[["Run"], None], **options: Any) -> int:
        """Run until the driver returns; return the exit status."""
        supervisor = Supervisor(parts, write=self.lines.append, when_ready=self.ready.set, **options)

        def drive() -> None:
            try:
                driver(self)
            except BaseException as error:
                self.driver_error = error
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=drive)
        handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
        try:
            thread.start()
            code = supervisor.run()
            thread.join()
        finally:
            signal.signal(signal.SIGTERM, handler)
        if self.driver_error is not None:
            raise self.driver_error
        return code

    def said(self, pattern: str) -> re.Match[str] | None:
        """Return the first match in what was printed."""
        return next(
            (found for found in (re.search(pattern, line) for line in list(self.lines)) if found), None
        )


@pytest.fixture
def run() -> Run:
    """Return a run of a supervisor."""
    return Run()


def part(name: str, code: str, ready: Callable[[], bool] = lambda: True, **options: Any) -> Part:
    """Return a part that runs a few lines of Python."""
    return Part(name, program(code), dict(os.environ), ready, **options)


SLEEPER = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(100)"
STUBBORN = """
    import os, signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print('pid', os.getpid(), flush=True)
    time.sleep(100)
"""


def test_lines_are_prefixed_and_parts_stopped(run):
    def driver(run: Run) -> None:
        wait_for(run.ready.is_set)
        wait_for(lambda: run.said(r"^longer   \| pid") and run.said(r"^a        \| pid"))

    assert run.go([part("a", SLEEPER), part("longer", SLEEPER)], driver) == 0
    assert not run.said("did not stop")
    assert run.said(r"^a        \| pid \d+$")
    for name in ("a", "longer"):
        assert not is_alive(int(run.said(rf"^{name} +\| pid (\d+)").group(1)))


def test_json_lines_are_left_alone(run):
    def driver(run: Run) -> None:
        wait_for(lambda: run.said(r"."))

    run.go(
        [part("a", "print('{\"event\": 1}', flush=True); import time; time.sleep(100)")], driver, prefix=False
    )
    assert run.lines[0] == '{"event": 1}'


def test_what_a_part_wrote_last_is_not_lost(run):
    code = "import os; os.write(1, b'x' * 70000 + b'\\n' + b'y' * 200000 + b'\\nno newline'); os._exit(3)"

    def driver(run: Run) -> None:
        wait_for(lambda: run.said("ended with status 3"))

    run.go([part("a", code, ready=lambda: False)], driver)
    text = [line.partition("| ")[2] for line in run.lines]
    assert text[0] == "x" * 70000
    assert "".join(text[1:]).startswith("y" * 200000 + "no newline")


def test_a_part_that_dies_comes_back_with_backoff(run, monkeypatch):
    monkeypatch.setattr(supervising, "FIRST_DELAY", 0.02)
    pids: list[int] = []

    def new_pid() -> int | None:
        found = [int(line.split()[-1]) for line in run.lines if "| pid" in line]
        return found[-1] if len(found) > len(pids) else None

    def driver(run: Run) -> None:
        wait_for(run.ready.is_set)
        for _ in range(3):
            pids.append(wait_for(new_pid))
            os.kill(pids[-1], signal.SIGKILL)
        pids.append(wait_for(new_pid))

    code = run.go([part("a", SLEEPER)], driver)
    assert code == 0
    assert len(set(pids)) == 4
    said = [line.partition("| ")[2] for line in run.lines if "| pid" not in line]
    assert said == [
        f"a was killed by SIGKILL; it is started again in {delay:g} s." for delay in (0.02, 0.04, 0.08)
    ]


def test_a_part_that_never_starts_ends_the_start(run, monkeypatch):
    monkeypatch.setattr(supervising, "FIRST_DELAY", 0.01)

    def driver(run: Run) -> None:
        wait_for(lambda: run.said("5 times in a row"))

    parts = [part("bad", "print('why'); raise SystemExit(7)", ready=lambda: False), part("good", SLEEPER)]
    code = run.go(parts, driver)
    assert code == 1
    assert run.said(r"bad ended with status 7, 5 times in a row\. Its lines above say why; stopping\.")
    assert run.said(r"^bad +\| why$")
    assert not run.ready.is_set()


def test_a_part_that_is_never_ready_ends_the_start(run, monkeypatch):
    monkeypatch.setattr(supervising, "READY_SECONDS", 0.2)

    def driver(run: Run) -> None:
        wait_for(lambda: run.said("not ready after"))

    code = run.go([part("slow", SLEEPER, ready=lambda: False), part("good", SLEEPER)], driver)
    assert code == 1
    assert run.said(r"\| slow not ready after 0\.2 s")


def test_ready_is_said_once_when_all_are(run):
    gate = threading.Event()

    def driver(run: Run) -> None:
        wait_for(lambda: run.said("pid"))
        assert not run.ready.is_set()
        gate.set()
        wait_for(run.ready.is_set)

    run.go([part("a", SLEEPER), part("b", SLEEPER, ready=gate.is_set)], driver)
    assert run.ready.is_set()


def test_a_stubborn_part_is_killed_in_time_with_its_children(run, monkeypatch):
    monkeypatch.setattr(supervising, "STOP_SECONDS", 0.3)
    code = f"""
        import subprocess, sys
        subprocess.Popen([sys.executable, '-I', '-S', '-c', {textwrap.dedent(STUBBORN)!r}])
        {textwrap.dedent(STUBBORN).strip().replace(chr(10), chr(10) + " " * 8)}
    """

    def driver(run: Run) -> None:
        wait_for(lambda: len([line for line in run.lines if "pid" in line]) == 2)

    run.go([part("stubborn", code)], driver)
    assert run.said("stubborn did not stop in 0.3 s and was killed")
    for pid in re.findall(r"pid (\d+)", "\n".join(run.lines)):
        wait_for(lambda pid=pid: not is_alive(int(pid)))


def test_stopping_takes_less_than_five_seconds_by_design():
    assert supervising.STOP_SECONDS <= 4.5


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_parts_die_with_a_killed_supervisor(death, tmp_path):
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        from vault.supervisor import Part, Supervisor
        command = [sys.executable, '-I', '-S', '-c', {SLEEPER!r}]
        part = Part('a', command, dict(os.environ), lambda: True, signal.Signals({int(death)}))
        Supervisor([part], write=lambda line: print(line, flush=True), when_ready=lambda: None).run()
    """
    with subprocess.Popen(program(code), stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline().split()[-1])
        assert is_alive(pid)
        process.kill()
        process.wait()
        wait_for(lambda: not is_alive(pid))


def test_the_guard_does_not_start_an_orphan(tmp_path):
    witness = tmp_path / "ran"
    command = [
        sys.executable,
        "-I",
        "-S",
        str(ROOT / "vault" / "child.py"),
        "9",
        "1",
        "/bin/touch",
        str(witness),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the parent process is gone" in done.stderr
    assert not witness.exists()


def test_a_command_that_does_not_exist(run):
    def driver(run: Run) -> None:
        wait_for(lambda: run.said("ended with status 1"))

    run.go([Part("gone", ["/nowhere/program"], {}, lambda: False)], driver)
    assert run.said("No such file or directory")


def test_nothing_is_left_open(run):
    before = len(os.listdir("/proc/self/fd"))
    run.go([part("a", SLEEPER)], lambda run: wait_for(run.ready.is_set))
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert len(os.listdir("/proc/self/fd")) == before
