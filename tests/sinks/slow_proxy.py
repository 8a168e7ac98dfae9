"""A TCP proxy on this machine whose answers are late, as a slow store's are."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def slow_proxy(port: int, delay_s: float) -> Iterator[int]:
    """The port to connect to instead of `port`; each piece of an answer comes `delay_s` late."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with suppress(OSError):  # closed by the test's end
                while True:
                    client = listening.accept()[0]
                    server = socket.create_connection(("127.0.0.1", port))
                    for source, sink, late_s in ((client, server, 0.0), (server, client, delay_s)):
                        threading.Thread(target=forward, args=(source, sink, late_s), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def forward(source: socket.socket, sink: socket.socket, late_s: float) -> None:
    with suppress(OSError), source, sink:
        while data := source.recv(1 << 16):
            time.sleep(late_s)
            sink.sendall(data)
