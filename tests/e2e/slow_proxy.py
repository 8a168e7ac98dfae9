"""A TCP proxy on this machine that lets every answer wait: a store on the far side of a slow network."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

CHUNK_BYTES = 1 << 16


@contextmanager
def slow_proxy(port: int, delay_s: float) -> Iterator[int]:
    """A port that leads to `port`; what comes back from there is `delay_s` late, at full bandwidth."""
    with ExitStack() as open_sockets, socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(
            target=_accept, args=(listener, port, delay_s, open_sockets), daemon=True
        )
        accepting.start()
        yield int(listener.getsockname()[1])
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        accepting.join()


def _accept(listener: socket.socket, port: int, delay_s: float, open_sockets: ExitStack) -> None:
    with suppress(OSError):  # shut down: the test is over
        while True:
            near = open_sockets.enter_context(listener.accept()[0])
            far = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
            threading.Thread(target=_forward, args=(near, far, 0.0), daemon=True).start()
            threading.Thread(target=_forward, args=(far, near, delay_s), daemon=True).start()


def _forward(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    """Every chunk leaves `delay_s` after it came; the next is read meanwhile."""
    late: deque[tuple[float, bytes]] = deque()
    filled = threading.Condition()

    def send() -> None:
        with suppress(OSError):
            while True:
                with filled:
                    filled.wait_for(lambda: late)
                    at, chunk = late.popleft()
                time.sleep(max(0.0, at - time.monotonic()))
                if not chunk:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(chunk)

    threading.Thread(target=send, daemon=True).start()
    chunk = b"-"
    while chunk:
        try:
            chunk = source.recv(CHUNK_BYTES)
        except OSError:
            chunk = b""
        with filled:
            late.append((time.monotonic() + delay_s, chunk))
            filled.notify()
