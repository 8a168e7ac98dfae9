"""Tables, views and queries: `migrations/NNNN_<table>.sql`, `views/<view>.sql`, `queries/<name>.sql`.

A migration is frozen once landed: the runner (sinks/migrate.py) stores its checksum and refuses another text.
A view is replaced whenever its text has changed. No name is qualified: the place is the client's database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

STATEMENT_END = re.compile(r";[ \t]*(?:\n|\Z)")
"""A `;` at the end of a line; comments and texts have none there."""

MIGRATION_NAME = re.compile(r"(\d{4})_(\w+)")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `migrations/` (number from 1 up) or of `views/` (number 0)."""

    number: int
    name: str
    statements: tuple[str, ...]
    checksum: str

    @property
    def file(self) -> str:
        """The file's path in this package."""
        return f"migrations/{self.number:04d}_{self.name}.sql" if self.number else f"views/{self.name}.sql"


@cache
def migrations() -> list[Migration]:
    """All migrations in the order of their numbers, which run from 1 without a gap."""
    found = []
    for stem, text in texts("migrations").items():
        named = MIGRATION_NAME.fullmatch(stem)
        if named is None:
            raise ValueError(f"sql/migrations/{stem}.sql is not named NNNN_name.sql")
        found.append(migration(int(named[1]), named[2], text))
    found.sort(key=lambda each: each.number)
    if [each.number for each in found] != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered 1, 2, ...: {[each.file for each in found]}")
    return found


@cache
def views() -> list[Migration]:
    """All views, by name; each replaces the view of its name."""
    return [migration(0, name, text) for name, text in texts("views").items()]


@cache
def query(name: str) -> str:
    """The text of `queries/<name>.sql`."""
    known = texts("queries")
    if name not in known:
        raise KeyError(f"there is no sql/queries/{name}.sql, only {', '.join(known)}")
    return known[name]


def migration(number: int, name: str, text: str) -> Migration:
    """A file's text as statements; the checksum is SHA-256 of the text, comments included."""
    statements = tuple(part.strip() for part in STATEMENT_END.split(text) if part.strip())
    return Migration(number, name, statements, sha256(text.encode()).hexdigest())


def texts(folder: str) -> dict[str, str]:
    """Stem -> text of each `.sql` file of a folder, by name; line ends as in Git, `\\n`."""
    found = sorted(files(__name__).joinpath(folder).iterdir(), key=lambda file: file.name)
    return {
        file.name.removesuffix(".sql"): file.read_text(encoding="utf-8").replace("\r\n", "\n")
        for file in found
        if file.name.endswith(".sql")
    }
