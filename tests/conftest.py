"""Fixtures that any test may ask for."""

from tests.kafka_brokers import kafka_broker

__all__ = ["kafka_broker"]
