"""TCP ports that must be free: taken ones are said up front, with what to do."""

from __future__ import annotations

import socket

from dataflows.exits import FailureError


def require_free_port(host: str, port: int, advice: str) -> None:
    """Raise FailureError if `port` can't be listened on; 0 always can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise FailureError(f"port {port} can't be opened: {error.strerror}. {advice}") from None
