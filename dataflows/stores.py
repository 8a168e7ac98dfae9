"""ClickHouse and Redis as commands reach them: connected, or missed with a sentence that says so."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit

from clickhouse_connect.driver.client import Client
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError
from redis import Redis
from redis.exceptions import RedisError

from dataflows.settings import safe_url
from sinks.failures import FATAL_CODES, brief
from sinks.inserts import ClickHouseConfig
from sinks.migrate import migrate
from sinks.wallet_store import RedisConfig
from sql import Migration

READING_CODES = frozenset((46, 50, 60, 81, 164, 192, 193, 194, 291, 516))
"""Of `FATAL_CODES`, those whose advice is as good for who reads."""


logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())  # the sentence says it all


class StoreError(RuntimeError):
    """A store is not there, or not as the command needs it; the text says what to do."""


@contextmanager
def clickhouse(url: str, database: str | None = None) -> Iterator[Client]:
    """A client on the URL's database, or on another; whatever ClickHouse refuses is a StoreError."""
    at = url if database is None else urlsplit(url)._replace(path=f"/{database}").geturl()
    try:
        with ClickHouseConfig(url=at).connect() as client:
            yield client
    except ClickHouseError as error:
        raise StoreError(_sentence(url, error)) from error


@contextmanager
def redis(url: str) -> Iterator[Redis]:
    """A client; whatever Redis refuses is a StoreError."""
    try:
        with RedisConfig(url=url).connect() as client:
            yield client
    except RedisError as error:
        raise StoreError(
            f"Redis at {safe_url(url)}: {brief(error)}. Start it (`meterline up`),"
            " or correct METERLINE_REDIS_URL"
        ) from error


def migrate_clickhouse(url: str, *, dry_run: bool = False) -> list[Migration]:
    """Apply what the URL's database lacks, making the database too if it must be."""
    # A client can't be made with a database that is not there yet.
    with clickhouse(url, database="default") as client:
        client.database = unquote(urlsplit(url).path.strip("/")) or "default"
        return migrate(client, dry_run=dry_run)


def require_migrations(url: str) -> None:
    """Raise StoreError unless the database has every table and view of this version."""
    if pending := migrate_clickhouse(url, dry_run=True):
        names = ", ".join(each.file for each in pending)
        raise StoreError(
            f"ClickHouse at {safe_url(url)} lacks {names}:"
            " run `meterline migrate`, or `meterline run --migrate`"
        )


def _sentence(url: str, error: ClickHouseError) -> str:
    code = error.code if isinstance(error, DatabaseError) else None
    todo = FATAL_CODES[code] if code in READING_CODES else None
    if code is None:
        todo = "start it (`meterline up`), or correct METERLINE_CLICKHOUSE_URL"
    return f"ClickHouse at {safe_url(url)}: {brief(error)}" + (f": {todo}" if todo else "")
