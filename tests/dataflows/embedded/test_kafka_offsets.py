"""Committed offsets on disk."""

from pathlib import Path

import pytest

from dataflows.embedded import kafka_offsets
from dataflows.embedded.kafka_offsets import METADATA_BYTES_MAX, Commit, Offsets
from dataflows.embedded.kafka_wire import ErrorCode, RefusedError


def opened(path: Path) -> Offsets:
    offsets = Offsets(path)
    offsets.open()
    return offsets


def test_a_commit_is_on_disk_when_it_is_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "offsets.jsonl"
    opened(path).commit("g", [Commit("t", 0, 5, "é"), Commit("t", 1, 6, "")])  # and never closed: a kill
    again = opened(path)
    assert again.committed("g", "t", 0) == Commit("t", 0, 5, "é")
    assert again.of_group("g") == {"t": [0, 1]}


def test_a_torn_line_is_a_commit_that_was_not_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "offsets.jsonl"
    offsets = opened(path)
    offsets.commit("g", [Commit("t", 0, 5, "")])
    offsets.commit("g", [Commit("t", 0, 6, "")])
    path.write_bytes(path.read_bytes()[:-9])
    again = opened(path)
    assert again.committed("g", "t", 0) == Commit("t", 0, 5, "")
    again.commit("g", [Commit("t", 0, 7, "")])
    assert opened(path).committed("g", "t", 0) == Commit("t", 0, 7, "")


def test_the_file_is_rewritten_before_it_grows_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_offsets, "_REWRITE_LINES_MIN", 20)
    path = tmp_path / "offsets.jsonl"
    offsets = opened(path)
    for offset in range(1000):
        offsets.commit("g", [Commit("t", offset % 2, offset, "")])
        assert len(path.read_bytes().splitlines()) <= 21
    assert opened(path).of_group("g") == {"t": [0, 1]}
    assert opened(path).committed("g", "t", 1) == Commit("t", 1, 999, "")


def test_a_deleted_topic_or_group_takes_its_offsets_along(tmp_path: Path) -> None:
    path = tmp_path / "offsets.jsonl"
    offsets = opened(path)
    offsets.commit("g", [Commit("t", 0, 5, ""), Commit("u", 0, 6, "")])
    offsets.commit("h", [Commit("u", 0, 6, "")])
    offsets.forget_topic("t")
    offsets.forget_group("h")
    for seen in (offsets, opened(path)):
        assert (seen.groups(), seen.of_group("g")) == (["g"], {"u": [0]})
    with pytest.raises(RefusedError) as raised:
        offsets.forget_group("h")
    assert raised.value.code is ErrorCode.GROUP_ID_NOT_FOUND


def test_limits_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offsets = opened(tmp_path / "offsets.jsonl")
    with pytest.raises(RefusedError) as raised:
        offsets.check("g", Commit("t", 0, 5, "x" * (METADATA_BYTES_MAX + 1)))
    assert raised.value.code is ErrorCode.OFFSET_METADATA_TOO_LARGE
    monkeypatch.setattr(kafka_offsets, "OFFSETS_MAX", 1)
    offsets.commit("g", [Commit("t", 0, 5, "")])
    offsets.check("g", Commit("t", 0, 6, ""))
    with pytest.raises(RefusedError):
        offsets.check("g", Commit("t", 1, 6, ""))
