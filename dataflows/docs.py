"""Writes the tables of the README that the code knows best: `python -m dataflows.docs`.

A table stands between `<!-- NAME -->` and `<!-- /NAME -->`, each on a line of its own; what is between them
is replaced. tests/test_docs.py asserts that nothing would change.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from dataflows.metrics_table import metrics_markdown
from dataflows.settings_table import settings_markdown
from schemas.events import REASONS

README = Path(__file__).parents[1] / "README.md"


class MarkerError(ValueError):
    """A table has not exactly one place in the text."""


def reasons_markdown() -> str:
    """`REASONS` as a Markdown table."""
    rows = [f"| `{reason}` | {meaning} |\n" for reason, meaning in REASONS.items()]
    return "".join(["| reason | a record is a dead letter because |\n", "|---|---|\n", *rows])


TABLES: Mapping[str, Callable[[], str]] = {
    "settings": settings_markdown,
    "metrics": metrics_markdown,
    "reasons": reasons_markdown,
}


def filled(text: str) -> str:
    """The text with every table between its markers. Raises MarkerError."""
    for name, markdown in TABLES.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise MarkerError(f"there must be one line {begin.strip()} and, below it, one line {end.strip()}")
        before, after = text[: text.index(begin)], text[text.index(end) :]
        text = f"{before}{begin}\n{markdown()}\n{after}"
    return text


def main() -> None:
    """Fill the README; exit 1 with a sentence if a marker is missing."""
    text = README.read_text()
    try:
        new = filled(text)
    except MarkerError as error:
        sys.exit(f"{README.name}: {error}")
    README.write_text(new)
    print(f"{README.name}: {'filled' if new != text else 'nothing to change'}")


if __name__ == "__main__":
    main()
