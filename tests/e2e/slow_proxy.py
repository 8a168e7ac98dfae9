"""A TCP proxy on this machine that lets every answer wait: a store on the far side of a slow network."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class SlowProxy:
    """Where to connect to, and whether anything comes back from there."""

    port: int
    answering: threading.Event = field(default_factory=threading.Event)
    """Answers are let through while it is set; before, they wait."""


@contextmanager
def slow_proxy(port: int, delay_s: float) -> Iterator[SlowProxy]:
    """A port that leads to `port`, once it is `answering`: each answer `delay_s` late, at full bandwidth."""
    with ExitStack() as open_sockets, socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = SlowProxy(int(listener.getsockname()[1]))

        def accept() -> None:
            with suppress(OSError):  # shut down: the test is over
                while True:
                    near = open_sockets.enter_context(listener.accept()[0])
                    far = open_sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
                    at_once = threading.Event()
                    at_once.set()
                    for way in ((near, far, 0.0, at_once), (far, near, delay_s, proxy.answering)):
                        threading.Thread(target=_forward, args=way, daemon=True).start()

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        try:
            yield proxy
        finally:
            proxy.answering.set()  # so that no thread waits for ever
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _forward(source: socket.socket, target: socket.socket, delay_s: float, is_open: threading.Event) -> None:
    """Every chunk leaves `delay_s` after it came, if `is_open`; the next is read meanwhile."""
    late: deque[tuple[float, bytes]] = deque()
    filled = threading.Condition()

    def send() -> None:
        with suppress(OSError):
            while True:
                with filled:
                    filled.wait_for(lambda: late)
                    at, chunk = late.popleft()
                time.sleep(max(0.0, at - time.monotonic()))
                is_open.wait()
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
