"""Wallets in Redis: the keys, the script that applies a row, and how a reader gets one back.

`wallet:{tenant:customer}:CUR`         hash: balance, unpaid_invoices, usage, available, currency, version,
                                       as_of, updated_at
`wallet:{tenant:customer}:deltas`      capped stream, one entry a published change: currency, delta,
                                       available, version, as_of
`wallet:{tenant:customer}:currencies`  set of the customer's currencies
`wallet-deltas:tenant`                 pub/sub channel, the entry as JSON with tenant_id, external_customer_id
`meterline:wallets:marker:WRITER`      counts the batches of one writing process

In keys and channel, `%`, `{`, `}` and `:` of a name are percent-encoded (`%25 %7B %7D %3A`), so that a
name can neither end the hash tag nor make two wallets one. Amounts are decimal texts without exponent
or trailing zeros; times are RFC 3339. Redis must not evict keys (`maxmemory-policy noeviction`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from schemas.wallets import WalletRow
from sinks.failures import Fault, StoreRefuses, brief, redis_fault
from sinks.wallet_commands import (
    Commands,
    argument,
    command,
    decimal_text,
    deltas_channel,
    quoted,
    rfc3339,
    wallet_key,
)

__all__ = [
    "RedisConfig",
    "RedisEmptied",
    "WalletStore",
    "WalletView",
    "decimal_text",
    "deltas_channel",
    "quoted",
    "read_wallet",
    "rfc3339",
    "wallet_key",
]

MARKER = "meterline:wallets:marker"
MARKER_TTL_S = 7 * 86_400
"""A marker outlives its process by this, and a longer outage than this is taken for a loss of data."""

STALE, SAME_AMOUNTS, PUBLISHED = 0, 1, 2
"""What the script answers."""


@dataclass(frozen=True, kw_only=True)
class RedisConfig:
    """Where Redis is, and how the wallets sink uses it."""

    url: str = field(repr=False)
    """`redis[s]://[user:password@]host:port/db`."""
    timeout_s: float = 2.0
    """Of connecting, and of one pipeline's answer."""
    batch_rows_max: int = 1000
    """Wallets of one pipeline."""
    deltas_max: int = 1000
    """Entries that a customer's stream keeps, about; a reader that falls further behind reads the hash."""
    retry_interval_max_s: float = 1.0
    """Back-off while Redis is away; it never ends."""
    check_interval_s: float = 1.0
    """How often an idle writer looks whether Redis still has its data."""
    drain_s: float = 5.0
    """How long the end of the flow waits for Redis; what is left is in the recovery store."""

    def connect(self, *, one_connection: bool = False) -> Redis:
        """A client that leaves retries to its caller.

        :arg one_connection: Connect now; `Redis.connection` is then the one that all commands take.
        """
        return Redis.from_url(
            self.url,
            single_connection_client=one_connection,
            socket_timeout=self.timeout_s,
            socket_connect_timeout=self.timeout_s,
            retry=Retry(NoBackoff(), 0),
        )


class RedisEmptied(RuntimeError):  # noqa: N818 - named for what happened
    """Redis lost wallets that it had acknowledged. The process ends: its next start sends every wallet."""


class WalletStore:
    """Applies rows by `wallets.lua`, a pipeline a batch. One thread's.

    Each pipeline ends by counting itself in this process's marker, so the marker is never behind what was
    acknowledged. If it is (emptied, restored, failed over to a replica that lagged), Redis lost data.
    """

    def __init__(self, config: RedisConfig, now_ms: Callable[[], int]) -> None:
        self._config, self._now_ms = config, now_ms
        self._marker = f"{MARKER}:{uuid.uuid4().hex}"
        self._counted = 0
        self._redis: Redis | None = None
        self._script = ""
        self._commands: Commands | None = None

    def apply(self, rows: Sequence[WalletRow]) -> list[int]:
        """The script's answer to each row. Redis applies a row twice as once, so all may be sent again.

        Raises `RedisEmptied`, `StoreRefuses`, or redis-py's exception of a passing failure.
        """
        try:
            return self._apply(rows)
        except RedisError as error:
            if redis_fault(error) is Fault.TRANSIENT:
                raise
            raise StoreRefuses(f"Redis refuses wallets: {brief(error)}; check METERLINE_REDIS_URL") from error

    def close(self) -> None:
        if self._redis is not None:
            self._redis.close()

    def _apply(self, rows: Sequence[WalletRow]) -> list[int]:
        if self._redis is None:
            self._script = Path(__file__).with_name("wallets.lua").read_text()
            self._redis = self._config.connect(one_connection=True)
        if self._commands is None:
            self._commands = Commands(str(self._redis.script_load(self._script)), self._config.deltas_max)
        if not self._counted:
            self._begin_marker(self._redis)
        updated_at = argument(rfc3339(self._now_ms()))
        make = self._commands.apply
        commands = [make(row, updated_at) for row in rows]
        mark = [command("INCR", self._marker), command("EXPIRE", self._marker, str(MARKER_TTL_S))]
        *answers, counted, _ = exchange(self._redis.connection, commands + mark)
        self._check_marker(counted)
        for row, answer in zip(rows, answers, strict=True):
            if isinstance(answer, Exception):
                self._fail(row, answer)
        return answers

    def _begin_marker(self, redis: Redis) -> None:
        """Before the first rows: Redis may lose its data while it takes them."""
        self._check_marker(redis.incr(self._marker))
        redis.expire(self._marker, MARKER_TTL_S)

    def _check_marker(self, counted: Any) -> None:
        if isinstance(counted, Exception):
            raise counted
        if counted <= self._counted:
            raise RedisEmptied(
                f"Redis counts {counted} batches of wallets where it had acknowledged {self._counted}: "
                "it lost data. Restart this process; every wallet is sent again."
            )
        self._counted = counted

    def _fail(self, row: WalletRow, error: Exception) -> None:
        if isinstance(error, NoScriptError):
            self._commands = None
        if redis_fault(error) is Fault.TRANSIENT:
            raise error
        key = wallet_key(row.tenant_id, row.external_customer_id, row.currency)
        raise StoreRefuses(
            f"Redis refuses {key}: {brief(error)}; delete or repair it, then restart"
        ) from error


def exchange(connection: Any, commands: Sequence[str]) -> list[Any]:
    """The answers to packed commands; a refused one's is the exception.

    As redis-py's pipeline does it, without what that does for each command: 3 us rather than 30. Nor does it
    look first whether the connection still holds, it just fails then: each call that leaves Python may wait
    5 ms for the flow's thread to give way.
    """
    answers: list[Any] = []
    try:
        connection.send_packed_command(["".join(commands).encode()])
        for _ in commands:
            try:
                answers.append(connection.read_response())
            except ResponseError as error:
                answers.append(error)
    except BaseException:
        connection.disconnect()  # the next command must not read this one's answers
        raise
    return answers


@dataclass(frozen=True, slots=True)
class WalletView:
    """A wallet as a reader sees it."""

    tenant_id: str
    external_customer_id: str
    currency: str
    balance: Decimal
    unpaid_invoices: Decimal
    usage: Decimal
    available: Decimal
    version: int
    as_of: datetime
    """The newest record it knows of."""
    updated_at: datetime
    """When the sink sent it."""


def read_wallet(
    redis: Redis, tenant_id: str, external_customer_id: str, currency: str | None = None
) -> list[WalletView]:
    """A customer's wallets by currency, or the one of `currency`; empty if there is none."""
    currencies = [currency] if currency is not None else []
    if currency is None:
        members: Any = redis.smembers(wallet_key(tenant_id, external_customer_id, "currencies"))
        currencies = sorted(_text(member) for member in members)
    views = []
    for name in currencies:
        found: Any = redis.hgetall(wallet_key(tenant_id, external_customer_id, name))
        if found:
            fields = {_text(key): _text(value) for key, value in found.items()}
            views.append(_view(tenant_id, external_customer_id, fields))
    return views


def _view(tenant_id: str, external_customer_id: str, fields: dict[str, str]) -> WalletView:
    return WalletView(
        tenant_id=tenant_id,
        external_customer_id=external_customer_id,
        currency=fields["currency"],
        balance=Decimal(fields["balance"]),
        unpaid_invoices=Decimal(fields["unpaid_invoices"]),
        usage=Decimal(fields["usage"]),
        available=Decimal(fields["available"]),
        version=int(fields["version"]),
        as_of=datetime.fromisoformat(fields["as_of"]),
        updated_at=datetime.fromisoformat(fields["updated_at"]),
    )


def _text(value: bytes | str) -> str:
    """What a client with or without `decode_responses` answers."""
    return value if isinstance(value, str) else value.decode()
