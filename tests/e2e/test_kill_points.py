"""The flow killed on purpose where a crash could lose or repeat something: each place costs nothing.

The places are in tests/e2e/kill_points.py. Each run starts where the kill before left the stores.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dataflows.embedded import engines
from tests.e2e.job import Job, KillPoint, prepare
from tests.e2e.load import Load, crash_catalog
from tests.e2e.stores import compare

EVENTS = 400
DIES_WITHIN_S = 60


@dataclass
class Scene:
    """Engines, a flow and events on demand."""

    job: Job
    load: Load

    def write(self) -> None:
        self.load.write(EVENTS)
        self.load.flush()

    def die(self, place: str, count: int) -> None:
        """Run, with events coming, until the kill point."""
        self.job.start(kill_point=KillPoint(place, count))
        deadline = time.monotonic() + DIES_WITHIN_S
        while self.job.is_running():
            assert time.monotonic() < deadline, f"{place} is never reached:\n{self.job.log()}"
            self.load.write(40)
            time.sleep(0.1)
        assert self.job.wait() == [-signal.SIGKILL], f"{place} was not reached:\n{self.job.log()}"

    def finish(self) -> None:
        self.job.run_until_end()
        _, found = compare(self.job.engines, crash_catalog())
        assert not found, str(found)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("kill-points")
    with engines(directory / "engines") as running:
        prepare(running)
        job = Job(running, directory, crash_catalog())
        scene = Scene(job, Load(running.kafka_brokers, seed=5))
        scene.write()
        scene.finish()
        yield scene
        job.kill()


@pytest.mark.parametrize(
    "kills",
    [
        [("rows-kept", 1), ("rows-kept", 40)],
        [("rows-begun", 1), ("rows-begun", 20)],
        [("windows-acknowledged", 1)],
        [("events-acknowledged", 1), ("charges-acknowledged", 1)],
        [("insert-stuck", 1), ("rows-resume", 1), ("rows-resume", 2)],
        [("redis-acknowledged", 1), ("redis-acknowledged", 2)],
        [("redis-stuck", 1)],
        [("dead-letters-acknowledged", 1)],
        [("dead-letters-lingering", 20)],
        [("dedupe-snapshot", 9), ("window-snapshot", 9)],
        [("bill-snapshot", 9), ("bill-snapshot", 40)],
        [("offsets-snapshot", 3), ("offsets-snapshot", 8)],
        [("ids-written", 1), ("ids-written", 30), ("ids-deleted", 1)],
        [("windows-written", 1), ("windows-written", 9), ("windows-left", 1)],
        [("minutes-written", 1), ("minutes-written", 9), ("minutes-deleted", 1)],
        [("accounts-written", 1), ("accounts-written", 6), ("accounts-deleted", 1)],
        [("dedupe-resume", 5), ("window-resume", 5), ("bill-resume", 5), ("wallets-resume", 5)],
    ],
    ids=lambda kills: "+".join(place for place, _ in kills),
)
def test_a_kill_there_costs_nothing(scene: Scene, kills: list[tuple[str, int]]) -> None:
    for place, count in kills:
        scene.write()
        scene.die(place, count)
    scene.load.flush()
    scene.finish()
