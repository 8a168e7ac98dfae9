"""What the requests act on: topics, committed offsets, and the address that clients are told."""

from dataclasses import dataclass, field
from pathlib import Path

from dataflows.embedded.kafka_log import LogConfig
from dataflows.embedded.kafka_offsets import Offsets
from dataflows.embedded.kafka_topics import Topics

NODE_ID = 1


@dataclass(frozen=True)
class BrokerConfig:
    """Where the broker's data is, and what a topic gets that doesn't say otherwise."""

    directory: Path
    partitions: int = 1
    auto_create: bool = False
    log: LogConfig = field(default_factory=LogConfig)


class Broker:
    """One node, which leads every partition and coordinates every group."""

    def __init__(self, config: BrokerConfig) -> None:
        self.config = config
        self.host = ""
        self.port = 0
        self.topics = Topics(config.directory, config.log, config.partitions)
        self.offsets = Offsets(config.directory / "offsets.jsonl")

    def open(self) -> None:
        self.topics.open()
        self.offsets.open()

    def close(self) -> None:
        self.topics.close()
        self.offsets.close()
