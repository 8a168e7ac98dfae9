"""One engine as a process: started in its directory, ready when `start()` returns, gone with its starter.

State: a log file `<name>.log` in the directory, and whatever the engine keeps there. `kill()` and `start()`
again continue on the same port and files, which is how tests and the demo crash an engine.
"""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

READY_TIMEOUT_S = 60.0
"""An engine that has not answered by then is killed and its log shown. chdb needs 1 s."""

STOP_TIMEOUT_S = 15.0
"""After it, SIGTERM becomes SIGKILL."""

POLL_S = 0.02
LOG_TAIL_LINES = 20
ADDRESS = re.compile(r"^127\.0\.0\.1:(\d+)$", re.MULTILINE)
"""What our own engines print when they answer."""


class EngineError(RuntimeError):
    """An engine did not come up; the text ends with the last lines of its log."""


class EngineProcess:
    """An engine that is not running yet; `command(port)` gives its arguments, `ready` is found in its log.

    `port` 0 stands for any free port, chosen once.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        port: int,
        command: Callable[[int], Sequence[str]],
        *,
        ready: re.Pattern[str] = ADDRESS,
    ) -> None:
        self.name = name
        self.directory = directory.absolute()
        self.port = port
        self.log = self.directory / f"{name}.log"
        self._command = command
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the engine and return when it answers; raise EngineError if it does not."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already, with pid {self.pid}")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.port = self.port or free_port()
        with self.log.open("ab") as log:
            begins_at = log.tell()
            self._process = subprocess.Popen(  # noqa: S603 - the command is ours
                [sys.executable, "-m", "dataflows.embedded.leash", *self._command(self.port)],
                stdin=subprocess.PIPE,  # its end is the leash
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C ends the flow first, then the engines
            )
        self._wait_until_ready(begins_at)

    def stop(self) -> None:
        """Ask the engine to end and wait for it; nothing happens if it is not running."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._reap(self._process)

    def kill(self) -> None:
        """SIGKILL: what the engine has acknowledged must survive it."""
        if self._process is not None:
            self._process.kill()
            self._reap(self._process)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _reap(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        if process.stdin:
            process.stdin.close()
        self._process = None

    def _wait_until_ready(self, begins_at: int) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not self._ready.search(self._logged_since(begins_at)):
            if not self.running:
                self.kill()
                raise EngineError(f"{self.name} ended instead of starting:\n{self._log_tail(begins_at)}")
            if time.monotonic() > deadline:
                self.kill()
                waited = f"{self.name} did not answer within {READY_TIMEOUT_S:g} s"
                raise EngineError(f"{waited}:\n{self._log_tail(begins_at)}")
            time.sleep(POLL_S)

    def _logged_since(self, begins_at: int) -> str:
        with self.log.open("rb") as log:
            log.seek(begins_at)
            return log.read().decode(errors="replace")

    def _log_tail(self, begins_at: int) -> str:
        return "\n".join(self._logged_since(begins_at).splitlines()[-LOG_TAIL_LINES:])


def python_engine(module: str, directory: Path, *options: str) -> Callable[[int], Sequence[str]]:
    """The command of an engine of ours, which prints its address when it answers."""
    command = [sys.executable, "-m", module, *options, "--directory", str(directory), "--port"]
    return lambda port: [*command, str(port)]


def free_port() -> int:
    """A TCP port that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
