"""The embedded broker as a process: killed, stopped, orphaned, and asked for what it doesn't have."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition

from dataflows.embedded import Kafka
from dataflows.embedded.kafka_server import Limits
from tests.dataflows.embedded.kafka_clients import (
    TIMEOUT_S,
    admin,
    code_of,
    consume,
    consuming,
    error_of,
    new_topic,
    produce_values,
    producing,
    reported,
    take,
    watermarks,
)
from tests.dataflows.embedded.test_kafka_batch import batch

UNSUPPORTED_VERSION = 35
API_VERSIONS, PRODUCE, JOIN_GROUP, DESCRIBE_CLUSTER = 18, 0, 11, 60


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    with Kafka(tmp_path_factory.mktemp("kafka")) as process:
        yield process


class RawClient:
    """Requests as bytes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)

    def send(self, api_key: int, version: int, body: bytes) -> None:
        head = struct.pack(">hhih", api_key, version, 77, -1)
        self.socket.sendall(struct.pack(">i", len(head) + len(body)) + head + body)

    def receive(self) -> bytes:
        """A response after its correlation id; nothing if the broker closed the connection."""
        with self.socket.makefile("rb") as file:
            head = file.read(8)
            if not head:
                return b""
            size, correlation_id = struct.unpack(">ii", head)
            assert correlation_id == 77
            return file.read(size - 4)

    def call(self, api_key: int, version: int, body: bytes = b"") -> bytes:
        self.send(api_key, version, body)
        return self.receive()


@contextmanager
def raw_client(kafka: Kafka) -> Iterator[RawClient]:
    client = RawClient(kafka.port)
    with client.socket:
        yield client


def produce_body(topic: str, records: bytes) -> bytes:
    name = topic.encode()
    partition = struct.pack(">ii", 0, len(records)) + records
    return struct.pack(">hhiih", -1, 1, 1000, 1, len(name)) + name + struct.pack(">i", 1) + partition


def produced(response: bytes, topic: str) -> tuple[int, int]:
    """(error code, base offset)"""
    code, base_offset = struct.unpack_from(">hq", response, 4 + 2 + len(topic) + 4 + 4)
    return code, base_offset


def test_kill_9_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[bytes] = []

    def report(error: KafkaError | None, message: Message) -> None:
        value = message.value()
        if error is None and value is not None:
            acknowledged.append(value)

    with Kafka(tmp_path) as kafka:
        topic = new_topic(kafka.address)
        options = {"enable.idempotence": True, "linger.ms": 1, "batch.num.messages": 50, "log_level": 0}
        reconnect = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 100, "retry.backoff.ms": 20}
        producer = Producer({"bootstrap.servers": kafka.address, **options, **reconnect})
        stopped = threading.Event()

        def load() -> None:
            sequence = 0
            while not stopped.is_set():
                producer.produce(topic, b"%d" % sequence, partition=0, on_delivery=report)
                sequence += 1
                if sequence % 20 == 0:
                    producer.poll(0.001)

        loader = threading.Thread(target=load)
        loader.start()
        for _ in range(4):
            time.sleep(0.3)
            kafka.kill()
            kafka.start()
        stopped.set()
        loader.join()
        assert producer.flush(TIMEOUT_S) == 0
        low, high = watermarks(kafka.address, topic)
        stored = [message.value() for message in consume(kafka.address, topic, high - low)]
    assert len(acknowledged) > 1000
    assert stored == acknowledged, "each once and in order"


def test_topics_configs_and_commits_survive_kill_9(tmp_path: Path) -> None:
    with Kafka(tmp_path) as kafka:
        topic = new_topic(kafka.address, partitions=3, message_timestamp_type="CreateTime")
        cluster_id = admin(kafka.address).list_topics(timeout=TIMEOUT_S).cluster_id
        with consuming(kafka.address, group_id="g") as consumer:
            consumer.commit(offsets=[TopicPartition(topic, 2, 42)], asynchronous=False)
        kafka.kill()
        kafka.start()
        with consuming(kafka.address, group_id="g") as consumer:
            assert consumer.committed([TopicPartition(topic, 2)], TIMEOUT_S)[0].offset == 42
            metadata = consumer.list_topics(topic, TIMEOUT_S)
            assert len(metadata.topics[topic].partitions) == 3
            assert metadata.cluster_id == cluster_id
        produce_values(kafka.address, topic, [b"v"])
        assert consume(kafka.address, topic, 1)[0].timestamp()[0] == 1


def test_a_broker_that_hung_goes_on(kafka: Kafka) -> None:
    topic = new_topic(kafka.address)
    with consuming(kafka.address) as consumer, producing(kafka.address) as producer:
        consumer.assign([TopicPartition(topic, 0, 0)])
        producer.produce(topic, b"before")
        assert take(consumer, 1)[0].value() == b"before"
        os.kill(kafka.pid, signal.SIGSTOP)
        try:
            producer.produce(topic, b"meanwhile")
            time.sleep(2)
        finally:
            os.kill(kafka.pid, signal.SIGCONT)
        assert take(consumer, 1)[0].value() == b"meanwhile"


def test_an_unsupported_version_is_answered(kafka: Kafka) -> None:
    with raw_client(kafka) as client:
        assert struct.unpack_from(">h", client.call(API_VERSIONS, 99)) == (UNSUPPORTED_VERSION,)
        # Throttle time, then the error, after the flexible header's byte where the version has one.
        assert struct.unpack_from(">ih", client.call(JOIN_GROUP, 5)) == (0, UNSUPPORTED_VERSION)
        assert struct.unpack_from(">h", client.call(JOIN_GROUP, 1)) == (UNSUPPORTED_VERSION,)
        assert struct.unpack_from(">bih", client.call(JOIN_GROUP, 9)) == (0, 0, UNSUPPORTED_VERSION)
        assert struct.unpack_from(">bih", client.call(DESCRIBE_CLUSTER, 0)) == (0, 0, UNSUPPORTED_VERSION)
        assert struct.unpack_from(">h", client.call(API_VERSIONS, 0)) == (0,), "the connection lives"


def test_transactions_are_refused_at_once(kafka: Kafka) -> None:
    producer = Producer({"bootstrap.servers": kafka.address, "transactional.id": "t", "log_level": 0})
    with pytest.raises(KafkaException) as raised:
        producer.init_transactions(TIMEOUT_S)
    assert code_of(raised.value) == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED


def test_a_sequence_gap_is_refused_and_a_retry_is_not_stored(kafka: Kafka) -> None:
    topic = new_topic(kafka.address)
    with raw_client(kafka) as client:

        def send(sequence: int) -> tuple[int, int]:
            body = produce_body(topic, batch(b"body", producer=(123_456, 0, sequence)))
            return produced(client.call(PRODUCE, 7, body), topic)

        assert [send(sequence) for sequence in (0, 1, 1, 3, 2)] == [(0, 0), (0, 1), (0, 1), (45, -1), (0, 2)]


@pytest.mark.parametrize("size_bytes", [2_000_000, Limits.request_bytes_max + 1_000_000])
def test_a_message_too_large_is_refused_by_its_topic_or_as_a_request(kafka: Kafka, size_bytes: int) -> None:
    topic = new_topic(kafka.address)
    codes: list[int] = []
    with producing(kafka.address, message_max_bytes=100_000_000) as producer:
        producer.produce(topic, os.urandom(size_bytes), on_delivery=reported(codes))
        assert producer.flush(TIMEOUT_S) == 0
        assert codes == [KafkaError.MSG_SIZE_TOO_LARGE]
        producer.produce(topic, b"small")
    assert watermarks(kafka.address, topic) == (0, 1)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">i", -5),
        struct.pack(">i", 2**31 - 1) + bytes(5000),
        struct.pack(">ihhih", 10, PRODUCE, 7, 77, -1),
        struct.pack(">ihhihhhii", 22, PRODUCE, 7, 77, -1, -1, 1, 1000, 2**31 - 1),
    ],
    ids=["negative", "huge", "short", "count beyond the request"],
)
def test_nonsense_ends_its_connection_only(kafka: Kafka, data: bytes) -> None:
    with raw_client(kafka) as other, raw_client(kafka) as client:
        client.socket.sendall(data)
        assert client.receive() == b""
        assert struct.unpack_from(">h", other.call(API_VERSIONS, 0)) == (0,)


def test_connections_over_the_limit_wait(kafka: Kafka) -> None:
    clients = [RawClient(kafka.port) for _ in range(Limits.connections_max + 20)]
    try:
        clients[-1].send(API_VERSIONS, 0, b"")
        clients[-1].socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            clients[-1].socket.recv(1)
        for client in clients[:50]:
            client.socket.close()
        clients[-1].socket.settimeout(TIMEOUT_S)
        assert struct.unpack_from(">h", clients[-1].receive()) == (0,)
    finally:
        for client in clients:
            client.socket.close()


def test_retention_is_applied_while_it_runs(kafka: Kafka) -> None:
    topic = new_topic(kafka.address, retention_ms="500", segment_bytes="2000")
    produce_values(kafka.address, topic, [b"v"] * 10)
    deadline = time.monotonic() + TIMEOUT_S
    while watermarks(kafka.address, topic) != (10, 10) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert watermarks(kafka.address, topic) == (10, 10)
    with consuming(kafka.address) as consumer:
        consumer.assign([TopicPartition(topic, 0, 3)])
        assert error_of(take(consumer, 1)[0]).code() == KafkaError._AUTO_OFFSET_RESET


def broker_command(directory: Path, *options: str) -> list[str]:
    module = [sys.executable, "-m", "dataflows.embedded.kafka"]
    return [*module, "--directory", str(directory), "--port", "0", *options]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_quietly(tmp_path: Path, number: signal.Signals) -> None:
    command = broker_command(tmp_path)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port)):
            process.send_signal(number)
            output, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, output, errors) == (0, "", "")


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """The parent is a process that starts the broker, tells its address, and is killed."""
    starter = "import subprocess, sys; subprocess.Popen(sys.argv[1:]).wait()"
    command = [sys.executable, "-c", starter, *broker_command(tmp_path, "--exit-with-parent")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline().startswith("127.0.0.1:")
        parent.kill()
        assert parent.stdout.read() == "", "read to its end: the broker, which has it too, is gone"


def test_a_directory_has_one_broker(kafka: Kafka) -> None:
    second = subprocess.run(broker_command(kafka.directory), capture_output=True, text=True, check=False)
    assert second.returncode != 0
    assert "in use by another broker" in second.stderr


def test_topics_are_made_by_naming_them_only_if_that_is_allowed(tmp_path: Path) -> None:
    command = broker_command(tmp_path, "--auto-create", "--partitions", "3")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        produce_values(address, "named", [b"v"])
        assert len(admin(address).list_topics(timeout=TIMEOUT_S).topics["named"].partitions) == 3
        process.terminate()
