"""The catalog: all meters and plans, read from YAML, with every error named by its path.

text -> `Catalog`, or `CatalogError` with all problems found. Structure, values and references are checked in
one go; only what depends on a value that is itself wrong (the order of tiers with an unreadable bound) waits.

Numbers are read as they are written: `unit_amount: 0.002` is exact, quoted or not (`schemas.yaml_text`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from schemas.explain import Loc, did_you_mean, explain, is_echo, path_text, shown
from schemas.meters import Aggregation, Filter, Id, Meter
from schemas.money import decimal_text
from schemas.plans import Plan, PlanCharge
from schemas.prices import PRICE_MODELS, Flat, Graduated, Package, PerUnit, Tier
from schemas.thresholds import Threshold
from schemas.yaml_text import YamlError, read_yaml

CATALOG_BYTES_MAX = 4 * 1024 * 1024
METERS_MAX = 1000
PLANS_MAX = 10_000


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
    def standing_charges(self) -> dict[str, tuple[str, ...]]:
        """By plan, the meters ("" is the fee without one) that cost something in a period without usage:
        those at a flat price, and those that never reset."""
        never = {meter.id for meter in self.meters if meter.reset_usage == "NEVER"}
        return {
            plan.id: tuple(
                meter_id
                for meter_id, charge in plan.charges_by_meter.items()
                if isinstance(charge.price, Flat) or meter_id in never
            )
            for plan in self.plans
        }

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits of what the catalog means: layout, order of meters and plans, `1.0` or `1` aside.

        Thresholds are not in it: no stored row depends on them.
        """
        content = {
            "meters": {meter.id: meter.model_dump() for meter in self.meters},
            "plans": {plan.id: plan.model_dump(exclude={"thresholds"}) for plan in self.plans},
            "default_plan": self.default_plan,
        }
        text = json.dumps(content, sort_keys=True, default=decimal_text)
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def as_json(self) -> bytes:
        """What it was made of, for `of_json`."""
        return self.model_dump_json(exclude_unset=True).encode()

    @staticmethod
    def of_json(text: bytes) -> Catalog:
        """The catalog whose `as_json` it is."""
        return Catalog.model_validate_json(text)


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
    found = list(document.duplicate_keys)
    catalog = None
    try:
        catalog = Catalog.model_validate(document.value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        explained = [explain(details, _KEYS) for details in errors if not is_echo(details, errors)]
        found += [(_without_tag(loc), message) for loc, message in explained]
        if all(details["type"] != "reference" for details in errors):
            # The model's own check of references was not reached: do it on what was read.
            references = _reference_problems(document.value)
            found += [(problem["loc"], str(problem["type"])) for problem in references]
    if found or catalog is None:
        raise CatalogError([CatalogProblem(path_text(loc), text, document.line(loc)) for loc, text in found])
    return catalog


# References


def _reference_problems(catalog: object) -> Iterator[InitErrorDetails]:
    """Duplicate ids and unknown names, of a `Catalog` or of what was read where a catalog should be."""
    meters = _ids(catalog, "meters")
    plans = _ids(catalog, "plans")
    for kind in ("meters", "plans"):
        first: dict[str, int] = {}
        for index, name in enumerate(_member(item, "id") for item in _list(catalog, kind)):
            if isinstance(name, str) and first.setdefault(name, index) < index:
                yield _reference((kind, index, "id"), name, f"is the id of {kind}[{first[name]}] as well")
    for index, plan in enumerate(_list(catalog, "plans")):
        for number, charge in enumerate(_list(plan, "charges")):
            name = _member(charge, "meter")
            if isinstance(name, str) and name not in meters:
                loc = ("plans", index, "charges", number, "meter")
                yield _reference(loc, name, "is not a meter" + did_you_mean(name, meters))
    default = _member(catalog, "default_plan")
    if isinstance(default, str) and default not in plans:
        yield _reference(("default_plan",), default, "is not a plan" + did_you_mean(default, plans))


def _reference(loc: Loc, name: str, message: str) -> InitErrorDetails:
    error = PydanticCustomError("reference", f"{shown(name)} {message}")
    return InitErrorDetails(type=error, loc=loc, input=name)


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _ids(catalog: object, kind: str) -> set[str]:
    ids = (_member(item, "id") for item in _list(catalog, kind))
    return {name for name in ids if isinstance(name, str)}


def _list(value: object, name: str) -> list[object]:
    member = _member(value, name)
    return list(member) if isinstance(member, list | tuple) else []


_KEYS = sorted(
    {
        key
        for model in (
            Catalog,
            Meter,
            Aggregation,
            Filter,
            Plan,
            PlanCharge,
            Package,
            PerUnit,
            Graduated,
            Tier,
            Threshold,
        )
        for key in model.model_fields
    }
)


def _without_tag(loc: Loc) -> Loc:
    """Pydantic names the chosen price model after "price"; the file has no such level."""
    pairs = enumerate(loc)
    return tuple(
        part for index, part in pairs if not (index and loc[index - 1] == "price" and part in PRICE_MODELS)
    )
