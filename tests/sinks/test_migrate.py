"""Migrating is idempotent, refuses an edited or unknown migration, and makes the database it needs."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

import sql
from dataflows.embedded import ClickHouse
from sinks.migrate import DatabaseNewerError, MigrationEditedError, migrate

EVERYTHING = [each.file for each in [*sql.migrations(), *sql.views()]]


@pytest.fixture
def client(clickhouse_server: ClickHouse) -> Iterator[Client]:
    """A client whose database is not there: made with it, and then it was dropped."""
    with clickhouse_connect.get_client(dsn=clickhouse_server.url) as admin:
        admin.command("CREATE DATABASE migrated ENGINE = Atomic")
        with clickhouse_connect.get_client(
            dsn=clickhouse_server.database_url("migrated"), autogenerate_session_id=False
        ) as client:
            admin.command("DROP DATABASE migrated")
            yield client
        admin.command("DROP DATABASE IF EXISTS migrated")


def store(client: Client, number: int, name: str, checksum: str) -> None:
    client.insert("migrations", [[number, name, checksum]], column_names=["number", "name", "checksum"])


def test_a_missing_database_is_made_with_every_table_and_view(client: Client) -> None:
    assert [each.file for each in migrate(client)] == EVERYTHING
    tables = client.query("SHOW TABLES").result_rows
    assert {name for (name,) in tables} == {
        "migrations",
        *(each.name for each in [*sql.migrations(), *sql.views()]),
    }
    engine = "SELECT engine FROM system.databases WHERE name = 'migrated'"
    assert client.command(engine) == "Atomic"  # refreshable views need it


def test_a_client_without_a_database_migrates_meterline(clickhouse_server: ClickHouse) -> None:
    with clickhouse_connect.get_client(dsn=clickhouse_server.database_url("")) as client:
        migrate(client)
        assert client.command("EXISTS meterline.usage_events") == 1
        for each in [*sql.migrations(), *sql.views(), sql.migration(1, "migrations", "")]:
            client.command(f"DROP TABLE meterline.{each.name}")


def test_migrating_again_changes_nothing(client: Client) -> None:
    migrate(client)
    assert migrate(client) == []


def test_a_dry_run_tells_and_does_nothing(client: Client) -> None:
    assert [each.file for each in migrate(client, dry_run=True)] == EVERYTHING
    assert (
        client.command("SELECT count() FROM system.databases WHERE name = 'migrated'", use_database=False)
        == 0
    )


def test_only_what_is_missing_is_applied(client: Client) -> None:
    migrate(client)
    client.command("DELETE FROM migrations WHERE name = 'late_readings'")
    assert [each.name for each in migrate(client, dry_run=True)] == ["late_readings"]
    assert [each.name for each in migrate(client)] == ["late_readings"]


def test_an_edited_migration_is_refused_with_both_checksums(client: Client) -> None:
    migrate(client)
    store(client, 2, "usage_windows", "0ld")
    current = next(each.checksum for each in sql.migrations() if each.number == 2)
    with pytest.raises(MigrationEditedError, match=rf"migrations/0002_usage_windows\.sql .*0ld.*{current}"):
        migrate(client)


def test_a_database_of_a_newer_version_is_refused(client: Client) -> None:
    migrate(client)
    store(client, 9999, "from_the_future", "1")
    with pytest.raises(DatabaseNewerError, match="9999_from_the_future"):
        migrate(client)


def test_an_edited_view_is_replaced(client: Client) -> None:
    migrate(client)
    client.command("CREATE OR REPLACE VIEW usage AS SELECT 1 AS stale")
    store(client, 0, "usage", "0ld")
    assert [each.file for each in migrate(client)] == ["views/usage.sql"]
    assert "stale" not in str(client.command("SHOW CREATE VIEW usage"))


def test_two_at_once_end_with_one_record_each(client: Client) -> None:
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(migrate, client) for _ in range(4)]:
            done.result()
    assert client.command("SELECT count() FROM migrations FINAL") == len(EVERYTHING)
    assert migrate(client) == []
