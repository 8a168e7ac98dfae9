"""How a store fails: for a while, for good, or because of a row; and what that means for the process.

A client's exception -> `Fault`: TRANSIENT is retried; AMBIGUOUS is retried a few times, then taken for ROW;
ROW is bisected down to the rows that cause it; FATAL ends the process with a sentence that says what to do.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError
from redis import exceptions as redis_exceptions
from tenacity import RetryCallState

logger = logging.getLogger(__name__)

TRANSIENT_CODES: dict[int, str] = {
    74: "CANNOT_READ_FROM_FILE_DESCRIPTOR",
    75: "CANNOT_WRITE_TO_FILE_DESCRIPTOR",
    76: "CANNOT_OPEN_FILE",
    159: "TIMEOUT_EXCEEDED",
    160: "TOO_SLOW",
    201: "QUOTA_EXCEEDED",
    202: "TOO_MANY_SIMULTANEOUS_QUERIES",
    203: "NO_FREE_CONNECTION",
    209: "SOCKET_TIMEOUT",
    210: "NETWORK_ERROR",
    225: "NO_ZOOKEEPER",
    236: "ABORTED",
    241: "MEMORY_LIMIT_EXCEEDED",
    242: "TABLE_IS_READ_ONLY",
    243: "NOT_ENOUGH_SPACE",
    252: "TOO_MANY_PARTS",
    254: "NO_ACTIVE_REPLICAS",
    279: "ALL_CONNECTION_TRIES_FAILED",
    285: "TOO_FEW_LIVE_REPLICAS",
    286: "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE",
    289: "REPLICA_IS_NOT_IN_QUORUM",
    290: "LIMIT_EXCEEDED",
    319: "UNKNOWN_STATUS_OF_INSERT",
    373: "SESSION_IS_LOCKED",
    394: "QUERY_WAS_CANCELLED",
    425: "SYSTEM_ERROR",
    439: "CANNOT_SCHEDULE_TASK",
    473: "DEADLOCK_AVOIDED",
    999: "KEEPER_EXCEPTION",
    1000: "POCO_EXCEPTION",
    1002: "UNKNOWN_EXCEPTION",
}
"""ClickHouse's codes, and its names of them, of a server that is busy, restarting, out of memory or parts."""

AMBIGUOUS_CODES = frozenset((3, 32))
"""An unexpected end of data: of a broken connection, or of a broken aggregate state in one row (measured)."""

FATAL_CODES: dict[int, str] = {
    8: "a column of the batch is not in the table; run `meterline migrate`",
    10: "a column of the batch is not in the table; run `meterline migrate`",
    16: "a column of the batch is not in the table; run `meterline migrate`",
    20: "the batch and the table differ in columns; run `meterline migrate`",
    44: "a column can't be written; run `meterline migrate`",
    46: "the server is too old: it lacks a function that a table needs",
    47: "a column of the batch is not in the table; run `meterline migrate`",
    48: "the server can't do this",
    50: "the server is too old: it lacks a type that a table needs",
    53: "a column has another type than in the table; run `meterline migrate`",
    60: "the table is not there; run `meterline migrate`",
    62: "the server does not understand the insert",
    81: "the database is not there; run `meterline migrate`",
    115: "the server does not know a setting",
    164: "the user may only read; give METERLINE_CLICKHOUSE_URL one that may insert",
    192: "the user is unknown; check METERLINE_CLICKHOUSE_URL",
    193: "the password is wrong; check METERLINE_CLICKHOUSE_URL",
    194: "a password is required; check METERLINE_CLICKHOUSE_URL",
    291: "the user may not use the database; grant it or change METERLINE_CLICKHOUSE_URL",
    497: "the user may not insert; grant it or change METERLINE_CLICKHOUSE_URL",
    516: "user or password is wrong; check METERLINE_CLICKHOUSE_URL",
}
"""Codes of a wrong configuration, and what to do: no retry and no other row would help."""


class Fault(Enum):
    TRANSIENT = "transient"
    AMBIGUOUS = "ambiguous"
    ROW = "row"
    FATAL = "fatal"


class StoreUnavailable(RuntimeError):  # noqa: N818 - named for what the store is
    """The store did not take a write before the deadline. The process ends; a restart resumes."""


class StoreRefuses(RuntimeError):  # noqa: N818 - named for what the store does
    """The store refuses for good, and not because of a row. Someone must change a configuration."""


def clickhouse_fault(error: BaseException) -> Fault:
    """What an exception of clickhouse-connect means. An error without a code never reached ClickHouse
    or was answered by something before it (a proxy), which passes; an error of our own does not."""
    if not isinstance(error, DatabaseError):
        return Fault.FATAL
    if error.code is None:
        return Fault.TRANSIENT if type(error) in {DatabaseError, OperationalError} else Fault.FATAL
    if error.code in TRANSIENT_CODES:
        return Fault.TRANSIENT
    if error.code in AMBIGUOUS_CODES:
        return Fault.AMBIGUOUS
    return Fault.FATAL if error.code in FATAL_CODES else Fault.ROW


def clickhouse_refuses(table: str, error: BaseException) -> StoreRefuses:
    """The sentence to end with after a FATAL error."""
    code = error.code if isinstance(error, DatabaseError) else None
    why = FATAL_CODES.get(code, "the batch can't be sent") if code is not None else "the batch can't be sent"
    return StoreRefuses(f"ClickHouse refuses writes to {table}: {why} ({brief(error)})")


REDIS_PASSING = (
    redis_exceptions.ConnectionError,
    redis_exceptions.TimeoutError,
    redis_exceptions.ClusterDownError,
    redis_exceptions.MasterDownError,
    redis_exceptions.OutOfMemoryError,
    redis_exceptions.ReadOnlyError,
    redis_exceptions.TryAgainError,
    redis_exceptions.NoScriptError,  # a restarted Redis knows no scripts; the next try loads ours
)
REDIS_PASSING_CODES = re.compile(
    r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN|UNKILLABLE)\b"
)
"""A server that is starting, failing over, full or can't write its disk; redis-py has a class for some of
these codes and then drops the code from the text, a script's error has it in its text."""


def redis_fault(error: BaseException) -> Fault:
    """What an exception of redis-py means."""
    if isinstance(error, redis_exceptions.AuthenticationError | redis_exceptions.AuthorizationError):
        return Fault.FATAL  # though redis-py derives them from its ConnectionError
    if isinstance(error, REDIS_PASSING):
        return Fault.TRANSIENT
    if isinstance(error, redis_exceptions.ResponseError) and REDIS_PASSING_CODES.search(str(error)):
        return Fault.TRANSIENT
    return Fault.FATAL


_INNER = re.compile(r"""server response: (.*)|Caused by \w+\(["'](.*?)["']\)""")


def brief(error: BaseException) -> str:
    """The first 300 characters of an error, without what the drivers wrap around it."""
    text = " ".join(str(error).split())
    if isinstance(error, ClickHouseError) and (inner := _INNER.search(text)):
        text = inner[1] or inner[2]
    return text[:300] or type(error).__name__


def log_retry(step_id: str, state: RetryCallState) -> None:
    """Warn of a failed try: the first, second, fourth, eighth..., so that an hour's outage is a few lines."""
    error = state.outcome.exception() if state.outcome else None
    if error is not None and state.attempt_number.bit_count() == 1:
        logger.warning("%s: try %d failed, retrying: %s", step_id, state.attempt_number, brief(error))


@contextmanager
def logged_failures(step_id: str) -> Iterator[None]:
    """Log an exception with its traceback before it leaves Python: a Bytewax cluster prints none."""
    try:
        yield
    except Exception:
        logger.exception("step %s failed; the process ends and resumes from its last epoch", step_id)
        raise
