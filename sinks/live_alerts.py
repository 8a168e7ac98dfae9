"""Wallet alerts into Redis, each published once, without ever holding metering back.

(shard key, [WalletAlert]) -> `PUBLISH wallet-alerts:TENANT` and the capped stream
`wallet:{tenant:customer}:alerts`, both the JSON of `sinks.wallet_alerts`. A replay is harmless because
`live_alerts.lua` publishes an id only if its mark `wallet:{tenant:customer}:alert:ID` is not there; a mark
is kept `MARK_TTL_S`.

Alerts wait in an outbox (`sinks.outbox`). State of a part: its alerts that Redis has not acknowledged, at
most `PENDING_MAX`; past it the oldest are left to the Kafka topic, which has them all.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from typing_extensions import override

from schemas.wallets import WalletAlert
from sinks.failures import Fault, StoreRefuses, brief, redis_fault
from sinks.outbox import Outbox, State
from sinks.shards import ShardSink
from sinks.wallet_alerts import alert_json
from sinks.wallet_store import RedisConfig, quoted, wallet_key

logger = logging.getLogger(__name__)

STEP = "live_alerts"
STATE = State(WalletAlert, "alerts")
PENDING_MAX = 10_000
"""Alerts of one shard that wait for Redis."""
MARK_TTL_S = 30 * 86_400
"""An alert that is sent again later than this is published again."""


def alerts_channel(tenant_id: str) -> str:
    return f"wallet-alerts:{quoted(tenant_id)}"


class AlertOutbox(Outbox[str, WalletAlert]):
    """The alerts that Redis has not acknowledged, by id."""

    def __init__(self, config: RedisConfig) -> None:
        super().__init__(config, STEP, STATE)
        self._redis: Redis | None = None
        self._script = ""

    @override
    def queue(self, pending: dict[str, WalletAlert], items: Sequence[WalletAlert]) -> None:
        pending.update((alert.id, alert) for alert in items)
        for alert_id in list(pending)[: max(0, len(pending) - PENDING_MAX)]:
            logger.warning("alert %s waited too long for Redis: it is in the Kafka topic only", alert_id)
            del pending[alert_id]

    @override
    def send(self, items: list[WalletAlert]) -> None:
        if self._redis is None:
            self._script = Path(__file__).with_name("live_alerts.lua").read_text()
            self._redis = self._config.connect()
        # Redis applies a command twice as once: not one transaction, so that all may be sent again.
        pipeline = self._redis.pipeline(transaction=False)
        for alert in items:
            customer = alert.tenant_id, alert.external_customer_id
            keys = wallet_key(*customer, f"alert:{alert.id}"), wallet_key(*customer, "alerts")
            channel = alerts_channel(alert.tenant_id)
            arguments = (MARK_TTL_S, channel, alert_json(alert), self._config.deltas_max)
            pipeline.eval(self._script, len(keys), *keys, *arguments)
        try:
            pipeline.execute()
        except RedisError as error:
            if redis_fault(error) is Fault.TRANSIENT:
                raise
            raise StoreRefuses(f"Redis refuses alerts: {brief(error)}; check METERLINE_REDIS_URL") from error

    @override
    def disconnect(self) -> None:
        if self._redis is not None:
            self._redis.close()


class LiveAlertsSink(ShardSink[Sequence[WalletAlert], bytes]):
    """Alerts as a Bytewax sink."""

    def __init__(self, config: RedisConfig, shards: int) -> None:
        super().__init__(shards, lambda: AlertOutbox(config))
