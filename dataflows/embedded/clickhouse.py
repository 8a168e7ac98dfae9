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
import signal
import threading
import time
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

from dataflows.embedded.clickhouse_http import Handler
from dataflows.embedded.credentials import password

if TYPE_CHECKING:
    from dataflows.embedded.clickhouse_engine import Engine

USER, READONLY_USER = "meterline", "analyst"
PASSWORD_FILE, READONLY_PASSWORD_FILE = "password", "readonly-password"

STOP_GRACE_S = 2.0
"""How long requests in flight may take after SIGTERM."""


@dataclass(frozen=True)
class User:
    password: str
    readonly: bool


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
    os.environ["TZ"] = "UTC"  # an engine in another zone would read and show every time in it
    time.tzset()
    from dataflows.embedded.clickhouse_engine import Engine  # noqa: PLC0415 - chdb reads TZ when it is loaded

    engine = Engine()
    server = Server(engine, arguments.port, users(Path()))
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
    server.server_close()
    closing = threading.Thread(target=engine.close, daemon=True)
    closing.start()
    closing.join(STOP_GRACE_S)
    os._exit(0)  # what is still running is not acknowledged; chdb would wait for it to its end


if __name__ == "__main__":
    main()
