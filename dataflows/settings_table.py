"""The table of settings, from the class itself: what `meterline settings` prints and the README has."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from pydantic.fields import FieldInfo

from dataflows.settings import PREFIX, Settings


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One line of the settings table, as text; secrets are masked."""

    name: str
    default: str
    bounds: str
    meaning: str


def settings_table() -> list[SettingRow]:
    """Every setting in the order of the class: the only list of them, which the README copies."""
    defaults = Settings.model_construct().model_dump(mode="json")
    return [
        SettingRow(PREFIX + name.upper(), _text(defaults[name]), _bounds(field), field.description or "")
        for name, field in Settings.model_fields.items()
    ]


def settings_markdown() -> str:
    """`settings_table()` as a Markdown table."""
    rows = [
        f"| `{row.name}` | `{row.default}` | {row.bounds} | {row.meaning} |\n" for row in settings_table()
    ]
    return "".join(["| setting | default | bounds | meaning |\n", "|---|---|---|---|\n", *rows])


def _text(default: object) -> str:
    return json.dumps(default) if isinstance(default, dict) else str(default)


def _bounds(field: FieldInfo) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(item, name)}"
        for item in field.metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    if getattr(field.annotation, "__origin__", None) is Literal:
        bounds = [str(choice) for choice in field.annotation.__args__]  # type: ignore[union-attr]
    return ", ".join(bounds)
