import os
import signal
import subprocess
import sys

import pytest

from hsm import hardening
from vault import hardening as django_side

CHILD = """
import os, resource, sys
from hsm.hardening import harden_process
print(harden_process())
print(resource.getrlimit(resource.RLIMIT_CORE))
print(os.stat(f"/proc/{os.getpid()}/mem").st_uid)
sys.stdout.flush()
sys.stdin.read()
"""


def start_child():
    return subprocess.Popen(
        [sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_DUMPABLE is Linux's")
def test_a_hardened_process_leaves_no_core_when_it_crashes():
    child = start_child()
    lines = [child.stdout.readline().strip() for _ in range(3)]
    assert lines[0] == "Hardening(core_dumps_off=True, untraceable=True)"
    assert lines[1] == "(0, 0)"
    # prctl(2): files under /proc/<pid> of a process that is not dumpable belong to root.
    assert lines[2] == "0"
    # Its default action is to dump core. Not SIGQUIT, which a shell lets its background jobs, and so a test, ignore.
    child.send_signal(signal.SIGABRT)
    _, status = os.waitpid(child.pid, 0)
    child.returncode = -os.WTERMSIG(status)
    child.stdin.close()
    child.stdout.close()
    assert os.WTERMSIG(status) == signal.SIGABRT
    assert not os.WCOREDUMP(status)


def test_the_two_names_are_one_function():
    assert django_side.harden_process is hardening.harden_process


def test_a_refusal_is_loud(monkeypatch):
    def refuse(*args):
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(hardening.resource, "setrlimit", refuse)
    with pytest.raises(hardening.HardeningFailed, match="cannot be turned off"):
        hardening.harden_process()
