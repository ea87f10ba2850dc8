"""Run a command that ends when its parent does, even when the parent is killed.

Started as a script of its own (python -I -S vault/child.py SIGNAL PARENT_PID COMMAND...): it asks the kernel for the
signal, then becomes the command. subprocess's preexec_fn could do the same, but is unsafe beside threads.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Become the command. Raises OSError when the kernel refuses or the command cannot be run."""
    death_signal, parent, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        # The parent may have died before the call; then the signal never comes.
        if os.getppid() != parent:
            sys.exit("the parent process is gone")
    os.execv(command[0], command)  # noqa: S606 (a command of our own, and no shell is wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
