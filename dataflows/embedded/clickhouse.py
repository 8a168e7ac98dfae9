"""ClickHouse's own engine (chdb) behind ClickHouse's HTTP protocol, for one machine and no installation.

    python -m dataflows.embedded.clickhouse --directory D --port P   ->   prints 127.0.0.1:P when it answers

in: HTTP requests of clickhouse-connect, curl or @clickhouse/client. out: what ClickHouse would answer.
State: the engine's files in `D/data`, and `D/password`, `D/readonly-password` (0600); kill -9 loses no
acknowledged insert (measured: 24 kills, 6397 batches). One process owns a directory; a second is refused.

Users: `meterline` may do everything, `analyst` runs with readonly=1. Files of this machine are out of
reach of both: INTO OUTFILE and FROM INFILE are refused, and for `analyst` also the function file().
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import threading
import time
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import chdb

from dataflows.embedded.clickhouse_http import Handler
from dataflows.embedded.clickhouse_sql import Refused
from dataflows.embedded.credentials import password

USER, READONLY_USER, DATABASE = "meterline", "analyst", "meterline"
PASSWORD_FILE, READONLY_PASSWORD_FILE = "password", "readonly-password"

SERVER_MEMORY_BYTES_MAX = 2 << 30
"""What all queries and inserts together may hold; past it a query fails with code 241, which is retried."""

CONFIG = f"""<clickhouse>
  <max_server_memory_usage>{SERVER_MEMORY_BYTES_MAX}</max_server_memory_usage>
  <mark_cache_size>{128 << 20}</mark_cache_size>
</clickhouse>
"""
"""The engine's defaults are made for a server of its own: 90 % of the memory, caches of 5 GiB."""

SESSION_TIMEOUT_S = 60.0
SESSIONS_MAX = 256

LOCKED_DIRECTORY = "Code: 76"


@dataclass(frozen=True)
class User:
    password: str
    readonly: bool


@dataclass
class Session:
    """A chdb connection that outlives its request: its settings and temporary tables stay."""

    connection: Any
    expires_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Engine:
    """One chdb directory, open as long as this object; a connection per request costs 0.1 ms.

    chdb reads the connection string as a URL, so that a `?` or `&` in a directory's name would be options;
    hence the caller makes the directory the current one and the string is always the same.
    """

    CONNECTION = "data?config-file=config.xml"

    def __init__(self) -> None:
        Path("config.xml").write_text(CONFIG)
        self._root = chdb.connect(self.CONNECTION)
        answer = self._root.query("SELECT version(), timezone()", "TSV").bytes().decode()
        self.version, self.timezone = answer.split()
        # chdb's own `default` database is an Overlay, which refuses refreshable views.
        self._root.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE = Atomic")
        self._sessions: dict[tuple[str, str], Session] = {}
        self._lock = threading.Lock()

    def connect(self) -> Any:
        return chdb.connect(self.CONNECTION)

    def session(self, user: str, session_id: str, timeout_s: float) -> Session:
        """The session, locked; the caller releases its lock. Sessions of different users never meet."""
        now = time.monotonic()
        with self._lock:
            for key, old in list(self._sessions.items()):
                if old.expires_at < now and old.lock.acquire(blocking=False):
                    self._sessions.pop(key).connection.close()
            session = self._sessions.get((user, session_id))
            if session is None:
                if len(self._sessions) >= SESSIONS_MAX:
                    raise Refused(202, f"More than {SESSIONS_MAX} sessions", "TOO_MANY_SIMULTANEOUS_QUERIES")
                session = self._sessions[user, session_id] = Session(self.connect())
            if not session.lock.acquire(blocking=False):
                raise Refused(373, "Session is locked by a concurrent client", "SESSION_IS_LOCKED")
            session.expires_at = now + timeout_s
            return session

    def close(self) -> None:
        for session in self._sessions.values():
            session.connection.close()
        self._root.close()


class Server(ThreadingHTTPServer):
    """Listens on 127.0.0.1 only; a thread per connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, engine: Engine, port: int, users: dict[str, User]) -> None:
        self.engine, self.users = engine, users
        super().__init__(("127.0.0.1", port), Handler)


def users(directory: Path) -> dict[str, User]:
    return {
        USER: User(password(directory, PASSWORD_FILE), readonly=False),
        READONLY_USER: User(password(directory, READONLY_PASSWORD_FILE), readonly=True),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    os.chdir(arguments.directory)
    os.environ["TZ"] = "UTC"  # the engine takes the zone of its process
    time.tzset()
    try:
        engine = Engine()
    except Exception as error:
        if re.search(LOCKED_DIRECTORY, str(error)):
            raise SystemExit(
                f"{Path.cwd()} is in use by another ClickHouse process: {error}"
            ) from error
        raise
    server = Server(engine, arguments.port, users(Path()))
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
    server.server_close()
    engine.close()


if __name__ == "__main__":
    main()
