"""The catalog: all meters and plans, read from YAML, with every error named by its path.

text -> `Catalog`, or `CatalogError` with all problems found. Structure, values and references are checked in
one go; only what depends on a value that is itself wrong (the order of tiers with an unreadable bound) waits.

Numbers are read as they are written: `unit_amount: 0.002` is exact, quoted or not (`schemas.yaml_text`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from schemas.meters import Aggregation, Filter, Id, JsonNumber, Meter
from schemas.money import decimal_text
from schemas.plans import Plan, PlanCharge
from schemas.prices import PRICE_MODELS, Package, PerUnit, Tier, Volume
from schemas.yaml_text import Loc, YamlError, read_yaml

CATALOG_BYTES_MAX = 4 * 1024 * 1024
METERS_MAX = 1000
PLANS_MAX = 10_000
SHOWN_CHARACTERS_MAX = 80
"""Of a value in a message."""


class Catalog(BaseModel):
    """Meters and plans that fit together: ids are unique, every charge's meter and the default plan exist.

    `default_plan` is for customers without a subscription; without one their usage is metered, not priced.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    meters: tuple[Meter, ...] = Field(min_length=1, max_length=METERS_MAX)
    plans: tuple[Plan, ...] = Field(default=(), max_length=PLANS_MAX)
    default_plan: Id | None = None

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        if problems := list(_reference_problems(self)):
            raise ValidationError.from_exception_data(type(self).__name__, problems)
        return self

    @cached_property
    def meters_by_id(self) -> dict[str, Meter]:
        return {meter.id: meter for meter in self.meters}

    @cached_property
    def plans_by_id(self) -> dict[str, Plan]:
        return {plan.id: plan for plan in self.plans}

    @cached_property
    def meters_by_event_name(self) -> dict[str, tuple[Meter, ...]]:
        """The meters that an event of this name may match, in catalog order."""
        names = dict.fromkeys(meter.event_name for meter in self.meters)
        return {name: tuple(meter for meter in self.meters if meter.event_name == name) for name in names}

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits of what the catalog means: layout, order of meters and plans, `1.0` or `1` aside."""
        content = {
            "meters": {meter.id: meter.model_dump() for meter in self.meters},
            "plans": {plan.id: plan.model_dump() for plan in self.plans},
            "default_plan": self.default_plan,
        }
        text = json.dumps(content, sort_keys=True, default=decimal_text)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class CatalogProblem:
    """One thing to mend: `path` as in `plans[0].charges[1].price`, "" for the whole file; `line` from 1."""

    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return where + (f"{self.path}: {self.message}" if self.path else self.message)


class CatalogError(ValueError):
    """The catalog can't be used; `problems` has everything found, in the order of the file."""

    def __init__(self, problems: list[CatalogProblem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.line or 0))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def load_catalog(text: str | bytes) -> Catalog:
    """The catalog written in this YAML text; `CatalogError` names all that is wrong with it."""
    if len(text) > CATALOG_BYTES_MAX:
        raise CatalogError([CatalogProblem("", f"over {CATALOG_BYTES_MAX} bytes")])
    try:
        document = read_yaml(text)
    except YamlError as error:
        raise CatalogError([CatalogProblem("", str(error), error.line)]) from None
    found = list(document.duplicate_keys())
    catalog = None
    try:
        catalog = Catalog.model_validate(document.value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        found += [_describe(details) for details in errors if not _is_echo(details, errors)]
        if not any(
            details["type"] == "reference" for details in errors
        ):  # not reached: do it on what was read
            found += [
                (problem["loc"], str(problem["type"])) for problem in _reference_problems(document.value)
            ]
    if found or catalog is None:
        raise CatalogError([CatalogProblem(_path(loc), text, document.line(loc)) for loc, text in found])
    return catalog


# References


def _reference_problems(catalog: object) -> Iterator[InitErrorDetails]:
    """Duplicate ids and unknown names, of a `Catalog` or of what was read where a catalog should be."""
    meters = [_member(meter, "id") for meter in _list(catalog, "meters")]
    plans = [_member(plan, "id") for plan in _list(catalog, "plans")]
    for kind, ids in (("meters", meters), ("plans", plans)):
        for index, name in enumerate(ids):
            if isinstance(name, str) and name in ids[:index]:
                first = f"{kind}[{ids.index(name)}]"
                yield _reference((kind, index, "id"), name, f"is the id of {first} as well")
    for index, plan in enumerate(_list(catalog, "plans")):
        for number, charge in enumerate(_list(plan, "charges")):
            name = _member(charge, "meter")
            if isinstance(name, str) and name not in meters:
                yield _reference(
                    ("plans", index, "charges", number, "meter"), name, "is not a meter" + _hint(name, meters)
                )
    default = _member(catalog, "default_plan")
    if isinstance(default, str) and default not in plans:
        yield _reference(("default_plan",), default, "is not a plan" + _hint(default, plans))


def _reference(loc: Loc, name: str, message: str) -> InitErrorDetails:
    error = PydanticCustomError("reference", f"{_shown(name)} {message}")
    return InitErrorDetails(type=error, loc=loc, input=name)


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _list(value: object, name: str) -> list[object]:
    member = _member(value, name)
    return list(member) if isinstance(member, list | tuple) else []


# Messages

_KEYS = {
    key
    for model in (Catalog, Meter, Aggregation, Filter, Plan, PlanCharge, Package, PerUnit, Volume, Tier)
    for key in model.model_fields
}
_KINDS = {
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "string_type": "text",
    "decimal_parsing": "a number",
    "decimal_type": "a number",
}


def _describe(error: ErrorDetails) -> tuple[Loc, str]:
    kind, loc, value = error["type"], _without_tags(error["loc"]), error["input"]
    message = error["msg"].removeprefix("Value error, ")
    message = re.sub(r"^(Input|Tuple|String|Value) should", "must", message)
    models = ", ".join(sorted(PRICE_MODELS))
    if kind == "missing":
        return loc, "is required"
    if kind == "extra_forbidden":
        return loc, "is not a known key" + _hint(str(loc[-1]), sorted(_KEYS))
    if kind == "reference":
        return loc, message
    if kind == "union_tag_not_found":
        return (*loc, "model"), f"is required: one of {models}"
    if kind == "union_tag_invalid":
        return (*loc, "model"), f"must be one of {models}, got {_shown(value.get('model'))}"
    if kind in _KINDS:
        message = f"must be {_KINDS[kind]}"
    got = "" if isinstance(value, dict | list | tuple) and kind not in _KINDS else f", got {_shown(value)}"
    return loc, message + got


def _is_echo(error: ErrorDetails, errors: list[ErrorDetails]) -> bool:
    """Pydantic calls a list too short when its members are wrong."""
    loc = error["loc"]
    below = (other["loc"] for other in errors if len(other["loc"]) > len(loc))
    return error["type"] == "too_short" and any(other[: len(loc)] == loc for other in below)


def _without_tags(loc: Loc) -> Loc:
    """Pydantic names the chosen price model after "price"; the file has no such level."""
    return tuple(
        part
        for index, part in enumerate(loc)
        if not (index and loc[index - 1] == "price" and part in PRICE_MODELS)
    )


def _hint(name: str, known: list[Any]) -> str:
    close = difflib.get_close_matches(name, [one for one in known if isinstance(one, str)], 1)
    return f"; did you mean {_shown(close[0])}?" if close else ""


def _shown(value: object) -> str:
    if isinstance(value, Mapping | list | tuple):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    text = (
        str(value)
        if isinstance(value, JsonNumber | Decimal)
        else json.dumps(value, default=str, ensure_ascii=False)
    )
    return text if len(text) <= SHOWN_CHARACTERS_MAX else text[:SHOWN_CHARACTERS_MAX] + "…"


def _path(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
