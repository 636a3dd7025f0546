"""Run a command that ends when the bench does: `python -m huterox_bench.launch PARENT_PID SIGNAL COMMAND ...`.

The command replaces this process. If the bench dies, even by `kill -9`, the command gets the signal.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Bind this process to its parent, then become the command."""
    parent_pid, signal_number, *command = arguments
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal_number)) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) has failed")
    if os.getppid() != int(parent_pid):
        sys.exit(1)  # the bench has ended already; it has said why
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
