"""`meterline` as a user runs it: a process of its own, with settings in its environment."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

Settings = Mapping[str, str]
"""The environment of a command, by names."""

CATALOG = """
meters:
  - {id: calls, event_name: call, aggregation: {type: COUNT}}
  - {id: tokens, event_name: call, aggregation: {type: SUM, field: tokens}}
plans:
  - id: plan
    currency: USD
    billing_period: MONTHLY
    charges:
      - {meter: tokens, price: {model: per_unit, unit_amount: "0.01"}}
default_plan: plan
"""
BOB = (
    '{"id": "e1", "tenant_id": "acme", "event_name": "call", "external_customer_id": "bob",'
    ' "properties": {"tokens": 50}}'
)
EVE = BOB.replace("e1", "e2").replace("bob", "eve").replace("50", "7.5")
EVENTS = f"{BOB}\n{BOB}\n\n{EVE}\nnot JSON\n"
"""Two readings: e1 comes twice, and one line is a dead letter."""

COMMAND = (sys.executable, "-m", "dataflows.cli")
TIMEOUT_S = 90.0


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


def environment(settings: Settings) -> dict[str, str]:
    """The settings alone: none of whoever runs the tests."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("METERLINE_")}
    return {**others, "COLUMNS": "200", **settings}


def meterline(settings: Settings, *arguments: str, stdin: str = "") -> Ran:
    """Run a command to its end."""
    ran = subprocess.run(
        [*COMMAND, *arguments],
        env=environment(settings),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return Ran(ran.returncode, ran.stdout, ran.stderr)


@contextmanager
def running(settings: Settings, log: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on, its output in `log`; killed at the end if it still runs."""
    with (
        log.open("w") as out,
        subprocess.Popen(
            [*COMMAND, *arguments], env=environment(settings), stdout=out, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def wait_for(log: Path, text: str, process: subprocess.Popen[str], times: int = 1) -> None:
    """Return when the log has the text; fail if the process ends before."""
    deadline = time.monotonic() + TIMEOUT_S
    while log.read_text().count(text) < times:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"no {text!r} in {log.read_text()}"
        time.sleep(0.05)
