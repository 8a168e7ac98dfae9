"""Runs a command that ends when its starter does, however that ended: kill -9 leaves no engine behind.

    python -m dataflows.embedded.leash COMMAND ...     with a pipe as standard input that nobody writes to

The process becomes the command, so that its pid is the command's; a watcher, forked before, reads the
pipe. Its end means that the starter is gone or has closed it: the watcher then ends the command, first
politely. A pipe, unlike Linux's PR_SET_PDEATHSIG, also works on macOS and from a thread that returns.
"""

from __future__ import annotations

import os
import signal
import sys
import time

STOP_TIMEOUT_S = 10.0
POLL_S = 0.05


def main() -> None:
    command = sys.argv[1:]
    engine = os.getpid()
    if os.fork() == 0:
        watch(engine)
        os._exit(0)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123 - the descriptor is what counts
        os.dup2(nothing.fileno(), 0)
    os.execvp(command[0], command)  # noqa: S606 - becoming another program is the point


def watch(engine: int) -> None:
    """Wait for the end of standard input, then end `engine`, the parent of this process.

    A process whose parent died belongs to another one, so a pid that was given away again is never hit.
    """
    while os.read(0, 1):
        pass
    signals = [signal.SIGTERM, signal.SIGKILL]
    for number in signals:
        if os.getppid() != engine:
            return
        os.kill(engine, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while os.getppid() == engine and time.monotonic() < deadline:
            time.sleep(POLL_S)


if __name__ == "__main__":
    main()
