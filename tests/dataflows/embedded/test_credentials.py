"""A directory has one password, whoever asks first."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataflows.embedded.credentials import password


def test_processes_that_start_at_once_agree_on_one_password(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = {each.result() for each in [pool.submit(password, tmp_path / "new") for _ in range(64)]}
    assert len(found) == 1
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["password"]


def test_every_directory_and_name_has_its_own(tmp_path: Path) -> None:
    assert len({password(tmp_path / place, name) for place in "ab" for name in "xy"}) == 4
