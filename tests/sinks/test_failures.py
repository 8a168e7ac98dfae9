from __future__ import annotations

import logging

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError, ProgrammingError
from redis import exceptions as redis_exceptions
from tenacity import RetryCallState, Retrying

from sinks.failures import (
    AMBIGUOUS_CODES,
    FATAL_CODES,
    TRANSIENT_CODES,
    Fault,
    brief,
    clickhouse_fault,
    log_retry,
    logged_failures,
    redis_fault,
)


def test_a_code_means_one_thing() -> None:
    kinds = [set(TRANSIENT_CODES), set(AMBIGUOUS_CODES), set(FATAL_CODES)]
    assert len(set.union(*kinds)) == sum(map(len, kinds))


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (DatabaseError("too many parts", code=252), Fault.TRANSIENT),
        (DatabaseError("memory", code=241), Fault.TRANSIENT),
        (DatabaseError("table is read-only", code=242), Fault.TRANSIENT),
        (OperationalError("connection refused"), Fault.TRANSIENT),
        (DatabaseError("502 of a proxy"), Fault.TRANSIENT),
        (DatabaseError("read after eof", code=32), Fault.AMBIGUOUS),
        (DatabaseError("trailing bytes", code=36), Fault.ROW),
        (DatabaseError("cannot read all data", code=33), Fault.ROW),
        (DatabaseError("violated constraint", code=469), Fault.ROW),
        (DatabaseError("no table", code=60), Fault.FATAL),
        (DatabaseError("no database", code=81), Fault.FATAL),
        (DatabaseError("password", code=516), Fault.FATAL),
        (ProgrammingError("the driver was used wrongly"), Fault.FATAL),
        (ValueError("a bug"), Fault.FATAL),
    ],
)
def test_clickhouse(error: Exception, fault: Fault) -> None:
    assert clickhouse_fault(error) is fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (redis_exceptions.ConnectionError("Connection refused"), Fault.TRANSIENT),
        (redis_exceptions.TimeoutError("Timeout reading from socket"), Fault.TRANSIENT),
        (redis_exceptions.BusyLoadingError("Redis is loading the dataset in memory"), Fault.TRANSIENT),
        (redis_exceptions.NoScriptError("No matching script"), Fault.TRANSIENT),
        (redis_exceptions.ReadOnlyError("You can't write against a read only replica."), Fault.TRANSIENT),
        (
            redis_exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'"),
            Fault.TRANSIENT,
        ),
        (
            redis_exceptions.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
            Fault.TRANSIENT,
        ),
        (
            redis_exceptions.ResponseError("Error running script: @user_script:9: OOM command"),
            Fault.TRANSIENT,
        ),
        (redis_exceptions.ResponseError("WRONGTYPE Operation against a key"), Fault.FATAL),
        (redis_exceptions.ResponseError("Error running script: not a decimal: x"), Fault.FATAL),
        (redis_exceptions.AuthenticationError("invalid username-password pair"), Fault.FATAL),
        (redis_exceptions.NoPermissionError("this user has no permissions"), Fault.FATAL),
        (ValueError("a bug"), Fault.FATAL),
    ],
)
def test_redis(error: Exception, fault: Fault) -> None:
    assert redis_fault(error) is fault


def test_a_brief_error_says_what_the_server_said() -> None:
    error = DatabaseError(
        "Received ClickHouse exception, code: 60, server response: Code: 60.\n Table x is not there"
    )
    assert brief(error) == "Code: 60. Table x is not there"


def test_a_failure_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(ZeroDivisionError), logged_failures("usage_windows"):
        print(1 // 0)
    assert "step usage_windows failed" in caplog.text
    assert "Traceback" in caplog.text


def test_a_long_outage_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    state = RetryCallState(Retrying(), None, (), {})
    with caplog.at_level(logging.WARNING):
        for attempt in range(1, 1001):
            state.attempt_number = attempt
            state.set_exception((OSError, OSError("connection refused"), None))
            log_retry("wallets", state)
    assert len(caplog.records) == 10
    assert caplog.messages[0] == "wallets: try 1 failed, retrying: connection refused"
