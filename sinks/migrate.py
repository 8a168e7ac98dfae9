"""Brings a ClickHouse database to the tables and views this version writes and reads.

in: a client -> out: what was applied (or, dry, what would be). State: the table `migrations` of the same
database: number, name, checksum, when.

Running it again changes nothing. So does running it twice at once: each statement is harmless when repeated
(IF NOT EXISTS, OR REPLACE), a migration is recorded after its last statement, and a record written twice is
one row. A crash in between repeats that one migration.
"""

from __future__ import annotations

from clickhouse_connect.driver.client import Client

from sql import Migration, migrations, query, views

DATABASE = "meterline"
"""The database of a client that names none."""

CREATE_MIGRATIONS = """
CREATE TABLE IF NOT EXISTS migrations
(
    number UInt32,
    name String,
    checksum String,
    applied_at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY (number, name)
"""


RECORD_MIGRATION = """
INSERT INTO migrations (number, name, checksum) VALUES ({number:UInt32}, {name:String}, {checksum:String})
"""


class MigrationEditedError(RuntimeError):
    """A migration that was applied has another text now: write a new migration instead."""


class DatabaseNewerError(RuntimeError):
    """The database has a migration this version does not know: it belongs to a newer one."""


def migrate(client: Client, *, dry_run: bool = False) -> list[Migration]:
    """Apply what is missing, in order, to the client's database (`meterline` if it names none).

    The database is created if there is none; a client can be made without one, while one made with the name
    of a missing database fails already. Returns the migrations applied, and with `dry_run` those pending,
    without changing anything. Raises MigrationEditedError or DatabaseNewerError before anything is changed.
    """
    place = {"database": client.database or DATABASE}
    pending = pending_migrations(applied(client, place))
    if dry_run:
        return pending
    # Atomic explicitly: chdb's default is an Overlay, which refuses refreshable views.
    client.command(f"CREATE DATABASE IF NOT EXISTS `{place['database']}` ENGINE = Atomic", use_database=False)
    client.command(CREATE_MIGRATIONS, settings=place)
    for each in pending:
        for statement in each.statements:
            client.command(statement, settings=place)
        row = {"number": each.number, "name": each.name, "checksum": each.checksum}
        client.command(RECORD_MIGRATION, parameters=row, settings=place)
    return pending


def applied(client: Client, place: dict[str, str]) -> dict[tuple[int, str], str]:
    """(number, name) -> checksum of what the database has; empty if there is no such table yet."""
    count = "SELECT count() FROM system.tables WHERE database = {database:String} AND name = 'migrations'"
    if not client.query(count, parameters=place, settings={"database": "system"}).result_rows[0][0]:
        return {}
    rows = client.query(query("migrations_applied"), settings=place).result_rows
    return {(number, name): checksum for number, name, checksum in rows}


def pending_migrations(stored: dict[tuple[int, str], str]) -> list[Migration]:
    """Migrations that are not stored, in order, then views whose text is not the stored one."""
    known = {(each.number, each.name): each for each in migrations()}
    for key, checksum in stored.items():
        number, name = key
        if number and key not in known:
            raise DatabaseNewerError(
                f"the database has migration {number:04d}_{name}, which is not in sql/migrations"
            )
        if number and known[key].checksum != checksum:
            raise MigrationEditedError(
                f"sql/{known[key].file} was edited after it was applied: "
                f"stored checksum {checksum}, current {known[key].checksum}"
            )
    tables = [each for key, each in known.items() if key not in stored]
    return tables + [each for each in views() if stored.get((0, each.name)) != each.checksum]
