"""Wallet alerts into Redis, each published once, without ever holding metering back.

(shard key, [WalletAlert]) -> `PUBLISH wallet-alerts:TENANT` and the capped stream
`wallet:{tenant:customer}:alerts`, both the JSON of `sinks.wallet_alerts`. A replay is harmless because
`live_alerts.lua` publishes an id only if its mark `wallet:{tenant:customer}:alert:ID` is not there; a mark
is kept `MARK_TTL_S`.

Alerts wait in an outbox and one thread a process sends them. State of a part: a format version byte, then
msgpack of its alerts that Redis has not acknowledged, at most `PENDING_MAX`; past it the oldest are left to
the Kafka topic, which has them all.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition
from redis import Redis
from redis.exceptions import RedisError
from tenacity import RetryCallState, Retrying, retry_if_exception, sleep_using_event, stop_when_event_set
from tenacity import wait_exponential_jitter as exponential_jitter
from typing_extensions import override

from schemas.wallets import WalletAlert
from sinks import metrics
from sinks.clickhouse import shard_keys
from sinks.failures import Fault, StoreRefuses, brief, log_retry, logged_failures, redis_fault
from sinks.wallet_alerts import alert_json
from sinks.wallet_store import RedisConfig, quoted, wallet_key

logger = logging.getLogger(__name__)

STEP = "live_alerts"
STATE_FORMAT = b"\x01"
PENDING_MAX = 10_000
"""Alerts of one shard that wait for Redis."""
MARK_TTL_S = 30 * 86_400
"""An alert that is sent again later than this is published again."""

Alerts = dict[str, WalletAlert]
"""By id, oldest first."""


def alerts_channel(tenant_id: str) -> str:
    return f"wallet-alerts:{quoted(tenant_id)}"


class AlertOutbox:
    """The alerts that Redis has not acknowledged, and the thread that sends them."""

    def __init__(self, config: RedisConfig) -> None:
        self._config = config
        self._redis: Redis | None = None
        self._script = ""
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._pending: dict[str, Alerts] = {}
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def put(self, part: str, alerts: Sequence[WalletAlert]) -> None:
        """Queue alerts of a part."""
        if not alerts:
            return
        with self._changed:
            self._raise_error()
            pending = self._pending.setdefault(part, {})
            pending.update((alert.id, alert) for alert in alerts)
            for alert_id in list(pending)[: max(0, len(pending) - PENDING_MAX)]:
                logger.warning("alert %s waited too long for Redis: it is in the Kafka topic only", alert_id)
                del pending[alert_id]
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=STEP, daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def pending(self, part: str) -> list[WalletAlert]:
        """What a snapshot must keep."""
        with self._changed:
            self._raise_error()
            return list(self._pending.get(part, {}).values())

    def close(self) -> None:
        """Give Redis `drain_s` for what is pending, then stop. What is left is in the last snapshots."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or not any(self._pending.values()), self._config.drain_s
            )
            self._stop.set()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._redis is not None:
            self._redis.close()
        self._raise_error()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        retrying = Retrying(
            retry=retry_if_exception(lambda error: redis_fault(error) is Fault.TRANSIENT),
            wait=exponential_jitter(multiplier=0.02, max=self._config.retry_interval_max_s, jitter=0.02),
            stop=stop_when_event_set(self._stop),
            sleep=sleep_using_event(self._stop),
            before_sleep=_note_retry,
            reraise=True,
        )
        try:
            while not self._stop.is_set():
                with self._changed:
                    self._changed.wait_for(lambda: self._stop.is_set() or any(self._pending.values()))
                if not self._stop.is_set():
                    retrying(self._deliver)
        except Exception as error:
            if self._stop.is_set() and redis_fault(error) is Fault.TRANSIENT:
                return
            logger.exception("step %s can't go on", STEP)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _deliver(self) -> None:
        """One pipeline of what is pending now."""
        with self._changed:
            sent = [(part, alert) for part, alerts in self._pending.items() for alert in alerts.values()]
        self._publish([alert for _, alert in sent])
        metrics.WRITES.labels(STEP).inc()
        metrics.ROWS.labels(STEP).inc(len(sent))
        metrics.CIRCUIT_OPEN.labels(STEP).set(0)
        with self._changed:
            for part, alert in sent:
                self._pending[part].pop(alert.id, None)
            self._changed.notify_all()

    def _publish(self, alerts: list[WalletAlert]) -> None:
        if self._redis is None:
            self._script = Path(__file__).with_name("live_alerts.lua").read_text()
            self._redis = self._config.connect()
        # Redis applies a command twice as once: not one transaction, so that all may be sent again.
        pipeline = self._redis.pipeline(transaction=False)
        for alert in alerts:
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


def _note_retry(state: RetryCallState) -> None:
    metrics.RETRIES.labels(STEP).inc()
    metrics.CIRCUIT_OPEN.labels(STEP).set(1)
    log_retry(STEP, state)


class LiveAlertsSink(FixedPartitionedSink[Sequence[WalletAlert], bytes]):
    """Alerts as a Bytewax sink. Its parts are the shards; those of one process share an `AlertOutbox`."""

    def __init__(self, config: RedisConfig, shards: int) -> None:
        self._config, self._shards = config, shards
        self._lock = threading.Lock()
        self._outbox: AlertOutbox | None = None
        self._open_parts = 0

    @override
    def list_parts(self) -> list[str]:
        return shard_keys(self._shards)

    @override
    def part_fn(self, item_key: str) -> int:
        return int(item_key)

    @override
    def build_part(self, step_id: str, for_part: str, resume_state: bytes | None) -> LiveAlertsPart:
        with self._lock:
            if self._outbox is None:
                self._outbox = AlertOutbox(self._config)
            self._open_parts += 1
        if resume_state is not None:
            self._outbox.put(for_part, alerts_of_state(resume_state))
        return LiveAlertsPart(step_id, for_part, self._outbox, self._close_part)

    def _close_part(self) -> None:
        with self._lock:
            self._open_parts -= 1
            if self._open_parts == 0 and self._outbox is not None:
                outbox, self._outbox = self._outbox, None
                outbox.close()


class LiveAlertsPart(StatefulSinkPartition[Sequence[WalletAlert], bytes]):
    """One shard's end of the outbox."""

    def __init__(self, step_id: str, part: str, outbox: AlertOutbox, closed: Callable[[], None]) -> None:
        self._step_id, self._part, self._outbox, self._closed = step_id, part, outbox, closed

    @override
    def write_batch(self, values: list[Sequence[WalletAlert]]) -> None:
        with logged_failures(self._step_id):
            self._outbox.put(self._part, [alert for alerts in values for alert in alerts])

    @override
    def snapshot(self) -> bytes:
        with logged_failures(self._step_id):
            return state_of_alerts(self._outbox.pending(self._part))

    @override
    def close(self) -> None:
        with logged_failures(self._step_id):
            self._closed()


_Row = tuple[str, str, str, str, str, str, str, Decimal, Decimal, Decimal, int, int]
_STATE = msgspec.msgpack.Decoder(list[_Row])


def state_of_alerts(alerts: list[WalletAlert]) -> bytes:
    """Alerts as bytes that do not name a class, which may move."""
    return STATE_FORMAT + msgspec.msgpack.encode([_row(alert) for alert in alerts])


def _row(alert: WalletAlert) -> tuple[Any, ...]:
    return (
        alert.id,
        alert.tenant_id,
        alert.external_customer_id,
        alert.currency,
        alert.threshold_id,
        alert.kind,
        alert.direction,
        alert.threshold,
        alert.value_before,
        alert.value,
        alert.version,
        alert.as_of_ms,
    )


def alerts_of_state(state: bytes) -> list[WalletAlert]:
    if state[:1] != STATE_FORMAT:
        raise ValueError(
            f"the recovery store has pending alerts in format {state[0]}, newer than {STATE_FORMAT[0]}"
        )
    return [WalletAlert(*row) for row in _STATE.decode(state[1:])]
