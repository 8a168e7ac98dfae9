"""What our meters make of a peer's test vector, by the real steps decode and meter: see `conformance`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from pydantic import ValidationError

from operators.cityhash import city_hash64
from operators.decode import decode_batch
from operators.meter import Measure
from operators.texts import Texts
from schemas.events import Reject
from schemas.meters import AggregationType, Meter
from schemas.money import DECIMALS_MAX, quantize_quantity
from schemas.usage import Readings
from tests.operators.records import CONFIG, EVENT, batch, payload, record
from tests.schemas.conformance import Case, OutOfScope, total


def measured(ours: Meter, properties: Sequence[Any]) -> tuple[Readings, list[Reject]]:
    """Readings of events with these properties (None: an event without any)."""
    events = [
        {"event_name": ours.event_name, "properties": one, "id": f"e{n}"} for n, one in enumerate(properties)
    ]
    decoded, rejects = decode_batch([batch([record(payload(EVENT, **event)) for event in events])], CONFIG)
    assert not rejects
    metered, refused = Measure([ours]).measure(decoded)
    return metered.readings, refused


def vector_meter(aggregation: Case, filters: Sequence[Case] = (), **more: Any) -> Meter:
    if aggregation["type"] not in set(AggregationType):
        raise OutOfScope(f"aggregation {aggregation['type']}")
    return Meter.model_validate(
        {"id": "m", "event_name": "e", "aggregation": aggregation, "filters": filters, **more}
    )


def values(readings: Readings) -> list[Decimal]:
    halves = zip(readings.hi.tolist(), readings.lo.tolist(), strict=True)
    return [Decimal((hi << 64) + lo).scaleb(-DECIMALS_MAX) for hi, lo in halves]


def aggregated(ours: Meter, properties: Sequence[Any]) -> Decimal | int | None:
    """One quantity of all readings; None where there is no row."""
    readings, refused = measured(ours, properties)
    assert not refused
    match ours.aggregation.type:
        case AggregationType.COUNT:
            return len(readings)
        case AggregationType.COUNT_UNIQUE:
            return len(set(readings.token.tolist()))
        case AggregationType.SUM:
            return total(values(readings)) if len(readings) else None
        case AggregationType.AVG:
            return quantize_quantity(total(values(readings)) / len(readings)) if len(readings) else None


def meter_filter(case: Case) -> Case:
    readings, _ = measured(vector_meter({"type": "COUNT"}, case["filters"]), [case["properties"]])
    return {"match": len(readings) == 1}


def extract_quantity(case: Case) -> Case:
    try:
        ours = vector_meter(case["aggregation"])
    except ValidationError:
        return {"qty": "refused in the catalog"}
    readings, refused = measured(ours, [case["properties"]])
    if refused:
        return {"qty": str(refused[0].reason)}
    return {"qty": 1 if ours.aggregation.type == "COUNT_UNIQUE" else values(readings)[0]}


def usage(case: Case) -> Case:
    ours = vector_meter(case["aggregation"], case.get("filters", ()))
    return {"value": aggregated(ours, [event["properties"] for event in case["events"]])}


def openmeter_aggregation(case: Case) -> Case:
    fields = {} if case["aggregation"] == "COUNT" else {"field": case["property"]}
    skip: Case = {"on_missing": "skip"} if case["aggregation"] in {"SUM", "AVG"} else {}
    ours = vector_meter({"type": case["aggregation"], **fields}, (), **skip)
    return {"value": aggregated(ours, [event["data"] for event in case["events"]])}


def lago_aggregation(case: Case) -> Case:
    properties = [{"value": event["value"]} for event in case["events"]]
    kinds = {"sum": {"type": "SUM", "field": "value"}, "avg": {"type": "AVG", "field": "value"}}
    return {
        "count": aggregated(vector_meter({"type": "COUNT"}), properties),
        **{name: aggregated(vector_meter(kind), properties) for name, kind in kinds.items()},
    }


def event_parse(case: Case) -> Case:
    kind = {"UNIQUE_COUNT": "COUNT_UNIQUE"}.get(case["aggregation"], case["aggregation"])
    data = json.loads(case["data"] or "null")
    readings, refused = measured(vector_meter({"type": kind, "field": case["property"]}), [data])
    if refused or kind != "COUNT_UNIQUE":
        return {"ok": False} if refused else {"ok": True, "value": values(readings)[0]}
    text = data[case["property"]]
    return {
        "ok": True,
        "value": text if readings.token[0] == city_hash64(Texts.of([text.encode()]))[0] else "another hash",
    }


def windowed_usage(case: Case) -> Case:
    ours = vector_meter(case["aggregation"], window={"DAY": "1d"}[case["window"]])
    days = {day: aggregated(ours, [{}] * count) for day, count in case["event_counts"].items()}
    return {"windows": days, "total": sum(int(count or 0) for count in days.values())}
