"""Unmodified clients of the embedded ClickHouse, and what they are refused with."""

from __future__ import annotations

import subprocess
from urllib.parse import urlsplit

import pytest
from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import DatabaseError

from dataflows.embedded import ClickHouse

INJECTION = "x\n\nDROP TABLE numbered\n\n"
"""chdb's query() runs what follows an empty line of inline data as SQL."""


def refusal(client: Client, statement: str) -> int | None:
    """ClickHouse's code of the error that a statement must give."""
    with pytest.raises(DatabaseError) as refused:
        client.command(statement)
    return refused.value.code


def curl(server: ClickHouse, *arguments: str, password: str | None = None) -> str:
    """What curl prints; the first argument is the query string."""
    url = urlsplit(server.url)
    user = f"{url.username}:{url.password if password is None else password}"
    command = ["curl", "-sS", "--user", user, f"http://{server.address}/{arguments[0]}", *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
