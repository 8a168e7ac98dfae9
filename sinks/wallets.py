"""Live wallets into Redis, without ever holding metering back.

(shard key, [WalletRow]) -> the hash of each wallet, and its delta to subscribers (`sinks.wallet_store`).
Rows wait in an outbox (`sinks.outbox`), the newest of each wallet.
A replay is harmless because a row is the whole wallet, and `wallets.lua` applies it only if its version is
higher, or equal with other amounts, and publishes the difference to what is stored: each delta once.

State of a part: its rows that Redis has not acknowledged. Its size, and the outbox's, is bounded by the
number of wallets. A Redis that lost its data, or refuses a key for good, ends the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from typing_extensions import override

from schemas.wallets import WalletRow
from sinks import metrics
from sinks.outbox import Outbox, State
from sinks.shards import ShardSink
from sinks.wallet_store import STALE, RedisConfig, RedisEmptied, WalletStore, WalletView, read_wallet

__all__ = ["RedisConfig", "RedisEmptied", "WalletOutbox", "WalletView", "WalletsSink", "read_wallet"]

STEP = "wallets"
STATE = State(WalletRow, "wallets")

Wallet = tuple[str, str, str]
"""tenant_id, external_customer_id, currency."""


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class WalletOutbox(Outbox[Wallet, WalletRow]):
    """The newest row of each wallet that Redis has not acknowledged."""

    def __init__(self, config: RedisConfig, now_ms: Callable[[], int] = wall_clock_ms) -> None:
        super().__init__(config, STEP, STATE, config.check_interval_s)
        self._now_ms = now_ms
        self._store = WalletStore(config, now_ms)
        metrics.WALLETS_PENDING.set_function(self.count_pending)

    @override
    def queue(self, pending: dict[Wallet, WalletRow], items: Sequence[WalletRow]) -> None:
        """Of one wallet the highest version stays, the later one of equal versions."""
        for row in items:
            wallet = (row.tenant_id, row.external_customer_id, row.currency)
            queued = pending.get(wallet)
            if queued is None or row.version >= queued.version:
                pending[wallet] = row

    @override
    def send(self, items: list[WalletRow]) -> None:
        """Of no rows, it only checks that Redis has its data."""
        answers = self._store.apply(items)
        news = [row.as_of_ms for row, answer in zip(items, answers, strict=True) if answer != STALE]
        metrics.WALLET_UPDATES.labels("new").inc(len(news))
        metrics.WALLET_UPDATES.labels("stale").inc(len(items) - len(news))
        late_ms = np.maximum(self._now_ms() - np.array(news, np.int64), 0)
        metrics.WALLET_FRESHNESS_SECONDS.observe_all(late_ms / 1000)

    @override
    def disconnect(self) -> None:
        self._store.close()


class WalletsSink(ShardSink[list[WalletRow], bytes]):
    """Wallets as a Bytewax sink."""

    def __init__(self, config: RedisConfig, shards: int) -> None:
        super().__init__(shards, lambda: WalletOutbox(config))
