"""Account events: what moves a customer's plan and money, one JSON object a record.

payload bytes -> `AccountEvent`, one class per `type`, or `AccountEventError` with all that is wrong.
These are the rules of one event alone; whether it fits the account (paying an unknown invoice) is for `bill`.

Amounts and quantities are JSON numbers or numeric strings, read exactly. Unknown keys are refused: a misspelt
`expires_at` would turn a credit that expires into one that never does.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from schemas.events import Reason
from schemas.explain import explain, path_text
from schemas.meters import Id, Name
from schemas.money import Currency, NonNegative, Number, Positive
from schemas.thresholds import Threshold, Thresholds

PRIORITY_DEFAULT = 100
PRIORITY_MAX = 1000
YEARS = range(1970, 2300)
"""Of a timestamp: those that ClickHouse's DateTime64 holds."""

_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)


class AccountEventError(ValueError):
    """The payload is no account event; `reason` is its dead letter's code, the text names field and value."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def _read_instant(value: object) -> object:
    """RFC 3339 text to UTC, cut to milliseconds; more than the text's own checks is pydantic's to do."""
    if isinstance(value, str):
        if not _RFC_3339.fullmatch(value):
            raise ValueError("must be RFC 3339 with a zone, such as 2026-11-23T09:30:00Z")
        value = datetime.fromisoformat(value.upper())
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("must be RFC 3339 text with a zone")
    if value.year not in YEARS or (value := value.astimezone(UTC)).year not in YEARS:
        raise ValueError(f"must be in the years {YEARS[0]} to {YEARS[-1]}")
    return value.replace(microsecond=value.microsecond // 1000 * 1000)


Instant = Annotated[datetime, BeforeValidator(_read_instant)]
"""An aware UTC datetime in whole milliseconds."""


class _Event(BaseModel):
    """What every account event has. The account is (`tenant_id`, `external_customer_id`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    tenant_id: Name
    external_customer_id: Name
    timestamp: Instant

    @property
    def at_ms(self) -> int:
        """The timestamp in milliseconds since 1970."""
        return milliseconds(self.timestamp)


class SubscriptionStarted(_Event):
    """From `timestamp` on the customer is on this plan; without an anchor its periods are the calendar's."""

    type: Literal["subscription_started"]
    plan_id: Id
    period_anchor: Instant | None = None


class SubscriptionChanged(_Event):
    """From `timestamp` on another plan; without an anchor the subscription keeps the one it has."""

    type: Literal["subscription_changed"]
    plan_id: Id
    period_anchor: Instant | None = None


class SubscriptionEnded(_Event):
    """From `timestamp` on the default plan; `plan_id` and `period_anchor` may be repeated in vain."""

    type: Literal["subscription_ended"]
    plan_id: Id | None = None
    period_anchor: Instant | None = None


class CreditGranted(_Event):
    """Adds to the balance; from `expires_at` on what is left of it is gone.

    Credits are used by lowest `priority`, then soonest expiry (none is last), then oldest.
    """

    type: Literal["credit_granted"]
    amount: Positive
    currency: Currency
    expires_at: Instant | None = None
    priority: int = Field(default=PRIORITY_DEFAULT, ge=0, le=PRIORITY_MAX, strict=True)

    @model_validator(mode="after")
    def _check_expiry(self) -> Self:
        if self.expires_at is not None and self.expires_at <= self.timestamp:
            raise ValueError(f"expires_at {self.expires_at.isoformat()} is not after the timestamp")
        return self


class Debit(_Event):
    """Takes from the balance, which may become negative."""

    type: Literal["debit"]
    amount: Positive
    currency: Currency


class InvoiceIssued(_Event):
    """Closes the billing period that starts at `period_start`: its usage is now this unpaid amount.

    The amount may be 0, as a period without usage is closed too.
    """

    type: Literal["invoice_issued"]
    invoice_id: Name
    amount: NonNegative
    currency: Currency
    period_start: Instant


class InvoicePaid(_Event):
    """Pays an invoice, in full without an `amount`; the rest repeats it and must agree."""

    type: Literal["invoice_paid"]
    invoice_id: Name
    amount: Positive | None = None
    currency: Currency | None = None
    period_start: Instant | None = None


class InvoiceVoided(_Event):
    """Takes back an invoice and opens its period again; the rest repeats it and must agree."""

    type: Literal["invoice_voided"]
    invoice_id: Name
    amount: NonNegative | None = None
    currency: Currency | None = None
    period_start: Instant | None = None


class Adjustment(_Event):
    """Adds a quantity, negative to take away, to one meter's usage of the period that starts then."""

    type: Literal["adjustment"]
    meter_id: Id
    period_start: Instant
    quantity: Number
    reason: Name


class ThresholdsSet(_Event):
    """These are the account's own thresholds in a currency from now on, beside its plan's; none: no more.

    One with the id of a plan's takes its place. In the order of the topic: the timestamp decides nothing.
    """

    type: Literal["thresholds_set"]
    currency: Currency
    thresholds: Thresholds


AccountEvent = (
    SubscriptionStarted
    | SubscriptionChanged
    | SubscriptionEnded
    | CreditGranted
    | Debit
    | InvoiceIssued
    | InvoicePaid
    | InvoiceVoided
    | Adjustment
    | ThresholdsSet
)

_ADAPTER: TypeAdapter[AccountEvent] = TypeAdapter(Annotated[AccountEvent, Field(discriminator="type")])
_DECODER = msgspec.json.Decoder(float_hook=Decimal)
_OPTIONAL = ("tenant_id", "customer_id", "external_customer_id", "timestamp")
_KEYS = sorted({key for event in (*AccountEvent.__args__, Threshold) for key in event.model_fields})


def parse_account_event(
    payload: bytes, *, append_ms: int, tenant_id: str | None = None, default_tenant: str = "default"
) -> AccountEvent:
    """One record's account event; `AccountEventError` if it is none.

    As in a usage event: a missing `tenant_id` is the record header's (the argument), else the default;
    a missing `external_customer_id` is `customer_id`; a missing `timestamp` is the record's append time.
    null and "" are missing.
    """
    fields = _decode(payload)
    for name in _OPTIONAL:
        if fields.get(name) in (None, ""):
            fields.pop(name, None)
    customer = fields.pop("customer_id", None)
    fields.setdefault("tenant_id", tenant_id or default_tenant)
    fields.setdefault("timestamp", datetime.fromtimestamp(append_ms / 1000, UTC))
    if customer is not None:
        fields.setdefault("external_customer_id", customer)
    try:
        return _ADAPTER.validate_python(fields)
    except ValidationError as error:
        raise AccountEventError(Reason.ACCOUNT_EVENT_INVALID, _detail(error)) from None


def milliseconds(at: datetime) -> int:
    """Since 1970; exact for `Instant`s."""
    return round(at.timestamp() * 1000)


def _decode(payload: bytes) -> dict[str, Any]:
    try:
        fields = _DECODER.decode(payload)
    except ArithmeticError:  # of Decimal: an exponent of over 18 digits
        raise AccountEventError(Reason.ACCOUNT_EVENT_INVALID, "a number is out of any range") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AccountEventError(Reason.NOT_JSON, f"the payload is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise AccountEventError(Reason.NOT_AN_OBJECT, f"the payload is JSON but a {type(fields).__name__}")
    return fields


def _detail(error: ValidationError) -> str:
    sentences = []
    for details in error.errors(include_url=False):
        loc, message = explain(details, _KEYS)
        # The union's member comes first, but for a wrong `type` itself.
        inner = loc if details["type"].startswith("union_tag") else loc[1:]
        sentences.append(f"{path_text(inner)}: {message}" if inner else message)
    return "; ".join(sentences)
