"""The log of one partition on disk: restarts, torn tails, sequences, retention, times."""

import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflows.embedded.kafka_batch import has_right_crc, read_header
from dataflows.embedded.kafka_log import LogConfig, PartitionLog
from dataflows.embedded.kafka_producers import BATCHES_REMEMBERED, PRODUCERS_MAX
from dataflows.embedded.kafka_wire import ErrorCode, RefusedError
from tests.dataflows.embedded.test_kafka_batch import START_MS, batch

NOW_MS = START_MS + 1_000_000
SMALL = LogConfig(segment_bytes=300)  # two or three batches a segment


def opened(directory: Path, config: LogConfig = SMALL) -> PartitionLog:
    log = PartitionLog(directory, config)
    log.open()
    return log


def sent(
    body: bytes = b"body", *, records: int = 1, producer: tuple[int, int, int] = (-1, -1, -1)
) -> memoryview:
    return memoryview(batch(body, records=records, producer=producer))


def offsets(log: PartitionLog) -> list[tuple[int, int]]:
    """(base offset, next offset) of every batch, read as a consumer would; every CRC must be right."""
    found, offset = [], log.start_offset
    while offset < log.end_offset:
        data = log.read(offset, bytes_max=1)
        header = read_header(data)
        assert len(data) == header.size_bytes
        assert has_right_crc(data)
        found.append((header.base_offset, header.next_offset))
        offset = header.next_offset
    return found


def code_of_append(log: PartitionLog, records: memoryview) -> ErrorCode:
    try:
        log.append(records, NOW_MS)
    except RefusedError as error:
        return error.code
    return ErrorCode.NONE


def last_file(directory: Path) -> Path:
    return max(directory.glob("*.log"))


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=30), bytes_max=st.integers(1, 1000))
def test_what_was_appended_is_read_back_after_a_restart(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], bytes_max: int
) -> None:
    directory = tmp_path_factory.mktemp("log")
    log = opened(directory)
    for count in counts:
        log.append(sent(b"x" * count, records=count), NOW_MS)
    for _ in range(2):
        ends = [sum(counts[: index + 1]) for index in range(len(counts))]
        assert offsets(log) == list(zip([0, *ends], ends, strict=False))
        for offset in range(log.end_offset):
            header = read_header(log.read(offset, bytes_max))
            assert header.base_offset <= offset < header.next_offset
        log.close()
        log = opened(directory)
    log.close()


@pytest.mark.parametrize("lost_bytes", [1, 30, 64])
def test_a_torn_tail_is_cut_off(tmp_path: Path, lost_bytes: int) -> None:
    log = opened(tmp_path, LogConfig())
    for _ in range(3):
        log.append(sent(producer=(7, 0, log.end_offset)), NOW_MS)
    log.close()
    with last_file(tmp_path).open("r+b") as file:
        file.truncate(last_file(tmp_path).stat().st_size - lost_bytes)
    log = opened(tmp_path, LogConfig())
    assert offsets(log) == [(0, 1), (1, 2)]
    # The producer's retry of what was lost is not taken for a duplicate.
    assert log.append(sent(producer=(7, 0, 2)), NOW_MS).base_offset == 2
    assert log.end_offset == 3
    log.close()


def test_a_tail_of_zeros_or_garbage_is_cut_off(tmp_path: Path) -> None:
    for tail in (bytes(500), b"garbage" * 100):
        log = opened(tmp_path, LogConfig())
        log.append(sent(), NOW_MS)
        end_offset = log.end_offset
        log.close()
        with last_file(tmp_path).open("ab") as file:
            file.write(tail)
        log = opened(tmp_path, LogConfig())
        assert log.end_offset == end_offset
        log.close()


def test_a_last_batch_with_a_wrong_crc_is_cut_off(tmp_path: Path) -> None:
    log = opened(tmp_path, LogConfig())
    log.append(sent(), NOW_MS)
    log.append(sent(), NOW_MS)
    log.close()
    data = bytearray(last_file(tmp_path).read_bytes())
    data[-1] ^= 1
    last_file(tmp_path).write_bytes(data)
    log = opened(tmp_path, LogConfig())
    assert offsets(log) == [(0, 1)]
    log.close()


def test_a_full_disk_refuses_the_batch_and_keeps_the_log_whole(tmp_path: Path) -> None:
    log = opened(tmp_path, LogConfig())
    log.append(sent(), NOW_MS)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.size_bytes + 30, unlimited[1]))  # half a batch fits
    try:
        code = code_of_append(log, sent())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert code is ErrorCode.KAFKA_STORAGE_ERROR
    assert last_file(tmp_path).stat().st_size == log.size_bytes
    assert log.append(sent(), NOW_MS).base_offset == 1
    assert offsets(log) == [(0, 1), (1, 2)]
    log.close()


def test_append_times_go_on_when_the_clock_goes_back(tmp_path: Path) -> None:
    log = opened(tmp_path)
    times_ms = [log.append(sent(), now_ms).timestamp_ms for now_ms in (NOW_MS, NOW_MS - 5000, NOW_MS + 1)]
    log.close()
    log = opened(tmp_path)
    times_ms.append(log.append(sent(), NOW_MS - 7000).timestamp_ms)
    log.close()
    assert times_ms == [NOW_MS, NOW_MS, NOW_MS + 1, NOW_MS + 1]


@pytest.mark.parametrize("restarted", [False, True])
def test_sequences_of_an_idempotent_producer(tmp_path: Path, restarted: bool) -> None:
    log = opened(tmp_path)
    for sequence in range(0, 20, 2):
        log.append(sent(records=2, producer=(7, 1, sequence)), NOW_MS)
    if restarted:
        log.close()
        log = opened(tmp_path)
    assert log.append(sent(records=2, producer=(7, 1, 18)), NOW_MS).base_offset == 18, "a retry"
    assert log.append(sent(records=2, producer=(7, 1, 20 - 2 * BATCHES_REMEMBERED)), NOW_MS).base_offset == 10
    assert log.end_offset == 20, "retries are not stored"
    assert code_of_append(log, sent(producer=(7, 1, 22))) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, "a gap"
    assert code_of_append(log, sent(producer=(7, 1, 0))) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER, "too old"
    assert code_of_append(log, sent(producer=(7, 0, 20))) is ErrorCode.INVALID_PRODUCER_EPOCH
    assert code_of_append(log, sent(producer=(7, 2, 1))) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert code_of_append(log, sent(producer=(7, 2, 0))) is ErrorCode.NONE, "a new epoch begins at 0"
    assert code_of_append(log, sent(producer=(8, 0, 5))) is ErrorCode.NONE, "unknown: may begin anywhere"
    assert log.end_offset == 22
    log.close()


def test_sequences_wrap(tmp_path: Path) -> None:
    log = opened(tmp_path)
    log.append(sent(records=3, producer=(7, 0, 2**31 - 2)), NOW_MS)
    assert code_of_append(log, sent(producer=(7, 0, 2))) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert code_of_append(log, sent(producer=(7, 0, 1))) is ErrorCode.NONE
    log.close()


def test_the_producer_that_wrote_longest_ago_is_forgotten(tmp_path: Path) -> None:
    log = opened(tmp_path, LogConfig())
    for producer_id in range(PRODUCERS_MAX + 1):
        log.append(sent(producer=(producer_id, 0, 0)), NOW_MS)
    assert code_of_append(log, sent(producer=(1, 0, 5))) is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert code_of_append(log, sent(producer=(0, 0, 5))) is ErrorCode.NONE
    log.close()


def test_retention_by_time_drops_whole_segments_and_the_last_one_too(tmp_path: Path) -> None:
    log = opened(tmp_path, LogConfig(segment_bytes=300, retention_ms=1000))
    for index in range(10):
        log.append(sent(bytes(80)), NOW_MS + index * 100)
    log.retain(NOW_MS + 1000)
    assert log.start_offset == 0, "nothing is older than a second"
    log.retain(NOW_MS + 1250)
    assert log.start_offset == 2
    log.retain(NOW_MS + 10_000)
    assert (log.start_offset, log.end_offset, log.size_bytes) == (10, 10, 0)
    assert log.append(sent(), NOW_MS + 10_000).base_offset == 10
    log.close()
    log = opened(tmp_path)
    assert (log.start_offset, log.end_offset) == (10, 11)
    log.close()


def test_retention_by_size_keeps_at_least_that_much(tmp_path: Path) -> None:
    log = opened(tmp_path, LogConfig(segment_bytes=300, retention_bytes=500))
    for _ in range(20):
        log.append(sent(bytes(39)), NOW_MS)
    log.retain(NOW_MS)
    assert 500 <= log.size_bytes < 800
    assert len(list(tmp_path.glob("*.log"))) == 2
    assert log.start_offset > 0
    with pytest.raises(RefusedError) as raised:
        log.bytes_from(log.start_offset - 1)
    assert raised.value.code is ErrorCode.OFFSET_OUT_OF_RANGE
    log.close()


def test_deleted_records_stay_deleted(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for _ in range(20):
        log.append(sent(), NOW_MS)
    files = len(list(tmp_path.glob("*.log")))
    assert log.delete_before(15) == 15
    assert len(list(tmp_path.glob("*.log"))) < files
    log.close()
    log = opened(tmp_path)
    assert (log.start_offset, log.end_offset) == (15, 20)
    assert log.delete_before(3) == 15, "the start never goes back"
    log.close()


def test_a_time_is_found_only_among_what_is_kept(tmp_path: Path) -> None:
    log = opened(tmp_path)
    for index in range(20):
        log.append(sent(), NOW_MS + index * 10)
    assert log.offset_for_time(NOW_MS + 55) == (6, NOW_MS + 60)
    assert log.offset_for_time(NOW_MS + 191) is None
    log.delete_before(13)
    assert log.offset_for_time(NOW_MS) == (13, NOW_MS + 130)
    assert log.latest_time() == (19, NOW_MS + 190)
    with pytest.raises(RefusedError):
        log.delete_before(-2)
    log.delete_before(-1)
    assert log.offset_for_time(NOW_MS) is None
    assert log.latest_time() is None
    log.close()
