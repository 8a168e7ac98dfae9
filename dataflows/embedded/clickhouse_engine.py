"""chdb, ClickHouse's engine as a library: one open directory, and connections to it.

State: `data/` and `lock` in the process's current directory. chdb reads TZ when it is loaded, so
this module is imported only once TZ is UTC.
"""

from __future__ import annotations

import fcntl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from chdb.state.sqlitelike import Connection

from dataflows.embedded.clickhouse_sql import RefusedError

DATABASE = "meterline"

SERVER_MEMORY_BYTES_MAX = 2 << 30
"""What all queries and inserts together may hold; past it a query fails with code 241, which is retried."""

CONFIG = f"""<clickhouse>
  <max_server_memory_usage>{SERVER_MEMORY_BYTES_MAX}</max_server_memory_usage>
  <mark_cache_size>{128 << 20}</mark_cache_size>
</clickhouse>
"""
"""The engine's defaults are made for a server of its own: 90 % of the memory, caches of 5 GiB."""

SESSIONS_MAX = 256


@dataclass
class Session:
    """A chdb connection that outlives its request: its settings and temporary tables stay."""

    connection: Connection
    expires_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Engine:
    """One chdb directory, open as long as this object; a connection per request costs 0.1 ms.

    chdb reads the connection string as a URL, so that a `?` or `&` in a directory's name would be options;
    hence the caller makes the directory the current one and the string is always the same.
    """

    CONNECTION = "data?config-file=config.xml"

    def __init__(self) -> None:
        self._lock_file = Path("lock").open("w")  # noqa: SIM115 - locked as long as the engine is open
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SystemExit(f"{Path.cwd()} is in use by another ClickHouse process") from error
        Path("config.xml").write_text(CONFIG)
        self._root = Connection(self.CONNECTION)
        answer = self._root.query("SELECT version(), timezone()", "TSV").bytes().decode()
        self.version, self.timezone = answer.split()
        # chdb's own `default` database is an Overlay, which refuses refreshable views.
        self._root.query(f"CREATE DATABASE IF NOT EXISTS {DATABASE} ENGINE = Atomic")
        self._sessions: dict[tuple[str, str], Session] = {}
        self._lock = threading.Lock()

    def connect(self) -> Connection:
        return Connection(self.CONNECTION)

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
                    raise RefusedError(
                        202, f"More than {SESSIONS_MAX} sessions", "TOO_MANY_SIMULTANEOUS_QUERIES"
                    )
                session = self._sessions[user, session_id] = Session(self.connect())
            if not session.lock.acquire(blocking=False):
                raise RefusedError(373, "Session is locked by a concurrent client", "SESSION_IS_LOCKED")
            session.expires_at = now + timeout_s
            return session

    def close(self) -> None:
        for session in self._sessions.values():
            session.connection.close()
        self._root.close()
        self._lock_file.close()
