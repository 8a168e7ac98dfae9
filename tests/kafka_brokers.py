"""Kafka brokers for tests: the embedded one, and Apache Kafka in KRaft mode where Java and Maven are there.

    def test_x(kafka_broker: KafkaBroker)      runs once against each; `.bootstrap`, `.kind`

A test that holds on both holds the embedded broker to real behaviour. Apache Kafka's jars come from Maven
into the git-ignored `.kafka/`, once. Each broker runs once a session, on free ports and an empty directory,
and ends with pytest, however that ends (dataflows/embedded/leash.py).
"""

import base64
import fcntl
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataflows.embedded import EngineProcess, Kafka
from dataflows.embedded.processes import free_port

KINDS = ("embedded", "apache")
JAVA_VERSION_MIN = 17
POM = Path(__file__).parent / "kafka" / "pom.xml"
LOGGING = POM.with_name("log4j2.properties")
JARS = POM.parents[2] / ".kafka"
DOWNLOAD_TIMEOUT_S = 300.0

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={directory}/data
num.partitions=1
auto.create.topics.enable=false
log.message.timestamp.type=LogAppendTime
log.retention.check.interval.ms=1000
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"""


@dataclass(frozen=True)
class KafkaBroker:
    """A running broker. New topics stamp append times by default; none is made by naming it."""

    kind: str
    bootstrap: str


@pytest.fixture(scope="session", params=KINDS)
def kafka_broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KafkaBroker]:
    """Each broker in turn. Apache Kafka is skipped, with the reason, where it can't run."""
    kind: str = request.param
    directory = tmp_path_factory.mktemp(f"kafka-{kind}")
    with apache_kafka(directory) if kind == "apache" else Kafka(directory) as process:
        yield KafkaBroker(kind, process.address)


def apache_kafka(directory: Path) -> EngineProcess:
    """Apache Kafka, not running yet. Skips the test if Java, Maven or the jars can't be had."""
    class_path = f"{_jars()}/*"
    controller_port = free_port()

    def command(port: int) -> Sequence[str]:
        properties = directory / "server.properties"
        properties.write_text(
            _PROPERTIES.format(directory=directory, port=port, controller_port=controller_port)
        )
        cluster_id = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        storage_tool = ["java", "-cp", class_path, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
        subprocess.run(
            [*storage_tool, "-t", cluster_id, "-c", str(properties)], check=True, stdout=subprocess.DEVNULL
        )
        # A small heap and the quick compiler: tests are short.
        options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        logging = f"-Dlog4j2.configurationFile={LOGGING}"
        return ["java", *options, logging, "-cp", class_path, "kafka.Kafka", str(properties)]

    return EngineProcess("apache-kafka", directory, 0, command, ready=re.compile("Kafka Server started"))


def _jars() -> Path:
    """The directory with Apache Kafka's jars, filled by Maven the first time."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("Apache Kafka needs Java on the PATH")
    printed = subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr
    version = re.search(r'version "(\d+)', printed)
    if version is None or int(version[1]) < JAVA_VERSION_MIN:
        pytest.skip(f"Apache Kafka needs Java {JAVA_VERSION_MIN}, this is {printed.splitlines()[0]}")
    kafka_version = re.search("<kafka.version>(.+)</kafka.version>", POM.read_text())
    assert kafka_version is not None
    jars = JARS / kafka_version[1]
    if jars.exists():
        return jars
    maven = shutil.which("mvn")
    if maven is None:
        pytest.skip(f"Apache Kafka's jars are not in {jars}, and Maven is not on the PATH")
    JARS.mkdir(exist_ok=True)
    with (JARS / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another pytest may be at it
        if not jars.exists():
            _download(maven, jars)
    return jars


def _download(maven: str, jars: Path) -> None:
    new = jars.with_suffix(".new")
    arguments = ["dependency:copy-dependencies", f"-DoutputDirectory={new}", "-DincludeScope=runtime"]
    try:
        subprocess.run(
            [maven, "--quiet", "--batch-mode", "--file", str(POM), *arguments],
            check=True,
            capture_output=True,
            timeout=DOWNLOAD_TIMEOUT_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Maven could not get Apache Kafka's jars: {error}")
    new.rename(jars)
