"""What the commands print: tables for people, `--json` for programs. Nothing here decides anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import orjson
from rich.console import Console
from rich.table import Table

from dataflows.settings import PREFIX, Settings
from dataflows.settings_table import settings_table
from dataflows.topics import Topic
from schemas.catalog import CatalogError, load_catalog
from sql import Migration


def print_json(value: object) -> None:
    """One line of JSON; decimals are texts, so that no reader rounds them."""
    print(orjson.dumps(value, default=_json_text, option=orjson.OPT_UTC_Z).decode(), flush=True)


def print_table(
    title: str | None,
    columns: Mapping[str, Literal["left", "right"]],
    rows: Iterable[Sequence[object]],
    total: int = 0,
) -> None:
    """`columns`: name -> how it is justified; the last `total` rows are set apart."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, (name, justify) in enumerate(columns.items()):
        table.add_column(name, justify=justify, overflow="fold", no_wrap=number == 0)
    listed = list(rows)
    for number, row in enumerate(listed):
        table.add_row(*map(_cell, row), end_section=number == len(listed) - total - 1)
    Console(markup=False, emoji=False).print(table)  # cells hold what producers write


def check_catalog(file: Path, *, as_json: bool) -> bool:
    """Print a catalog's errors; whether there are none."""
    try:
        catalog = load_catalog(file.read_bytes())
    except CatalogError as error:
        problems = error.problems
    else:
        problems = ()
    if as_json:
        found = [
            {"path": problem.path, "line": problem.line, "message": problem.message} for problem in problems
        ]
        print_json({"file": str(file), "ok": not problems, "problems": found})
    elif problems:
        for problem in problems:
            print(f"{file}: {problem}")
        print(f"{len(problems)} problem{'s' * (len(problems) > 1)}")
    else:
        plans = f"{len(catalog.plans)} plan{'s' * (len(catalog.plans) != 1)}"
        print(f"{file}: {len(catalog.meters)} meter{'s' * (len(catalog.meters) != 1)}, {plans}, no problems")
    return not problems


def print_migrations(migrations: Sequence[Migration], *, dry_run: bool, as_json: bool) -> None:
    """What was applied, or would be."""
    names = [f"sql/{each.file}" for each in migrations]
    if as_json:
        print_json({"dry_run": dry_run, "pending" if dry_run else "applied": names})
        return
    for name in names:
        print(f"{'pending' if dry_run else 'applied'} {name}")
    if not names:
        print("nothing to apply: the database is up to date")


def print_topics(topics: Sequence[Topic], *, as_json: bool) -> None:
    """The topics as they are now."""
    if as_json:
        print_json(
            [
                {"topic": topic.name, "partitions": topic.partitions, "created": topic.created}
                for topic in topics
            ]
        )
        return
    for topic in topics:
        state = "created" if topic.created else "there already"
        print(f"{topic.name}: {topic.partitions} partitions, {state}")


def print_settings(settings: Settings, *, as_json: bool) -> None:
    """Every setting with its value; secrets are masked by `Settings` itself."""
    values = settings.model_dump(mode="json")
    rows = [(row, values[row.name.removeprefix(PREFIX).lower()]) for row in settings_table()]
    if as_json:
        print_json({row.name: value for row, value in rows})
        return
    lines = [(row.name, _setting(value), row.meaning) for row, value in rows]
    print_table(None, {"setting": "left", "value": "left", "meaning": "left"}, lines)


def moment_text(at: datetime) -> str:
    """RFC 3339 in UTC, to the second if it is on one."""
    spec = "milliseconds" if at.microsecond else "seconds"
    at = at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    return at.isoformat(timespec=spec).replace("+00:00", "Z")


def quantity_text(value: Decimal) -> str:
    """All digits that count: no exponent, no trailing zeros."""
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _cell(value: object) -> str:
    return str(_json_text(value))


def _setting(value: object) -> str:
    return orjson.dumps(value).decode() if isinstance(value, dict) else str(value)


def _json_text(value: Any) -> Any:
    if isinstance(value, Decimal):
        return quantity_text(value)
    if isinstance(value, datetime):
        return moment_text(value)
    if isinstance(value, date | Path):
        return str(value)
    return "" if value is None else value
