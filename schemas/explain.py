"""What pydantic found wrong, in a sentence that names the value: for catalogs and account events.

pydantic's error -> (where, "must be ..., got ..."). A location is the keys and indices that lead to a value.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal

from pydantic_core import ErrorDetails

from schemas.meters import JsonNumber

SHOWN_CHARACTERS_MAX = 80
"""Of a value in a sentence."""

Loc = tuple[int | str, ...]

_KINDS = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "text",
    "decimal_parsing": "a number",
    "decimal_type": "a number",
}


def explain(error: ErrorDetails, known_keys: Iterable[str]) -> tuple[Loc, str]:
    """Where and what: one of `ValidationError.errors()` in our words."""
    kind, loc = error["type"], error["loc"]
    context = error.get("ctx", {})
    if kind == "missing":
        return loc, "is required"
    if kind == "extra_forbidden":
        return loc, "is not a known key" + did_you_mean(str(loc[-1]), known_keys)
    if kind == "invalid_key":
        return loc[:-1], f"has the key {shown(error['input'])}: keys are text"
    if kind == "union_tag_not_found":
        return (*loc, str(context["discriminator"]).strip("'")), "is required"
    if kind == "union_tag_invalid":
        message = f"must be one of {context['expected_tags']}, got {shown(context['tag'])}"
        return (*loc, str(context["discriminator"]).strip("'")), message
    return loc, _rule(error)


def _rule(error: ErrorDetails) -> str:
    kind, value = error["type"], error["input"]
    message = re.sub(
        r"^(Input|Tuple|String|Value) should", "must", error["msg"].removeprefix("Value error, ")
    )
    if kind in _KINDS:
        message = f"must be {_KINDS[kind]}"
    elif isinstance(value, Mapping | list | tuple):  # a rule about its members: the rule says all
        return message
    return f"{message}, got {shown(value)}"


def is_echo(error: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """Whether it only says that a list is too short, since its members are wrong."""
    loc = error["loc"]
    below = (other["loc"] for other in errors if len(other["loc"]) > len(loc))
    return error["type"] == "too_short" and any(other[: len(loc)] == loc for other in below)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint to end a message with, or ""."""
    close = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {shown(close[0])}?" if close else ""


def shown(value: object) -> str:
    """The value as its author would recognise it, cut to `SHOWN_CHARACTERS_MAX`."""
    if isinstance(value, Mapping | list | tuple):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    exact = isinstance(value, JsonNumber | Decimal)
    text = _printable(str(value) if exact else json.dumps(value, default=str, ensure_ascii=False))
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"


def path_text(loc: Loc) -> str:
    """`plans[0].charges[1].price`, in one line whatever the keys are."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{_printable(part)}" for part in loc)
    return "".join(parts).removeprefix(".")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
